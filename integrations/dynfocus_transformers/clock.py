"""How long `generate` takes until the language model starts to read, and how long it reads."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn


class PrefillClock:
    """Watches the first forward of a language model inside a block.

    Attributes:
        seconds_encode: From the start of the block to the first forward: vision tower, connector, splicing.
        seconds_prefill: That forward: the whole prompt.
    """

    def __init__(self, language_model: nn.Module) -> None:
        self.language_model = language_model
        self.seconds_encode = self.seconds_prefill = 0.0

    def __enter__(self) -> PrefillClock:
        self._done = False
        self._hooks = [
            self.language_model.register_forward_pre_hook(self._starts),
            self.language_model.register_forward_hook(self._ends),
        ]
        self._begun = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _starts(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._done:
            start = self._now()
            self.seconds_encode, self._begun = start - self._begun, start

    def _ends(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._done:
            self.seconds_prefill, self._done = self._now() - self._begun, True

    def _now(self) -> float:
        """Seconds, after everything that was asked of the GPU is done."""
        device = next(self.language_model.parameters()).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()
