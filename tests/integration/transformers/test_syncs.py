"""Compressing asks the device for the same number of answers however many frames there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dynfocus_transformers import compress_batch
from dynfocus_transformers.adapters import HostAdapter, adapter_for
from dynfocus_transformers.settings import Settings
from tests.integration.transformers.connectors import training_free
from tests.integration.transformers.tiny import Tiny, Video, text

WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2")


class Waits(TorchDispatchMode):
    """Counts operations whose result the host waits for on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name().split(".")[0] in WAITS
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    waits = Waits()
    plain = torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> Any:
        waits.count += 1
        return plain(tensor)

    with monkeypatch.context() as patch, waits:
        patch.setattr(torch.Tensor, "tolist", tolist)
        yield waits


@pytest.mark.proves("waits for the device do not grow with the frames")
@torch.no_grad()
def test_waits(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr(HostAdapter, "positions", lambda self, batch: None)
    for frames in (6, 24):
        batch = tiny.batch([text(1, 3), Video(frames, 1), text(2, 6)])
        adapter = adapter_for(host)
        output = adapter.encode(batch)
        monkeypatch.setattr(adapter, "encode", lambda batch, output=output: output)
        with counted(monkeypatch) as waits:
            compress_batch(adapter, training_free(), batch, Settings(ratio=0.4))
        counts.append(waits.count)
    assert counts[0] == counts[1] <= 40
