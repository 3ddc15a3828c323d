"""The authors' formulation, written plainly with the fastest stock operations: what every gain is measured against.

Density noise, which breaks ties at random, is left out, and δ of the densest point is its own largest distance: then
the outputs are those of the connector wherever float32 distances and ρ·δ are well-posed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynfocus_connector import DynFocusConnector
from dynfocus_connector.estimator import num_focus_frames


class TwinPeaks(NamedTuple):
    """Clusters by density peaks, best first."""

    centers: Tensor
    assignment: Tensor
    density: Tensor
    importance: Tensor


def density_peaks_twin(points: Tensor, clusters: int, neighbors: int) -> TwinPeaks:
    """ρ, δ and ρ·δ from one matrix of all distances, points [batch points dim]."""
    points = points.float()
    distance = torch.cdist(points, points) / points.shape[-1] ** 0.5
    near = distance.topk(neighbors, dim=-1, largest=False).values
    density = (-near.square().mean(-1)).exp()
    denser = density[:, None, :] > density[:, :, None]
    separation = torch.where(denser, distance, distance.amax(-1, keepdim=True)).amin(-1)
    importance = density * separation
    centers = importance.topk(clusters, dim=-1).indices
    to_centers = distance.gather(1, centers[..., None].expand(-1, -1, distance.shape[-1]))
    own = torch.arange(clusters, device=points.device).expand_as(centers)
    return TwinPeaks(centers, to_centers.argmin(1).scatter(1, centers, own), density, importance)


def merge_twin(points: Tensor, peaks: TwinPeaks) -> Tensor:
    """The importance-weighted mean of every cluster."""
    batch, clusters = peaks.centers.shape
    label = (peaks.assignment + clusters * torch.arange(batch, device=points.device)[:, None]).flatten()
    weight = peaks.importance.flatten()
    total = weight.new_zeros(batch * clusters).index_add_(0, label, weight)
    weighted = points.flatten(0, 1) * (weight / total[label])[:, None].to(points.dtype)
    merged = points.new_zeros(batch * clusters, points.shape[-1]).index_add_(0, label, weighted)
    return merged.view(batch, clusters, -1)


def spatial_twin(frames: Tensor, prototypes: tuple[int, ...], neighbors: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """G_t [frames rows dim] of frames [frames patches dim], all at once, and the densest row of the first level."""
    points, levels, densest = frames, [], None
    for count, k in zip(prototypes, neighbors, strict=True):
        peaks = density_peaks_twin(points, count, k)
        densest = peaks.density.gather(1, peaks.centers).argmax(1) if densest is None else densest
        points = merge_twin(points, peaks)
        levels.append(points)
    assert densest is not None
    return torch.cat(levels, dim=1), densest


class DenseTopK(torch.autograd.Function):
    """The smoothed Top-K with the one-hot (batch, samples, K, L) of every sample, and its diagonal backward."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, noise: Tensor, k: int, sigma: float) -> Tensor:
        """Mean of one-hot rows in order of index."""
        index = (scores[:, None] + sigma * noise).topk(k, dim=-1, sorted=False).indices.sort(-1).values
        one_hot = scores.new_zeros(*index.shape, scores.shape[-1]).scatter_(-1, index[..., None], 1.0)
        ctx.save_for_backward(one_hot, noise)
        ctx.sigma = sigma
        return one_hot.mean(1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """E[P Z] / σ, entry by entry."""
        one_hot, noise = ctx.saved_tensors
        expected = torch.einsum("bnkd,bnd->bkd", one_hot, noise) / (noise.shape[1] * ctx.sigma)
        return (upstream[0] * expected).sum(1), None, None, None


def encode_twin(
    connector: DynFocusConnector, objects: Tensor, densest: Tensor, events: Tensor, focus: Tensor, text: Tensor | None
) -> Tensor:
    """Dyn. Enc.: cones and rods of one video through the connector's own weights, written in frame order."""
    encoder = connector.encoder
    cones = encoder.projector.fine(torch.cat([events, objects[focus]], dim=1))
    context = objects.gather(1, densest[:, None, None].expand(-1, 1, objects.shape[-1]))
    if text is not None:
        query, key = encoder.rods.query(text), encoder.rods.key(objects)
        context = ((query @ key.mT / objects.shape[-1] ** 0.5).softmax(-1) @ objects).mean(1, keepdim=True)
    rods = encoder.projector.coarse(torch.cat([objects.mean(1, keepdim=True), context], dim=1))
    in_focus = torch.zeros(len(objects), dtype=torch.bool, device=objects.device).index_fill_(0, focus, True)
    counts = torch.where(in_focus, cones.shape[1], rods.shape[1])
    start = counts.cumsum(0) - counts
    tokens = cones.new_empty(len(focus) * cones.shape[1] + (len(objects) - len(focus)) * rods.shape[1], cones.shape[-1])
    tokens[start[focus][:, None] + torch.arange(cones.shape[1], device=focus.device)] = cones
    tokens[start[~in_focus][:, None] + torch.arange(rods.shape[1], device=focus.device)] = rods[~in_focus]
    return tokens


def connector_twin(connector: DynFocusConnector, frames: Tensor, text: Tensor | None) -> Tensor:
    """The tokens of one video [1 frames 256 dim]: DPE, then CCE."""
    config = connector.config
    pooled = frames[0].unflatten(1, (4, 4, 4, 4)).mean((2, 4)).flatten(1, 2)
    points = pooled.flatten(1)[None]
    peaks = density_peaks_twin(points, config.num_prototypes, config.temporal_neighbors)
    events = merge_twin(points, peaks)[0].unflatten(1, pooled.shape[1:])
    by_time = peaks.centers[0].argsort()
    assert connector.estimator.score is not None
    score = connector.estimator.score(events[by_time][None])[0]
    chosen = score.topk(num_focus_frames(len(by_time), config.focus_ratio)).indices.sort().values
    focus = peaks.centers[0][by_time][chosen]
    objects, densest = spatial_twin(frames[0], tuple(config.spatial_prototypes), tuple(config.spatial_neighbors))
    return encode_twin(connector, objects, densest, events[by_time][chosen], focus, text)
