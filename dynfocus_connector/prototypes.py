"""Members become prototypes (Eq. 5)."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.choices import MergeWeights
from dynfocus_connector.distances import finite_points
from dynfocus_connector.merging import merge_members
from dynfocus_connector.peaks import DensityPeaks


def merge_prototypes(
    points: Float[Tensor, "batch points dim"], peaks: DensityPeaks, *, weights: MergeWeights = "importance"
) -> Float[Tensor, "batch clusters dim"]:
    """One prototype per cluster: the weighted mean of its members.

    m_l = Σ_{t ∈ C_l} w_t f_t / Σ_{t ∈ C_l} w_t

    **Source**: Eq. 5 and B.3.

    Args:
        points: Features of the points that were clustered, or other features of the same points.
        peaks: Their clusters.
        weights: w_t = γ_t (``"importance"``, the paper), 1 (``"uniform"``, the authors' code), or 1 for the centre
            and 0 for the others (``"centers"``, the literal reading of the text).

    Returns:
        Prototypes in the order of `peaks.centers`; 0 for missing clusters. Gradients reach `points`.

    Raises:
        ValueError: an unknown kind of weights.

    Example:
        >>> from dynfocus_connector import density_peaks
        >>> points = torch.tensor([[[0.0], [0.2], [5.0], [5.1], [5.4]]])
        >>> peaks = density_peaks(points, num_clusters=2, num_neighbors=2)
        >>> merge_prototypes(points, peaks, weights="uniform")[0, :, 0]
        tensor([5.1667, 0.1000])
    """
    finite = finite_points(points)
    weight = member_weights(peaks.log_importance, peaks.assignment, peaks.centers, finite, weights)
    return merge_members(points, peaks.assignment, weight, peaks.centers.shape[1])


@torch.no_grad()
def member_weights(
    log_importance: Float[Tensor, "batch points"],
    assignment: Int[Tensor, "batch points"],
    centers: Int[Tensor, "batch clusters"],
    finite: Bool[Tensor, "batch points"],
    weights: MergeWeights,
) -> Float[Tensor, "batch points"]:
    """w_t / Σ w_t within each cluster; 0 for padding and for points with NaN or Inf.

    Importance is taken relative to the cluster's largest, so that none underflows; copies only (all γ = 0) count alike.
    """
    if weights not in get_args(MergeWeights):
        raise ValueError(f"merge_prototypes: expected weights to be one of {get_args(MergeWeights)}, got {weights!r}.")
    label, real = assignment.clamp(min=0), (assignment >= 0) & finite
    clusters = (label.shape[0], centers.shape[1])
    if weights == "centers":
        index = torch.arange(label.shape[1], device=label.device)
        weight = (centers.gather(1, label) == index).to(log_importance.dtype)
    elif weights == "uniform":
        weight = torch.ones_like(log_importance)
    else:
        gamma = log_importance.masked_fill(~real, -torch.inf)
        largest = gamma.new_full(clusters, -torch.inf).scatter_reduce(1, label, gamma, "amax").gather(1, label)
        weight = torch.where(largest.isfinite(), (gamma - largest).exp(), 1)
    weight = torch.where(real, weight, 0)
    total = weight.new_zeros(clusters).scatter_add(1, label, weight).gather(1, label)
    return torch.where(total > 0, weight / total, 0)
