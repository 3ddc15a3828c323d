"""Density peaks of sets too long for a matrix of all distances: tile after tile, memory linear in the points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.distances import CentredPoints, fill_zero_, from_gram, needs_float64

NUMBERS_PER_BLOCK = 2**19
"""Features held of either side of a tile."""


class Block(NamedTuple):
    """Some points, centred."""

    ids: Int[Tensor, " rows"]
    rows: Float[Tensor, "rows dim"]
    norm: Float[Tensor, " rows"]


class TiledDistances:
    """‖x_i − x_j‖² of one set, any rows against any columns, as `squared_distances` has them."""

    def __init__(self, points: Float[Tensor, "points dim"], finite: Bool[Tensor, " points"]) -> None:
        self.exact = needs_float64(points)
        self.dtype = torch.float64 if self.exact else torch.float32
        self.bad = None if finite.all() else ~finite
        self.index = torch.arange(len(points), device=points.device)
        self.step = min(max(NUMBERS_PER_BLOCK // points.shape[1] // 64 * 64, 256), 1024)
        origin = points.new_zeros(1, points.shape[1], dtype=self.dtype)
        self.points = CentredPoints(points, self.bad, origin, len(points))
        total = torch.stack([block.rows.sum(0) for block in self.blocks(self.index)]).sum(0)
        self.points = self.points._replace(mean=origin + total / finite.sum().clamp(min=1))

    def blocks(self, index: Int[Tensor, " rows"]) -> Iterator[Block]:
        """The points of `index`, a block at a time."""
        for part in index.split(self.step) if len(index) else ():
            rows = self.points.take(part, self.dtype)
            yield Block(part, rows, torch.linalg.vector_norm(rows, dim=-1).square_())

    def tile(self, a: Block, b: Block) -> Float[Tensor, "rows columns"]:
        """inf to and from points with NaN or Inf, 0 of a point to itself."""
        same = a.ids[:, None] == b.ids
        if self.exact:
            distance = from_gram(a.rows[None], b.rows[None])[0]
        else:
            both = a.norm[:, None] + b.norm
            distance = torch.addmm(both, a.rows, b.rows.mT, alpha=-2).masked_fill_(same, torch.inf)
            self.points.compute_again(distance[None], both[None], a.ids[None], b.ids[None])
        if self.bad is not None:
            distance.masked_fill_(self.bad[a.ids][:, None] | self.bad[b.ids], torch.inf)
        return distance.masked_fill_(same, 0)

    def known(self, distance: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """0 instead of inf."""
        return distance if self.bad is None else torch.where(distance.isfinite(), distance, 0)


class Neighbors:
    """The k nearest points of each, itself included, nearest first; inf where there are fewer."""

    def __init__(self, tiles: TiledDistances, num_neighbors: int) -> None:
        size = len(tiles.index)
        self.index = tiles.index[:, None].repeat(1, min(num_neighbors, size))
        self.distance = torch.full_like(self.index, torch.inf, dtype=tiles.dtype)
        self.largest = self.distance.new_zeros(())
        for start in range(0, size, tiles.step):
            own, *_ = tiles.blocks(tiles.index[start : start + tiles.step])
            for other in tiles.blocks(tiles.index[start:]):
                distance = tiles.tile(own, other)
                self.largest = torch.maximum(self.largest, tiles.known(distance).amax())
                self._keep(distance, own.ids, other.ids)
                if other.ids[0] != start:
                    self._keep(distance.mT, other.ids, own.ids)

    def _keep(self, distance: Float[Tensor, "rows columns"], rows: Tensor, columns: Tensor) -> None:
        """Let the columns in that are nearer to a row than the farthest of its k."""
        better = (distance.amin(1) < self.distance[rows, -1]).nonzero()[:, 0]
        rows, k = rows[better], self.distance.shape[1]
        near = distance[better].topk(min(k, len(columns)), dim=-1, largest=False)
        distance = torch.cat([self.distance[rows], near.values], dim=1)
        index = torch.cat([self.index[rows], columns[near.indices]], dim=1)
        nearest = distance.topk(k, dim=-1, largest=False)
        self.distance[rows], self.index[rows] = nearest.values, index.gather(1, nearest.indices)

    def mean(self, finite: Bool[Tensor, " points"]) -> Float[Tensor, " points"]:
        """As `mean_neighbor_distance`. Of more than k copies all have mean 0; fewer are in one another's list."""
        known = self.distance.isfinite()
        mean = torch.where(known, self.distance, 0).double().sum(1) / known.sum(1).clamp(min=1)
        mean = mean.masked_fill(~finite, torch.inf)
        return torch.where(self.distance == 0, mean[self.index], torch.inf).amin(1)


def tiled_separation(
    tiles: TiledDistances, neighbors: Neighbors, rank: Int[Tensor, " points"]
) -> Float[Tensor, " points"]:
    """δ_i² (Eq. 2–4). Where a neighbour ranks higher, the nearest such one is δ_i; only local peaks look at all
    points of higher rank."""
    higher = rank[neighbors.index] < rank[:, None]
    separation = torch.where(higher, neighbors.distance, torch.inf).amin(1)
    order = rank.argsort()
    unknown = separation.isinf() if tiles.bad is None else separation.isinf() & ~tiles.bad
    peaks = order[unknown[order]]
    for own in tiles.blocks(peaks[1:]):
        for other in tiles.blocks(order[: rank[own.ids[-1]]]):
            hidden = rank[other.ids] >= rank[own.ids][:, None]
            nearest = tiles.tile(own, other).masked_fill_(hidden, torch.inf).amin(1)
            separation[own.ids] = torch.minimum(separation[own.ids], nearest)
    for own in tiles.blocks(peaks[:1]):
        farthest = [tiles.known(tiles.tile(own, other)).amax(1) for other in tiles.blocks(order)]
        separation[own.ids] = torch.stack(farthest).amax(0)
    return fill_zero_(separation, tiles.bad)


def tiled_nearest_center(tiles: TiledDistances, centers: Int[Tensor, " clusters"]) -> Int[Tensor, " points"]:
    """The nearest of the real `centers` for every point; of equally near ones the better."""
    lead = list(tiles.blocks(centers.clamp(min=0)))
    labels = []
    for own in tiles.blocks(tiles.index):
        distance = torch.cat([tiles.tile(own, block) for block in lead], dim=1)
        labels.append(distance.masked_fill_(centers < 0, torch.inf).float().argmin(1))
    return torch.cat(labels)
