"""Batches of one modality and similar length, in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """Which sample, in which epoch; workers learn the epoch by nothing else."""

    sample: int
    epoch: int


class GroupedSampler(Sampler[Draw]):
    """Every sample once per epoch; `batch_size` neighbours share a modality and, roughly, a length.

    What does not fill a batch of its modality comes last, mixed. The order depends on seed and epoch alone, so that a
    resumed run sees the same batches.

    Args:
        modality: Number of the modality of each sample.
        length: Rough length of each sample.
        batch_size: Samples of one forward over all ranks.
        seed: Of the order.
        window: How many batches are shuffled together before sorting by length.
    """

    def __init__(
        self,
        modality: Sequence[int] | np.ndarray,
        length: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        window: int = 50,
    ) -> None:
        if batch_size < 1 or len(modality) != len(length):
            raise ValueError(
                f"GroupedSampler: expected batch_size >= 1 and as many lengths as modalities, got {batch_size}, "
                f"{len(length)} and {len(modality)}."
            )
        self.modality, self.length = np.asarray(modality), np.asarray(length)
        self.batch_size, self.seed, self.window, self.epoch = batch_size, seed, window, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.modality)

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch
        random = np.random.default_rng([self.seed, epoch])
        batches: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for modality in np.unique(self.modality):
            members = random.permutation(np.flatnonzero(self.modality == modality))
            for start in range(0, len(members), self.batch_size * self.window):
                some = members[start : start + self.batch_size * self.window]
                some = some[np.argsort(self.length[some], kind="stable")]
                full = len(some) // self.batch_size * self.batch_size
                batches += np.split(some[:full], max(full // self.batch_size, 1)) if full else []
                rest.append(some[full:])
        order = random.permutation(len(batches))
        chosen = [batches[i] for i in order] + rest
        return (Draw(index, epoch) for rows in chosen for index in rows.tolist())
