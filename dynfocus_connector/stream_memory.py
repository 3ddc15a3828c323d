"""What a stream remembers: a fixed number of frames, each standing for a stretch of the stream."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dynfocus_connector.choices import DistanceScale
from dynfocus_connector.merging import SpatialMerging
from dynfocus_connector.peaks import DensityPeaks
from dynfocus_connector.stream_peaks import (
    direct_distances,
    heirs,
    k_smallest,
    peaks_of_held,
    separation_and_density,
)

FRAMES_PER_COMPARISON = 16
"""New frames compared at a time: one by one, the held ones would be read anew for each."""
FRAMES_PER_MOVE = 64
"""Frames copied at a time when the kept ones close ranks."""


class HeldFrames(NamedTuple):
    """Frames and what does not change about them, whatever is asked."""

    patches: Float[Tensor, "frames patches dim"]
    pooled: Float[Tensor, "frames pooled dim"]
    objects: Float[Tensor, "frames rows dim"]
    """G_t"""
    center: Int[Tensor, "frames rows"]
    log_density: Float[Tensor, "frames rows"]
    content: Float[Tensor, "frames dim"]
    """the sum of the content rows of all frames that this one stands for, of those without damage"""
    undamaged: Float[Tensor, " frames"]
    """how many those are"""

    def spatial(self) -> SpatialMerging:
        """Peaks and densities of the rows of G_t, as a batch of one; the patches' own labels are not remembered."""
        none = self.center.new_zeros(1, len(self.center), 0, 0)
        return SpatialMerging(none, none.to(self.log_density.dtype), self.center[None], self.log_density[None])

    def mean_content(self) -> Float[Tensor, "frames dim"]:
        """The content rows: each the mean over the frames that one stands for."""
        return (self.content / self.undamaged.clamp(min=1)[:, None]).to(self.patches.dtype)


class StreamMemory:
    """At most `max_frames` frames. Where no further one fits, the quarter of smallest δ leaves.

    A frame of small δ has a denser one that nearly equals it: the peaks stay, and so does a short event far from
    everything. A frame that stays remembers the distances of its nearest neighbours, and with them its density, though
    these may have left. It stands for a stretch of the stream, which grows when neighbours in time leave; the
    stretches tile the stream.

    Tensors are allocated once, at the first frame. Copy it with `copy.deepcopy`, keep it with `pickle`.

    Args:
        max_frames: The bound.
        num_neighbors: k of the temporal density.
    """

    def __init__(self, max_frames: int, num_neighbors: int) -> None:
        self.max_frames = max_frames
        self.num_neighbors = num_neighbors
        self.num_seen = 0
        self.num_held = 0
        self.num_compared = 0
        self.frames: HeldFrames | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every frame of the stream is held."""
        return self.num_seen == self.num_held

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors; the same from the first frame on."""
        tensors = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in (*tensors, *(self.frames or ())))

    def make_room(self) -> int:
        """How many frames can be appended; at least 1, because some leave where there is no room."""
        if self.num_held == self.max_frames:
            self._thin(self.max_frames - self.num_leaving(self.max_frames))
        return self.max_frames - self.num_held

    @staticmethod
    def num_leaving(max_frames: int) -> int:
        """Frames that leave when no further one fits."""
        return max(max_frames // 4, 1)

    def append(self, frames: HeldFrames) -> None:
        """Hold these frames; there must be room."""
        if self.frames is None:
            self._allocate(frames)
        start, end = self.num_held, self.num_held + len(frames.patches)
        assert self.frames is not None
        assert end <= self.max_frames
        for buffer, values in zip(self.frames, frames, strict=True):
            buffer[start:end] = values
        self.index[start:end] = torch.arange(end - start, device=self.index.device) + self.num_seen
        self.first[start:end] = self.index[start:end]
        self.num_held, self.num_seen = end, self.num_seen + end - start
        if self.num_held - self.num_compared >= FRAMES_PER_COMPARISON:
            self._compare()

    def held(self) -> HeldFrames:
        """The frames held, in time order."""
        assert self.frames is not None
        return HeldFrames(*(values[: self.num_held] for values in self.frames))

    def spans(self) -> Int[Tensor, "held 2"]:
        """First and last frame of the stretch that each held frame stands for."""
        first = self.first[: self.num_held]
        return torch.stack([first, torch.cat([first[1:], first.new_tensor([self.num_seen])]) - 1], dim=1)

    def stands_for(self) -> Int[Tensor, " held"]:
        """How many frames that is."""
        first, last = self.spans().unbind(1)
        return last - first + 1

    def peaks(self, place: Int[Tensor, " some"], num_clusters: int, distance_scale: DistanceScale) -> DensityPeaks:
        """Density peaks of the stream among some of the frames held."""
        self._compare()
        distance, neighbors = self.distance[place[:, None], place], self.neighbors[place]
        dtype = torch.promote_types(self.held().pooled.dtype, torch.float32)
        return peaks_of_held(distance, neighbors, self.largest, num_clusters, distance_scale, dtype)

    def most_separate(self, count: int) -> Int[Tensor, " count"]:
        """The frames of largest δ, in time order."""
        self._compare()
        held = self.num_held
        separation, _ = separation_and_density(self.distance[:held, :held], self.neighbors[:held])
        return separation.argsort(descending=True, stable=True)[:count].sort().values

    def _allocate(self, frames: HeldFrames) -> None:
        size, device = self.max_frames, frames.patches.device
        self.frames = HeldFrames(*(values.new_zeros(size, *values.shape[1:]) for values in frames))
        self.index = torch.zeros(size, dtype=torch.long, device=device)
        self.first = torch.zeros_like(self.index)
        self.distance = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.neighbors = torch.zeros(size, self.num_neighbors, dtype=torch.float64, device=device)
        self.largest = torch.zeros((), dtype=torch.float64, device=device)

    def _compare(self) -> None:
        """Distances and neighbours of the frames that came since the last time."""
        old, held = self.num_compared, self.num_held
        if old == held:
            return
        points = self.held().pooled.flatten(1)
        new = direct_distances(points, points[old:])
        self.largest = torch.maximum(self.largest, new.masked_fill(new.isinf(), 0).amax())
        self.distance[:held, old:held] = new
        self.distance[old:held, :old] = new[:old].T
        known = torch.cat([self.neighbors[:old], new[:old]], dim=1)
        self.neighbors[:old] = k_smallest(known, self.num_neighbors)
        self.neighbors[old:held] = k_smallest(new.T, self.num_neighbors)
        self.num_compared = held

    def _thin(self, count: int) -> None:
        """Only the `count` most separate frames stay."""
        held = self.num_held
        kept = self.most_separate(count)
        keep = torch.zeros_like(self.index[:held], dtype=torch.bool).scatter(0, kept, True)
        heir = heirs(self.distance[:held, :held], keep)
        self.first[:count] = torch.full_like(kept, self.num_seen).scatter_reduce(0, heir, self.first[:held], "amin")
        self._inherit(heir, count)
        assert self.frames is not None
        for name, values in self.frames._asdict().items():
            if name not in ("content", "undamaged"):
                _close_ranks(values, kept)
        for values in (self.index, self.neighbors, self.distance):
            _close_ranks(values, kept)
        _close_ranks(self.distance.T, kept)
        self.num_held = self.num_compared = count

    def _inherit(self, heir: Int[Tensor, " held"], count: int) -> None:
        """Contents add up."""
        assert self.frames is not None
        content, undamaged = self.frames.content, self.frames.undamaged
        share = (heir == torch.arange(count, device=heir.device)[:, None]).to(content.dtype)
        content[:count] = share @ content[: self.num_held]
        undamaged[:count] = share @ undamaged[: self.num_held]


def _close_ranks(values: Shaped[Tensor, " held *rest"], kept: Int[Tensor, " kept"]) -> None:
    """Move the kept rows to the front, in place: they ascend, so none is overwritten before it has moved."""
    start = 0
    for rows in kept.split(FRAMES_PER_MOVE):
        values[start : start + len(rows)] = values[rows]
        start += len(rows)
