"""Multi-grained spatial object prototypes G_t: the patches of each frame, clustered level after level (S-DPC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynfocus_connector.choices import DistanceScale, MergeWeights, SpatialOrder
from dynfocus_connector.distances import finite_points
from dynfocus_connector.kernels import kernels_serve
from dynfocus_connector.merging import SpatialMerging, merge_members
from dynfocus_connector.peaks import DensityPeaks, density_peaks
from dynfocus_connector.prototypes import member_weights

DISTANCES_PER_CHUNK = {"cpu": 2**19, "cuda": 2**24}
"""Distances between patches held at a time: bounds memory, and keeps a CPU in its cache (8 frames of 256 patches)."""


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
        kernels: True or False for the Triton kernel or the plain code; None follows DYNFOCUS_KERNELS.
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
        batch, length = frames.shape[:2]
        parts = [self._cluster(chunk) for chunk in self._chunks(frames.detach().flatten(0, 1))]
        merging = SpatialMerging(
            *(torch.cat(values).unflatten(0, (batch, length)) for values in zip(*parts, strict=True))
        )
        return merging if self.group_score is None else self._grouped(merging, frames)

    @staticmethod
    def _chunks(frames: Float[Tensor, "all_frames patches dim"]) -> Sequence[Tensor]:
        """As many frames at a time as memory bears; a graph for any number of frames takes them all at once."""
        if torch.compiler.is_compiling():
            return [frames]
        return frames.split(max(DISTANCES_PER_CHUNK.get(frames.device.type, 2**22) // frames.shape[1] ** 2, 1))

    @torch.no_grad()
    def _cluster(self, frames: Float[Tensor, "frames patches dim"]) -> SpatialMerging:
        points, finite = frames, finite_points(frames)
        patch = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[:2])
        chain = _Chain(patch, torch.ones_like(frames[..., 0], dtype=torch.promote_types(frames.dtype, torch.float32)))
        center, mask, offset = patch, None, 0
        rows, weights, centers, densities = [], [], [], []
        for level, count in enumerate(self.num_prototypes):
            neighbors = self.num_neighbors[min(level, len(self.num_neighbors) - 1)]
            peaks = self._peaks(points, count, neighbors, mask)
            weight = member_weights(peaks.log_importance, peaks.assignment, peaks.centers, finite, self.merge_weights)
            chain = chain.then(peaks.assignment.clamp(min=0), weight)
            points = merge_members(points, peaks.assignment, weight, peaks.centers.shape[1])
            mask, finite = peaks.centers >= 0, finite_points(points)
            center = center.gather(1, peaks.centers.clamp(min=0)).masked_fill(~mask, -1)
            assert peaks.log_density is not None
            density = peaks.log_density.gather(1, peaks.centers.clamp(min=0)).masked_fill(~mask, -torch.inf)
            rows.append(chain.label + offset)
            weights.append(chain.weight)
            centers.append(center)
            densities.append(density)
            offset += peaks.centers.shape[1]
        return SpatialMerging(
            torch.stack(rows, 1), torch.stack(weights, 1), torch.cat(centers, 1), torch.cat(densities, 1)
        )

    def _peaks(self, points: Tensor, count: int, neighbors: int, mask: Tensor | None) -> DensityPeaks:
        """Of patches with a kernel where there is one; of the prototypes of a level before, which may be missing,
        without."""
        if mask is None and kernels_serve(points, self.kernels):
            from dynfocus_connector.kernels.frame_peaks import MOST_NEIGHBORS, MOST_PATCHES, frame_peaks

            if points.shape[1] <= MOST_PATCHES and neighbors <= MOST_NEIGHBORS:
                return frame_peaks(points, count, neighbors, distance_scale=self.distance_scale)
        return density_peaks(points, count, neighbors, mask=mask, distance_scale=self.distance_scale)

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


class _Chain(NamedTuple):
    """Which point of the current level each patch has become a part of, and how large a part."""

    label: Int[Tensor, "frames patches"]
    weight: Float[Tensor, "frames patches"]

    def then(self, assignment: Tensor, weight: Tensor) -> _Chain:
        return _Chain(assignment.gather(1, self.label), self.weight * weight.gather(1, self.label))
