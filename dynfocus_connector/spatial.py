"""Multi-grained spatial object prototypes G_t: the patches of each frame, clustered level after level (S-DPC)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynfocus_connector.choices import DistanceScale, MergeWeights, SpatialOrder
from dynfocus_connector.kernels import kernels_serve
from dynfocus_connector.merging import KnownSums, SpatialMerging, weighted_members
from dynfocus_connector.peaks import DensityPeaks, density_peaks
from dynfocus_connector.prototypes import member_weights

DISTANCES_PER_CHUNK = {"cpu": 2**19, "cuda": 2**24}
"""Distances between patches held at a time: bounds memory, and keeps a CPU in its cache (8 frames of 256 patches)."""

FEWEST_COLUMNS = 256
"""A patch takes the room of at least so many distances: its features are held too."""


class SpatialPrototypes(nn.Module):
    """Which patches form which object prototype.

    Level 1 clusters the patches of a frame, each further level the prototypes of the one before. No gradient flows
    through the clustering; it flows through `SpatialMerging.merge`, which builds G_t from the patches.

    **Source**: Sec. 3.3 (Eq. 1–5 within a frame), B.3. **Symbols**: `num_prototypes` are P_1 … P_S.
    **Deviations**: none for ``"by_level"``; ``"grouped"`` is the authors' code: each coarse prototype is followed by
    its fine members, and a learned softmax weights every group.

    Args:
        num_prototypes: Prototypes of each level, e.g. (16, 8).
        num_neighbors: k of each level's density; the last value serves further levels.
        merge_weights: As in `merge_prototypes`.
        distance_scale: As in `density_peaks`.
        order: Rows of G_t level by level, or grouped (exactly two levels).
        kernels: True or False for the Triton kernel or the plain code; None takes the kernel on a GPU with Triton,
            unless the environment says DYNFOCUS_KERNELS=0.
    """

    def __init__(
        self,
        num_prototypes: Sequence[int] = (16, 8),
        num_neighbors: Sequence[int] = (8, 3),
        *,
        merge_weights: MergeWeights = "importance",
        distance_scale: DistanceScale = 1.0,
        order: SpatialOrder = "by_level",
        kernels: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not num_prototypes or min(num_prototypes) < 1 or not num_neighbors:
            raise ValueError(
                f"SpatialPrototypes: expected at least 1 level of at least 1 prototype and neighbour, "
                f"got {tuple(num_prototypes)} and {tuple(num_neighbors)}."
            )
        if order == "grouped" and len(num_prototypes) != 2:
            raise ValueError(f"SpatialPrototypes: expected 2 levels for order='grouped', got {len(num_prototypes)}.")
        self.num_prototypes = tuple(num_prototypes)
        self.num_neighbors = tuple(num_neighbors)
        self.merge_weights = merge_weights
        self.distance_scale = distance_scale
        self.order = order
        self.kernels = kernels
        self.group_score = (
            nn.Linear(num_prototypes[1], num_prototypes[1], device=device, dtype=dtype) if order == "grouped" else None
        )

    def num_rows(self, num_patches: int) -> int:
        """Rows of G_t for frames of `num_patches` patches."""
        rows, total = num_patches, 0
        for count in self.num_prototypes:
            rows = min(count, rows)
            total += rows
        return total

    def forward(self, frames: Float[Tensor, "batch frames patches dim"]) -> SpatialMerging:
        """Rows and weights of every patch of every frame."""
        return self.cluster(frames)[0]

    def cluster(
        self, frames: Float[Tensor, "batch frames patches dim"]
    ) -> tuple[SpatialMerging, Float[Tensor, "batch frames rows dim"]]:
        """The same and G_t, which is what `SpatialMerging.merge` makes of these frames: a level from the one before."""
        levels = [_Level.of_patches(frames.flatten(0, 1))]
        for level in range(len(self.num_prototypes)):
            levels.append(self._next_level(levels[-1], level, frames.dtype))
        merging, objects = _all_levels(levels[1:], frames.shape[:2])
        if self.group_score is None:
            return merging, objects.to(frames.dtype)
        merging = self._grouped(merging, frames)
        return merging, merging.merge(frames)

    def _next_level(self, before: _Level, level: int, dtype: torch.dtype) -> _Level:
        """The clusters of the level before, seen in the dtype of the features."""
        points, mask = before.points.detach().to(dtype), before.center >= 0 if level else None
        count, neighbors = self.num_prototypes[level], self.num_neighbors[min(level, len(self.num_neighbors) - 1)]
        if not level and kernels_serve(points, count, neighbors, self.kernels):
            from dynfocus_connector.kernels.frame_peaks import frame_peaks

            options: dict[str, Any] = {"distance_scale": self.distance_scale, "merge_weights": self.merge_weights}
            return before.clustered(*frame_peaks(points, count, neighbors, **options))
        peaks = self._peaks(points, count, neighbors, mask)
        assert peaks.log_density is not None
        finite = peaks.log_density.isfinite()
        weight = member_weights(peaks.log_importance, peaks.assignment, peaks.centers, finite, self.merge_weights)
        return before.clustered(peaks, weight)

    def _peaks(self, points: Tensor, count: int, neighbors: int, mask: Tensor | None) -> DensityPeaks:
        """As many frames at a time as memory bears; a graph for any number of frames takes them all at once."""
        options: dict[str, Any] = {"distance_scale": self.distance_scale}
        if torch.compiler.is_compiling():
            return density_peaks(points, count, neighbors, mask=mask, **options)
        per_frame = max(points.shape[1], 1) * max(points.shape[1], FEWEST_COLUMNS)
        step = max(DISTANCES_PER_CHUNK.get(points.device.type, 2**22) // per_frame, 1)
        mask = torch.ones_like(points[..., 0], dtype=torch.bool) if mask is None else mask
        parts = [
            density_peaks(some, count, neighbors, mask=real, **options)
            for some, real in zip(points.split(step), mask.split(step), strict=True)
        ]
        return DensityPeaks(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _grouped(self, merging: SpatialMerging, frames: Tensor) -> SpatialMerging:
        """Coarse prototypes followed by their members, each group times its softmax weight (the authors' code)."""
        assert self.group_score is not None
        rows = merging.center.shape[-1]
        fine = min(self.num_prototypes[0], frames.shape[2])
        coarse = rows - fine
        level_mean = merging.merge(frames.mean(-1, keepdim=True))[..., 0]
        coarse_mean = nn.functional.pad(level_mean[..., fine:], (0, self.group_score.in_features - coarse))
        group_weight = self.group_score(coarse_mean).softmax(-1)[..., :coarse]
        group = self._group_of_row(merging, fine, coarse)
        index = torch.arange(rows, device=group.device)
        after_coarse = torch.where(index < fine, index + 1, 0)
        order = (group * (rows + 1) + after_coarse).argsort(dim=-1, stable=True)
        place = order.argsort(-1)
        row = place[:, :, None].expand(*merging.row.shape[:3], rows).gather(-1, merging.row)
        weight = group_weight.gather(-1, group)[:, :, None].expand(*merging.row.shape[:3], rows).gather(-1, merging.row)
        return SpatialMerging(
            row, merging.weight * weight, merging.center.gather(-1, order), merging.log_density.gather(-1, order)
        )

    @staticmethod
    def _group_of_row(merging: SpatialMerging, fine: int, coarse: int) -> Int[Tensor, "batch frames rows"]:
        fine_row, coarse_row = merging.row[:, :, 0], merging.row[:, :, 1] - fine
        group = coarse_row.new_zeros(*coarse_row.shape[:2], fine).scatter(-1, fine_row, coarse_row)
        own = torch.arange(coarse, device=group.device).expand(*group.shape[:2], coarse)
        return torch.cat([group, own], dim=-1)


class _Level(NamedTuple):
    """The prototypes of a level, and how patches have become parts of them."""

    label: Int[Tensor, "frames patches"]
    """the prototype that each patch belongs to"""
    weight: Float[Tensor, "frames patches"]
    """how large a part of it the patch is"""
    center: Int[Tensor, "frames rows"]
    log_density: Float[Tensor, "frames rows"]
    points: Float[Tensor, "frames rows dim"]
    """float32 or better from the first level on"""

    @staticmethod
    def of_patches(frames: Float[Tensor, "frames patches dim"]) -> _Level:
        """Every patch its own prototype."""
        patch = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[:2])
        ones = torch.ones_like(frames[..., 0], dtype=torch.promote_types(frames.dtype, torch.float32))
        return _Level(patch, ones, patch, ones, frames)

    def clustered(
        self, peaks: DensityPeaks, weight: Float[Tensor, "frames rows"], merged: Tensor | None = None
    ) -> _Level:
        """The level above, of prototypes that may be known."""
        assert peaks.log_density is not None
        members = (self.points, peaks.assignment, weight)
        missing, peak = peaks.centers < 0, peaks.centers.clamp(min=0)
        return _Level(
            peaks.assignment.clamp(min=0).gather(1, self.label),
            self.weight * weight.gather(1, self.label),
            self.center.gather(1, peak).masked_fill(missing, -1),
            peaks.log_density.gather(1, peak).masked_fill(missing, -torch.inf),
            weighted_members(*members, peaks.centers.shape[1]) if merged is None else KnownSums.apply(*members, merged),
        )


def _all_levels(levels: Sequence[_Level], sizes: torch.Size) -> tuple[SpatialMerging, Tensor]:
    """Rows counted through all levels, for [batch frames]."""
    label, weight, center, density, points = zip(*levels, strict=True)
    first = accumulate((rows.shape[1] for rows in center[:-1]), initial=0)
    row = torch.stack([labels + start for labels, start in zip(label, first, strict=True)], 1)
    values = (row, torch.stack(weight, 1), torch.cat(center, 1), torch.cat(density, 1), torch.cat(points, 1))
    *merging, objects = (value.unflatten(0, sizes) for value in values)
    return SpatialMerging(*merging), objects
