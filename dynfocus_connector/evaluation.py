"""Whether a connector runs as in training or as in evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def deterministic(connector: nn.Module) -> Iterator[None]:
    """A connector without parameters has nothing to train: it runs in evaluation, whatever its flag."""
    if not connector.training or next(connector.parameters(), None) is not None:
        yield
        return
    connector.eval()
    try:
        yield
    finally:
        connector.train()
