"""Density peaks (Eq. 1–4), used twice: over the frames of a video (T-DPC) and over the patches of a frame (S-DPC)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.choices import DistanceScale
from dynfocus_connector.distances import a_look_is_cheap, finite_points, squared_distances
from dynfocus_connector.smallest import smallest
from dynfocus_connector.tiled import Neighbors, TiledDistances, tiled_nearest_center, tiled_separation

LONGEST_MATRIX = 1024
"""Points of a set, beyond which its distances are never held all at once: tiles are as quick then. Twice as many on
devices that tiles make wait."""


class DensityPeaks(NamedTuple):
    """Clusters of a batch of point sets. Labels are ranks: cluster 0 has the most important centre.

    K-means clusterings have no density and no separation; there both are None.
    """

    log_density: Float[Tensor, "batch points"] | None
    """log ρ (Eq. 1), higher = more and nearer neighbours"""
    separation: Float[Tensor, "batch points"] | None
    """δ (Eq. 4), higher = farther from anything denser"""
    log_importance: Float[Tensor, "batch points"]
    """log γ = log ρ + log δ; -inf for copies of a better point, for padding and for points with NaN or Inf"""
    centers: Int[Tensor, "batch clusters"]
    """indices of the peaks, best first, -1 where a set has fewer points than clusters"""
    assignment: Int[Tensor, "batch points"]
    """the cluster of each point, -1 for padding"""


@torch.no_grad()
def density_peaks(
    points: Float[Tensor, "batch points dim"],
    num_clusters: int,
    num_neighbors: int,
    *,
    mask: Bool[Tensor, "batch points"] | None = None,
    centers: Int[Tensor, "batch clusters"] | None = None,
    distance_scale: DistanceScale = 1.0,
) -> DensityPeaks:
    """Cluster points around those that are dense and far from anything denser.

    ρ_i = exp(−(1/k) Σ_{j ∈ kNN(i)} d_ij²),  δ_i = min_{j : ρ_j > ρ_i} d_ij,  γ_i = ρ_i δ_i,  d_ij = ‖x_i − x_j‖ / √dim

    The `num_clusters` points of largest γ are the centres, every other point joins its nearest centre.

    **Source**: Sec. 3.2, Eq. 1–4 (after Rodriguez & Laio 2014 and Du et al. 2016).
    **Symbols**: `num_neighbors` is k; a point counts among its own neighbours.
    **Deviations**: ranks are taken in the log domain and ties go to the lower index, so that no scale of features
    underflows and the same input always gives the same clusters; δ of the densest point is its own largest distance.
    See docs/deviations.md.

    Args:
        points: Features, any float dtype. A point with NaN or Inf has no influence on the others.
        num_clusters: L; at most the number of points is returned.
        num_neighbors: k; at most the number of points is used.
        mask: True for real points.
        centers: Cluster around these points instead of the peaks; distinct, -1 pads.
        distance_scale: Distances are divided by this, or by the largest distance of the set (``"max"``), which makes
            the result independent of the scale of the features.

    Returns:
        `DensityPeaks`; no gradient flows through it.

    Raises:
        ValueError: fewer than 1 cluster or neighbour, a scale that is not positive, or points that are not
            [batch points dim].

    Example:
        >>> points = torch.tensor([[[0.0], [0.2], [5.0], [5.1], [5.4]]])
        >>> peaks = density_peaks(points, num_clusters=2, num_neighbors=2)
        >>> peaks.centers.tolist(), peaks.assignment.tolist()
        ([[2, 0]], [[1, 1, 0, 0, 0]])
    """
    check_clustering("density_peaks", points, num_clusters)
    if num_neighbors < 1:
        raise ValueError(f"density_peaks: expected num_neighbors >= 1, got {num_neighbors}.")
    if distance_scale != "max" and not distance_scale > 0:
        raise ValueError(f"density_peaks: expected distance_scale > 0 or 'max', got {distance_scale}.")
    mask = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask
    finite = mask & finite_points(points)
    longest = LONGEST_MATRIX if points.device.type == "cpu" else 2 * LONGEST_MATRIX
    long = points.shape[1] > longest and not torch.compiler.is_compiling()
    sets = _Tiled(points, finite, num_neighbors) if long else _Dense(points, finite, num_neighbors)
    unit: float | Tensor
    if distance_scale == "max":
        unit = torch.where(sets.largest > 0, sets.largest, 1).double()
    else:
        unit = points.shape[-1] * float(distance_scale) ** 2
    mean_distance = sets.mean_distance / unit
    # Float32 resolution of m and δ makes ties of what differs by rounding alone.
    rank = mean_distance.float().argsort(dim=-1, stable=True).argsort(dim=-1)
    separation = (sets.separation(rank) / unit).float().double()
    log_importance = (separation.log() / 2 - mean_distance).masked_fill(~finite, -torch.inf)
    if centers is None:
        centers = best_first(log_importance, finite, mask)[:, :num_clusters]
    dtype = torch.promote_types(points.dtype, torch.float32)
    return DensityPeaks(
        log_density=-mean_distance.to(dtype),
        separation=separation.sqrt().to(dtype),
        log_importance=log_importance.to(dtype),
        centers=centers,
        assignment=lead_own(sets.nearest_center(centers), centers, mask),
    )


class _Dense:
    """Squared distances of all pairs of every set at once, not yet divided by anything."""

    def __init__(self, points: Tensor, finite: Tensor, num_neighbors: int) -> None:
        self.finite = finite
        self.distance = squared_distances(points, finite)
        self.mean_distance = mean_neighbor_distance(self.distance, finite, num_neighbors)

    @property
    def largest(self) -> Float[Tensor, "batch 1"]:
        return torch.where(self.distance.isfinite(), self.distance, 0).flatten(1).amax(1, keepdim=True)

    def separation(self, rank: Int[Tensor, "batch points"]) -> Float[Tensor, "batch points"]:
        return separation_from_denser(self.distance, rank, self.finite).double()

    def nearest_center(self, centers: Int[Tensor, "batch clusters"]) -> Int[Tensor, "batch points"]:
        return nearest_center(self.distance, centers)


class _Tiled:
    """The same for sets whose distances would not fit."""

    def __init__(self, points: Tensor, finite: Tensor, num_neighbors: int) -> None:
        self.tiles = [TiledDistances(*one) for one in zip(points, finite, strict=True)]
        self.neighbors = [Neighbors(tiles, num_neighbors) for tiles in self.tiles]
        self.mean_distance = torch.stack([n.mean(one) for n, one in zip(self.neighbors, finite, strict=True)])
        self.largest = torch.stack([n.largest for n in self.neighbors])[:, None]

    def separation(self, rank: Int[Tensor, "batch points"]) -> Float[Tensor, "batch points"]:
        each = zip(self.tiles, self.neighbors, rank, strict=True)
        return torch.stack([tiled_separation(*one) for one in each]).double()

    def nearest_center(self, centers: Int[Tensor, "batch clusters"]) -> Int[Tensor, "batch points"]:
        return torch.stack([tiled_nearest_center(*one) for one in zip(self.tiles, centers, strict=True)])


def check_clustering(name: str, points: Tensor, num_clusters: int) -> None:
    """Raise ValueError where points or cluster count make no sense."""
    if points.ndim != 3:
        raise ValueError(f"{name}: expected points of shape [batch points dim], got {tuple(points.shape)}.")
    if num_clusters < 1:
        raise ValueError(f"{name}: expected num_clusters >= 1, got {num_clusters}.")


def mean_neighbor_distance(
    distance: Float[Tensor, "batch points points"], finite: Bool[Tensor, "batch points"], num_neighbors: int
) -> Float[Tensor, "batch points"]:
    """m_i = −log ρ_i (Eq. 1): the mean of the k smallest squared distances, the point's own 0 included.

    Exact copies share the smallest value among them, so that rounding cannot rank one above another.
    """
    nearest = smallest(distance, min(num_neighbors, distance.shape[-1]))  # of columns, which are rows
    known = nearest.isfinite()
    mean = nearest.masked_fill(~known, 0).double().sum(1) / known.sum(1).clamp(min=1)
    mean = mean.masked_fill(~finite, torch.inf)
    if nearest.shape[1] > 1 and a_look_is_cheap(distance) and (nearest[:, 1] > 0).all():
        return mean
    return torch.where(distance == 0, mean[:, None, :], torch.inf).amin(-1)


def separation_from_denser(
    distance: Float[Tensor, "batch points points"],
    rank: Int[Tensor, "batch points"],
    finite: Bool[Tensor, "batch points"],
) -> Float[Tensor, "batch points"]:
    """δ_i² (Eq. 2–4): the squared distance to the nearest denser point; for the densest point, to the farthest one.

    Denser means (m_j, j) < (m_i, i), which is the order of `rank`.
    """
    place = rank.int()
    nearest = torch.where(place[:, None, :] < place[:, :, None], distance, torch.inf).amin(-1)
    densest = rank.argmin(-1)[:, None, None].expand(-1, 1, distance.shape[-1])
    farthest = distance.gather(1, densest)[:, 0].masked_fill(~finite, 0).amax(-1, keepdim=True)
    return torch.where(rank == 0, farthest, nearest).masked_fill(~finite, 0)


def best_first(
    log_importance: Float[Tensor, "batch points"],
    finite: Bool[Tensor, "batch points"],
    mask: Bool[Tensor, "batch points"],
) -> Int[Tensor, "batch points"]:
    """Indices by importance, ties by index; points with NaN come after all others, padding last and as -1."""
    order = log_importance.argsort(dim=-1, descending=True, stable=True)
    last = (~finite).int() + (~mask).int()
    order = order.gather(1, last.gather(1, order).argsort(dim=-1, stable=True))
    return order.masked_fill(~mask.gather(1, order), -1)


def nearest_center(
    distance: Float[Tensor, "batch points points"], centers: Int[Tensor, "batch clusters"]
) -> Int[Tensor, "batch points"]:
    """The nearest of the real centres, of equally near ones the better."""
    rows = centers.clamp(min=0)[:, :, None].expand(-1, -1, distance.shape[2])  # which are columns
    to_centers = distance.gather(1, rows).masked_fill((centers < 0)[:, :, None], torch.inf)
    return to_centers.float().argmin(1)  # ties that rounding broke are ties again


def lead_own(
    label: Int[Tensor, "batch points"], centers: Int[Tensor, "batch clusters"], mask: Bool[Tensor, "batch points"]
) -> Int[Tensor, "batch points"]:
    """A centre leads its own cluster, whatever lies equally near; padding belongs to none."""
    batch, points = label.shape
    own = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    slot = torch.where(centers >= 0, centers, points)
    label = torch.cat([label, label.new_zeros(batch, 1)], dim=1).scatter(1, slot, own)[:, :points]
    return label.masked_fill(~mask, -1)
