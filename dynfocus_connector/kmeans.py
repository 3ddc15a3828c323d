"""The clusterings that density peaks are compared with (Table 11)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.choices import Seeding
from dynfocus_connector.distances import finite_points, squared_distances
from dynfocus_connector.peaks import DensityPeaks, check_clustering, lead_own, nearest_center


@torch.no_grad()
def kmeans(
    points: Float[Tensor, "batch points dim"],
    num_clusters: int,
    *,
    mask: Bool[Tensor, "batch points"] | None = None,
    iterations: int = 10,
    seeding: Seeding = "farthest",
    generator: torch.Generator | None = None,
) -> DensityPeaks:
    """Lloyd's k-means over each point set.

    **Source**: B.4, Table 11.
    **Deviations**: the paper names no seeding; see docs/deviations.md.

    Args:
        points: Features; a point with NaN or Inf takes no part.
        num_clusters: At most the number of points is returned.
        mask: True for real points.
        iterations: Lloyd steps; fewer when nothing moves is not tested for.
        seeding: ``"farthest"`` draws no random number (the first seed is the point nearest the mean, each further one
            the point farthest from all seeds); ``"k-means++"`` and ``"random"`` draw from `generator`. The n-th real
            point of every set meets the same numbers, whatever the padding.
        generator: A CPU generator; seed 0 without one.

    Returns:
        `DensityPeaks` without density and separation. Centres are the members nearest each centroid, larger clusters
        first; with ``"random"`` seeding they are the seeds. `log_importance` is 0 for every real point.

    Raises:
        ValueError: fewer than 1 cluster, an unknown seeding.
    """
    weight = torch.ones_like(points[..., 0])
    return _lloyd("kmeans", points, weight, num_clusters, mask, iterations, seeding, generator)


@torch.no_grad()
def weighted_kmeans(
    points: Float[Tensor, "batch points dim"],
    num_clusters: int,
    sample_weight: Float[Tensor, "batch points"] | None = None,
    *,
    feature_weight: Float[Tensor, " dim"] | None = None,
    mask: Bool[Tensor, "batch points"] | None = None,
    iterations: int = 10,
    seeding: Seeding = "farthest",
    generator: torch.Generator | None = None,
) -> DensityPeaks:
    """k-means whose centroids are weighted means.

    **Source**: B.4, Table 11. The paper does not say what is weighted: its reference weights the variables, the
    authors' code the samples. Both are here; the estimator weights samples by γ.

    Args:
        points: As in `kmeans`.
        num_clusters: As in `kmeans`.
        sample_weight: Weight of each point in its centroid, >= 0; all alike without one.
        feature_weight: Weight of each feature in the squared distance, >= 0.
        mask: True for real points.
        iterations: Lloyd steps.
        seeding: As in `kmeans`.
        generator: As in `kmeans`.

    Returns:
        As `kmeans`, with `log_importance` the logarithm of the sample weight.

    Raises:
        ValueError: as `kmeans`.
    """
    scaled = points if feature_weight is None else points * feature_weight.sqrt()
    weight = torch.ones_like(points[..., 0]) if sample_weight is None else sample_weight
    return _lloyd("weighted_kmeans", scaled, weight, num_clusters, mask, iterations, seeding, generator)


def _lloyd(
    name: str,
    points: Tensor,
    weight: Tensor,
    num_clusters: int,
    mask: Tensor | None,
    iterations: int,
    seeding: Seeding,
    generator: torch.Generator | None,
) -> DensityPeaks:
    check_clustering(name, points, num_clusters)
    mask = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask
    finite = mask & finite_points(points)
    num_clusters = min(num_clusters, points.shape[1])
    distance = squared_distances(points, finite)
    seeds = _seed(name, distance, finite, mask, num_clusters, seeding, generator)
    label = lead_own(nearest_center(distance, seeds), seeds, mask)
    x = points.double().masked_fill(~finite[..., None], 0)
    w = weight.double().clamp(min=0).masked_fill(~finite, 0)
    for _ in range(iterations):
        label = _to_centroids(x, w, label, seeds >= 0).float().argmin(-1).masked_fill(~mask, -1)
    centers = seeds if seeding == "random" else _nearest_members(x, w, label, finite, mask, seeds)
    label = lead_own(label, centers, mask)
    return _largest_first(label, centers, w, finite, points.dtype)


def _seed(
    name: str,
    distance: Tensor,
    finite: Tensor,
    mask: Tensor,
    num_clusters: int,
    seeding: Seeding,
    generator: torch.Generator | None,
) -> Int[Tensor, "batch clusters"]:
    """Distinct seeds, -1 beyond the number of real points. Float32 makes ties of what differs by rounding alone."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    rank = (mask.cumsum(1) - 1).clamp(min=0)
    if seeding == "random":
        draw = _uniform(mask.shape[1], generator=generator, device=mask.device)[rank]
        order = draw.masked_fill(~finite, 2).masked_fill(~mask, 3).argsort(dim=1, stable=True)[:, :num_clusters]
        return order.masked_fill(~mask.gather(1, order), -1)
    if seeding == "farthest":
        score = -distance.masked_fill(~finite[:, None], 0).double().sum(-1)
    elif seeding == "k-means++":
        draws = _uniform(mask.shape[1], num_clusters, generator=generator, device=mask.device)[rank]
        score = _exponential_race(draws[..., 0], torch.ones_like(distance[..., 0]))
    else:
        raise ValueError(f"{name}: expected seeding 'farthest', 'k-means++' or 'random', got {seeding!r}.")
    seeds, free = [], mask
    nearest = torch.full_like(score, torch.inf)
    for i in range(num_clusters):
        last = (~finite).float() * 1e37
        seed = (score.float().clamp(-1e36, 1e36) - last).masked_fill(~free, -torch.inf).argmax(1)
        seeds.append(seed.masked_fill(~free.any(1), -1))
        free = free.scatter(1, seed[:, None], False)
        column = distance.gather(2, seed[:, None, None].expand(-1, distance.shape[1], 1))[..., 0]
        nearest = torch.minimum(nearest, column)
        score = nearest
        if seeding == "k-means++" and i + 1 < num_clusters:
            score = _exponential_race(draws[..., i + 1], nearest)
    return torch.stack(seeds, dim=1)


def _uniform(*shape: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Drawn on the CPU: the same numbers on every device."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu").to(device)


def _exponential_race(uniform: Tensor, weight: Tensor) -> Tensor:
    """Scores whose largest is drawn with probability proportional to `weight`."""
    return weight.double().clamp(max=1e100) / -torch.log(uniform.clamp(1e-300, 1 - 1e-16))


def _to_centroids(x: Tensor, w: Tensor, label: Tensor, real: Tensor) -> Float[Tensor, "batch points clusters"]:
    """Squared distance of every point to every weighted centroid; inf to missing and empty clusters."""
    one_hot = (label[..., None] == torch.arange(real.shape[1], device=label.device)).to(x.dtype) * w[..., None]
    total = one_hot.sum(1)
    centroid = one_hot.mT @ x / torch.where(total > 0, total, 1)[..., None]
    distance = x.square().sum(-1)[..., None] + centroid.square().sum(-1)[:, None] - 2 * x @ centroid.mT
    return distance.masked_fill(~(real & (total > 0))[:, None], torch.inf)


def _nearest_members(x: Tensor, w: Tensor, label: Tensor, finite: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
    """The member nearest each centroid; an empty cluster gets the first point that leads no other."""
    own = label[..., None] == torch.arange(seeds.shape[1], device=label.device)
    members = own & finite[..., None]
    distance = _to_centroids(x, w, label, seeds >= 0).masked_fill(~members, torch.inf)
    center = distance.float().argmin(1).masked_fill(~distance.isfinite().any(1), -1)
    leads = (center[..., None] == torch.arange(x.shape[1], device=x.device)).any(1)
    free = (leads.int() + 2 * (~finite).int() + 4 * (~mask).int()).argsort(dim=1, stable=True)
    empty = (center < 0) & (seeds >= 0)
    rank = (empty.cumsum(1) - 1).clamp(min=0)
    return torch.where(empty, free.gather(1, rank), center)


def _largest_first(label: Tensor, centers: Tensor, w: Tensor, finite: Tensor, dtype: torch.dtype) -> DensityPeaks:
    total = w.new_zeros(centers.shape).scatter_add(1, label.clamp(min=0), w.masked_fill(label < 0, 0))
    order = total.masked_fill(centers < 0, -1).argsort(dim=1, descending=True, stable=True)
    new = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=w.device).expand_as(order))
    relabelled = new.gather(1, label.clamp(min=0)).masked_fill(label < 0, -1)
    importance = w.log().masked_fill(~finite, -torch.inf).to(torch.promote_types(dtype, torch.float32))
    return DensityPeaks(None, None, importance, centers.gather(1, order), relabelled)
