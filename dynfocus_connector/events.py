"""The events of a video: its frames clustered, merged into prototypes, in time order (Eq. 1–5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.choices import Clustering, DistanceScale, MergeWeights, Seeding
from dynfocus_connector.kmeans import weighted_kmeans
from dynfocus_connector.peaks import DensityPeaks, density_peaks
from dynfocus_connector.prototypes import merge_prototypes


class Events(NamedTuple):
    """The events of a batch of videos, in time order."""

    peak: Int[Tensor, "batch prototypes"]
    """the frame at the peak, -1 for padding"""
    assignment: Int[Tensor, "batch frames"]
    prototypes: Float[Tensor, "batch prototypes pooled dim"]
    log_importance: Float[Tensor, "batch frames"]


def in_time_order(peaks: DensityPeaks) -> DensityPeaks:
    """The same clusters, numbered by the index of their centre; missing ones stay at the end."""
    frames = peaks.assignment.shape[1]
    order = torch.where(peaks.centers >= 0, peaks.centers, frames).argsort(dim=1, stable=True)
    label = order.argsort(1).gather(1, peaks.assignment.clamp(min=0))
    return peaks._replace(
        centers=peaks.centers.gather(1, order), assignment=label.masked_fill(peaks.assignment < 0, -1)
    )


def find_events(
    pooled: Float[Tensor, "batch frames pooled dim"],
    num_prototypes: int,
    num_neighbors: int,
    *,
    frame_mask: Bool[Tensor, "batch frames"] | None = None,
    centers: Int[Tensor, "batch chosen"] | None = None,
    clustering: Clustering = "density_peaks",
    seeding: Seeding = "farthest",
    seed: int = 0,
    merge_weights: MergeWeights = "importance",
    distance_scale: DistanceScale = 1.0,
    peaks: DensityPeaks | None = None,
    stands_for: Int[Tensor, "batch frames"] | None = None,
) -> Events:
    """T-DPC: at most `num_prototypes` events, around given `centers` where there are some.

    **Source**: Sec. 3.2, Eq. 1–5; Table 11 for the other clusterings. Arguments as in `DynamicPrototypeEstimator`.

    Args:
        peaks: The density peaks of these frames, where they are known from elsewhere.
        stands_for: How many frames each of these counts as; 1 without it.
    """
    points = pooled.flatten(2)
    count = min(num_prototypes, points.shape[1])
    if peaks is None:
        options: dict[str, Any] = {"mask": frame_mask, "centers": centers, "distance_scale": distance_scale}
        peaks = density_peaks(points, count, num_neighbors, **options)
    gamma = peaks.log_importance
    if clustering != "density_peaks" and centers is None:
        weight = torch.ones_like(gamma) if stands_for is None else stands_for.to(gamma.dtype)
        if clustering == "weighted_kmeans":
            weight = weight * (gamma - gamma.amax(1, keepdim=True)).nan_to_num(0.0, 0.0, -torch.inf).exp()
        generator = torch.Generator().manual_seed(seed)
        peaks = weighted_kmeans(points, count, weight, mask=frame_mask, seeding=seeding, generator=generator)
    peaks = in_time_order(peaks._replace(log_importance=gamma))
    members = peaks
    if stands_for is not None and merge_weights != "centers":
        own = gamma if merge_weights == "importance" else torch.zeros_like(gamma)
        members, merge_weights = peaks._replace(log_importance=own + stands_for.to(own.dtype).log()), "importance"
    prototypes = merge_prototypes(points, members, weights=merge_weights).unflatten(2, (pooled.shape[2], -1))
    return Events(peaks.centers, peaks.assignment, prototypes, gamma)
