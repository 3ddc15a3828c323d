"""Density peaks among frames whose neighbours may have left."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.choices import DistanceScale
from dynfocus_connector.peaks import DensityPeaks

ROWS_PER_BLOCK = 64
"""Held frames compared at a time; bounds the float64 copies of their features."""


def direct_distances(points: Float[Tensor, "held dim"], others: Float[Tensor, "new dim"]) -> Float[Tensor, "held new"]:
    """d_ij² in float64 from the differences themselves, inf to and from points with NaN or Inf.

    A Gram matrix is faster, but its rounding hangs on what it is centred at and computed with; here a distance hangs
    on its two points alone, however a stream is divided into pushes.
    """
    new = others.double()
    blocks = [
        torch.cdist(block.double(), new, compute_mode="donot_use_mm_for_euclid_dist").square_()
        for block in points.split(ROWS_PER_BLOCK)
    ]
    return torch.cat(blocks).div_(points.shape[1]).nan_to_num_(nan=torch.inf, posinf=torch.inf)


def k_smallest(distance: Float[Tensor, "points others"], num_neighbors: int) -> Float[Tensor, "points neighbors"]:
    """The k smallest of each row, ascending; inf where there are fewer."""
    nearest = distance.topk(min(num_neighbors, distance.shape[1]), dim=1, largest=False).values
    return torch.nn.functional.pad(nearest, (0, num_neighbors - nearest.shape[1]), value=torch.inf)


def separation_and_density(
    distance: Float[Tensor, "held held"], neighbors: Float[Tensor, "held neighbors"]
) -> tuple[Float[Tensor, " held"], Float[Tensor, " held"]]:
    """δ² and m = −log ρ (Eq. 1–4) from known neighbours, ranked as `density_peaks` ranks.

    Args:
        distance: Squared distances between the frames that are held.
        neighbors: Squared distances to the k nearest frames, also of those that have left.
    """
    known = neighbors.isfinite()
    finite = known.any(1)
    mean = neighbors.masked_fill(~known, 0).sum(1) / known.sum(1).clamp(min=1)
    mean = mean.masked_fill(~finite, torch.inf)
    rank = mean.float().argsort(stable=True).argsort()
    nearest = distance.masked_fill(rank >= rank[:, None], torch.inf).amin(1)
    farthest = distance.masked_fill(~finite, 0).amax(1)
    return torch.where(rank == 0, farthest, nearest).masked_fill(~finite, 0), mean


def peaks_of_held(
    distance: Float[Tensor, "held held"],
    neighbors: Float[Tensor, "held neighbors"],
    largest: Float[Tensor, ""],
    num_clusters: int,
    distance_scale: DistanceScale,
    dtype: torch.dtype = torch.float32,
) -> DensityPeaks:
    """`density_peaks` of a stream, as a batch of one.

    Args:
        distance, neighbors: As in `separation_and_density`.
        largest: The largest squared distance there ever was, for ``"max"``.
        num_clusters: L.
        distance_scale: As in `density_peaks`.
        dtype: Of the densities.
    """
    unit = torch.where(largest > 0, largest, 1) if distance_scale == "max" else float(distance_scale) ** 2
    separation, mean = separation_and_density(distance / unit, neighbors / unit)
    separation = separation.float().double()  # as `density_peaks` does
    importance = (separation.log() / 2 - mean).masked_fill(mean.isinf(), -torch.inf)
    order = importance.argsort(descending=True, stable=True)
    order = order[mean.isinf()[order].int().argsort(stable=True)]
    centers = order[:num_clusters]
    assignment = distance[:, centers].float().argmin(1)
    assignment[centers] = torch.arange(len(centers), device=centers.device)
    return DensityPeaks(
        log_density=-mean.to(dtype)[None],
        separation=separation.sqrt().to(dtype)[None],
        log_importance=importance.to(dtype)[None],
        centers=centers[None],
        assignment=assignment[None],
    )


def heirs(distance: Float[Tensor, "held held"], keep: Bool[Tensor, " held"]) -> Int[Tensor, " held"]:
    """Which of the kept frames, numbered among themselves, takes over each held one; ascending.

    The frames between two kept ones go to the first of them up to some moment, to the second after it: the moment
    that brings the sum of their squared distances to a minimum.
    """
    size = len(keep)
    place = torch.arange(size, device=keep.device)
    before = torch.where(keep, place, -1).cummax(0).values
    after = torch.where(keep, place, size).flip(0).cummin(0).values.flip(0)
    inner = (before >= 0) & (after < size)
    cost = distance[place, before.clamp(min=0)] - distance[place, after.clamp(max=size - 1)]
    farthest = distance.masked_fill(distance.isinf(), 0).amax()
    cost = torch.where(inner, cost.nan_to_num().clamp(-farthest, farthest), 0).cumsum(0)
    group = (keep.cumsum(0) - 1).clamp(min=0)
    cheapest = cost.new_full((size,), torch.inf).scatter_reduce(0, group, torch.where(inner, cost, torch.inf), "amin")
    last_own = torch.where(inner & (cost == cheapest[group]), place, size)
    last_own = torch.full_like(place, size).scatter_reduce(0, group, last_own, "amin")
    return group + (inner & (place > last_own[group]) & ~keep).long()
