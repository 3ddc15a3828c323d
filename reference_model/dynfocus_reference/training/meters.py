"""How fast a run goes, over all its processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dynfocus_reference.model import ReferenceModel


class Meters:
    """What this process has done since the last line of the log."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new line begins."""
        self.tokens, self.frames, self.waited, self.since = 0, 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever waits for data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def count(self, batch: dict[str, Any], model: ReferenceModel) -> None:
        """Frames of a batch, and tokens that the language model reads: text without padding, and visual ones."""
        self.tokens += int((batch["attention_mask"].bool() & (batch["input_ids"] >= 0)).sum())
        if "frames" not in batch:
            return
        self.frames += len(batch["frames"])
        lengths = batch["clip_lengths"][batch["clip_index"]].tolist()
        self.tokens += sum(model.connector.num_tokens(length, model.vision.num_patches) for length in lengths)

    def line(self, skipped: int, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Tokens and frames per second and skipped samples of the whole run; the mean share of time spent waiting.

        Args:
            skipped: Samples of this process.
            total: Sums a tensor over all processes; all of them call this.
        """
        elapsed = max(time.monotonic() - self.since, 1e-9)
        mine = [self.tokens / elapsed, self.frames / elapsed, self.waited / elapsed, skipped, 1]
        tokens, frames, waited, bad, processes = total(torch.tensor(mine, dtype=torch.float64)).tolist()
        self.reset()
        return {
            "tokens_per_second": round(tokens, 1),
            "frames_per_second": round(frames, 1),
            "data_wait_share": round(waited / processes, 3),
            "skipped_samples": int(bad),
        }
