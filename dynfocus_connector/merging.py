"""How patches become rows: labels and weights. Linear, so the same merging serves any features of the same patches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


class SpatialMerging(NamedTuple):
    """Which row of G_t each patch joins at each level, and with which weight. Rows count through all levels."""

    row: Int[Tensor, "batch frames levels patches"]
    weight: Float[Tensor, "batch frames levels patches"]
    """sums to 1 over the members of a row (unless a level is re-weighted); 0 for padding"""
    center: Int[Tensor, "batch frames rows"]
    """the patch at the peak of each row, -1 where the frame has fewer"""
    log_density: Float[Tensor, "batch frames rows"]
    """log ρ of that patch within its level, -inf where the frame has fewer"""

    def merge(self, features: Float[Tensor, "batch frames patches dim"]) -> Float[Tensor, "batch frames rows dim"]:
        """G_t: every row the weighted sum of its patches."""
        matrix = self.weight.new_zeros(*self.center.shape, features.shape[2])
        for row, weight in zip(self.row.unbind(2), self.weight.unbind(2), strict=True):
            matrix = matrix.scatter(2, row[:, :, None], weight[:, :, None])
        return _weighted_sums(matrix, features).to(features.dtype)

    @property
    def row_mask(self) -> Bool[Tensor, "batch frames rows"]:
        """Which rows are real."""
        return self.center >= 0


def merge_members(
    points: Float[Tensor, "*batch points dim"],
    assignment: Int[Tensor, "*batch points"],
    weight: Float[Tensor, "*batch points"],
    num_clusters: int,
) -> Float[Tensor, "*batch clusters dim"]:
    """Weighted sums of the members of each cluster; a point of weight 0 (padding, a damaged point) leaves no trace."""
    return weighted_members(points, assignment, weight, num_clusters).to(points.dtype)


def weighted_members(
    points: Float[Tensor, "*batch points dim"],
    assignment: Int[Tensor, "*batch points"],
    weight: Float[Tensor, "*batch points"],
    num_clusters: int,
) -> Float[Tensor, "*batch clusters dim"]:
    """The same in float32 or better."""
    matrix = weight.new_zeros(*points.shape[:-2], num_clusters, points.shape[-2])
    return _weighted_sums(matrix.scatter(-2, assignment.clamp(min=0)[..., None, :], weight[..., None, :]), points)


class KnownSums(torch.autograd.Function):
    """`weighted_members` that a kernel has computed: what flows back is a look-up by label."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, assignment: Tensor, weight: Tensor, sums: Tensor) -> Tensor:
        ctx.save_for_backward(assignment, weight)
        ctx.dtype = points.dtype
        return sums.view_as(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        assignment, weight = ctx.saved_tensors
        label = assignment.clamp(min=0)[..., None].expand(-1, -1, upstream[0].shape[-1])
        return (weight[..., None] * upstream[0].gather(1, label)).to(ctx.dtype), None, None, None


def _weighted_sums(
    matrix: Float[Tensor, "*batch rows points"], points: Float[Tensor, "*batch points dim"]
) -> Float[Tensor, "*batch rows dim"]:
    """matrix @ points in float32 or better, where a point of weight 0 leaves no trace even if it is NaN.

    A CPU looks whether there is anything to hide; elsewhere that would break a graph or make a GPU wait.
    """
    dtype = torch.promote_types(points.dtype, torch.float32)
    matrix, values = matrix.to(dtype), points.to(dtype)
    with torch.autocast(points.device.type, enabled=False):
        if points.device.type == "cpu" and not torch.compiler.is_compiling():
            rows = matrix @ values
            if rows.sum().isfinite():
                return rows
        used = (matrix != 0).any(-2)[..., None]
        return matrix @ torch.where(used, values, 0)


class Merging(NamedTuple):
    """Everything that decided a `CompressedVideo`, except the projector: enough to repeat it on other features."""

    cells: Float[Tensor, "pooled patches"]
    """local average pooling of a frame"""
    event: Int[Tensor, "batch frames"]
    event_weight: Float[Tensor, "batch frames"]
    soft_mask: Float[Tensor, "batch focus prototypes"]
    focus_index: Int[Tensor, "batch focus"]
    spatial: SpatialMerging
    cone_weight: Float[Tensor, "batch focus cone_rows sources"] | None
    """cone rows from [h_k; G_t]; None where a focus frame keeps its patches"""
    rod_weight: Float[Tensor, "batch frames rod_rows sources"]
    """rod rows from G_t, or from the patches"""
    rods_see_patches: bool
    source: Int[Tensor, " tokens"]
    """the row of [all cone rows; all rod rows] behind each token"""
    picked: Int[Tensor, " kept"] | None = None
    """the frames that took part, where a budget left some out"""

    @staticmethod
    def everything(batch: int, frames: int, patches: int, device: torch.device) -> Merging:
        """Nothing merged: every token its own patch."""
        empty = torch.zeros(batch, frames, 0, device=device)
        spatial = SpatialMerging(
            empty.long()[..., None].expand(-1, -1, -1, patches), empty[..., None], empty.long(), empty
        )
        index = torch.arange(frames, device=device).expand(batch, -1)
        return Merging(
            cells=empty.new_zeros(1, patches),
            event=index,
            event_weight=torch.ones_like(index, dtype=empty.dtype),
            soft_mask=torch.eye(frames, device=device).expand(batch, -1, -1),
            focus_index=index,
            spatial=spatial,
            cone_weight=None,
            rod_weight=empty[:, :, None],
            rods_see_patches=False,
            source=torch.arange(batch * frames * patches, device=device),
        )

    def pool(self, features: Float[Tensor, "batch frames patches other"]) -> Float[Tensor, "tokens other"]:
        """Tokens made of `features` exactly as the video's own tokens were made, before the projector."""
        features = features if self.picked is None else features[:, self.picked]
        objects = self.spatial.merge(features)
        rods = self.rod_weight.to(features.dtype) @ (features if self.rods_see_patches else objects)
        cones = take_frames(features, self.focus_index)
        if self.cone_weight is not None:
            events = self.merge_events(features)
            sources = torch.cat([events, take_frames(objects, self.focus_index)], dim=2)
            cones = self.cone_weight.to(features.dtype) @ sources
        return gather_rows(cones, rods, self.source)

    def merge_events(self, features: Float[Tensor, "batch frames patches other"]) -> Tensor:
        """h_k of other features: pooled, merged by event, picked by the soft mask."""
        pooled = self.cells.to(features.dtype) @ features
        count, cells = self.soft_mask.shape[-1], pooled.shape[2]
        prototypes = merge_members(pooled.flatten(2), self.event, self.event_weight, count).unflatten(2, (cells, -1))
        return torch.einsum("bkl,blpd->bkpd", self.soft_mask.to(features.dtype), prototypes)


class MergingPerVideo(NamedTuple):
    """One `Merging` for each video of a batch that was compressed video by video."""

    videos: tuple[Merging, ...]

    def pool(self, features: Float[Tensor, "batch frames patches other"]) -> Float[Tensor, "tokens other"]:
        """As `Merging.pool`."""
        return torch.cat([merging.pool(features[b : b + 1]) for b, merging in enumerate(self.videos)])


def take_frames(
    values: Shaped[Tensor, "batch frames *rest"], index: Int[Tensor, "batch focus"]
) -> Shaped[Tensor, "batch focus *rest"]:
    """The frames `index` of each video; a padding index (-1) takes zeros."""
    rows = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    taken = values.gather(1, rows.clamp(min=0).expand(-1, -1, *values.shape[2:]))
    return torch.where(rows >= 0, taken, torch.zeros_like(taken))


def gather_rows(
    cones: Float[Tensor, "batch focus cone_rows dim"],
    rods: Float[Tensor, "batch frames rod_rows dim"],
    source: Int[Tensor, " tokens"],
) -> Float[Tensor, "tokens dim"]:
    """The rows that became tokens, in their order."""
    return torch.cat([cones.flatten(0, 2), rods.flatten(0, 2)])[source]
