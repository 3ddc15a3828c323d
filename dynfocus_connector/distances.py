"""Squared distances from Gram matrices: float32 where that is enough, float64 where points nearly coincide."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

CLOSE = 2e-3
"""Pairs with d² below this share of ‖x_i‖² + ‖x_j‖² are computed in float64. Above it a float32 Gram matrix, which is
off by about 1e-7 of that sum, leaves d² a relative error under 1e-4."""

TILE = 64
"""Rows and columns that are computed again together."""

NARROW = 256
"""Features of fewer dimensions are always compared in float64."""

STRIP = 2**22
"""Numbers of one set that are converted and centred at a time."""

CACHE = 2**19
"""Numbers of small sets that are centred and multiplied together: they are still in the cache when they are read."""


def finite_points(points: Float[Tensor, "*batch points dim"]) -> Bool[Tensor, "*batch points"]:
    """Which points have neither NaN nor Inf: their sum is finite (in float32 at least, which half precision cannot
    overflow)."""
    return points.sum(-1, dtype=torch.promote_types(points.dtype, torch.float32)).isfinite()


def a_look_is_cheap(values: Tensor) -> bool:
    """Whether numbers may decide what is computed: elsewhere that would break a graph or make a GPU wait."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def needs_float64(points: Tensor) -> bool:
    """Float64 input; narrow features, where it costs little and keeps exact ties exact; and wherever nobody looks at
    the distances."""
    return points.dtype == torch.float64 or points.shape[-1] < NARROW or not a_look_is_cheap(points)


def squared_distances(
    points: Float[Tensor, "batch points dim"], finite: Bool[Tensor, "batch points"]
) -> Float[Tensor, "batch points points"]:
    """‖x_i − x_j‖² in float32 or float64, inf to and from points that are not `finite`.

    Near-duplicates are the normal case in video, and a float32 Gram matrix loses every digit of their distance. Tiles
    with such a pair are computed again in float64, where about seven digits remain; what is below the rounding of the
    sum is an exact copy. Without a CPU to decide that, or inside a graph, everything is float64.
    """
    if needs_float64(points):
        distance = _float64(points, finite)
    else:
        distance = _mixed(points, finite)
        if finite.all():
            return distance
    bad = ~finite
    distance.masked_fill_(bad[:, :, None], torch.inf).masked_fill_(bad[:, None, :], torch.inf)
    distance.diagonal(dim1=1, dim2=2).zero_()
    return distance


def _float64(points: Tensor, finite: Tensor) -> Float[Tensor, "batch points points"]:
    bad = ~finite[..., None]
    x = points.to(torch.float64, copy=True).masked_fill_(bad, 0)
    x.sub_(x.sum(1, keepdim=True) / finite.sum(1).clamp(min=1)[:, None, None]).masked_fill_(bad, 0)
    return from_gram(x, x)


def from_gram(a: Float[Tensor, "batch rows dim"], b: Float[Tensor, "batch columns dim"]) -> Tensor:
    """‖a_i − b_j‖² of centred float64 points; exactly 0 where it is below the rounding of its terms."""
    both = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :]
    distance = torch.baddbmm(both, a, b.mT, alpha=-2)
    return distance.masked_fill_(distance <= both.mul_(64 * torch.finfo(a.dtype).eps), 0)


def _mixed(points: Tensor, finite: Tensor) -> Float[Tensor, "batch points points"]:
    batch, size, _ = points.shape
    gram, mean = _gram(points, finite)
    norm = gram.diagonal(dim1=1, dim2=2).clone()
    both = norm[:, :, None] + norm[:, None, :]
    distance = torch.add(both, gram, alpha=-2, out=gram)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    index = torch.arange(batch * size, device=points.device).view(batch, size)
    centred = CentredPoints(points.flatten(0, 1), ~finite.flatten(), mean, size)
    centred.compute_again(distance, both, index, index, symmetric=True)
    distance.diagonal(dim1=1, dim2=2).zero_()
    return distance


def _gram(points: Tensor, finite: Tensor) -> tuple[Float[Tensor, "batch points points"], Float[Tensor, "batch dim"]]:
    """⟨x_i, x_j⟩ of the centred points and their mean: as many sets at a time as a cache holds, strip after strip of
    their features, one triangle computed."""
    batch, size, dim = points.shape
    gram = points.new_zeros(batch, size, size, dtype=torch.float32)
    mean = points.new_zeros(batch, dim, dtype=torch.float32)
    width = min(max(STRIP // max(size, 1), TILE), dim)
    sets = max(CACHE // max(size * width, 1), 1)
    buffer = gram.new_empty(min(sets, batch), size, width)
    each = zip(*(values.split(sets) for values in (points, finite, gram, mean)), strict=True)
    for some, good, product, middle in each:
        bad = None if good.all() else ~good[..., None]
        count = good.sum(1).clamp(min=1)[:, None]
        for start in range(0, dim, width):
            part = fill_zero(some[..., start : start + width], bad)
            center = torch.div(part.sum(1, dtype=torch.float32), count, out=middle[:, start : start + width])
            strip = torch.sub(part, center[:, None], out=buffer[: len(part), :, : part.shape[2]])
            _add_upper_triangle(product, fill_zero_(strip, bad))
    step = _step(size)
    for row in range(step, size, step):
        gram[:, row:, row - step : row] = gram[:, row - step : row, row:].mT
    return gram, mean


def _add_upper_triangle(product: Float[Tensor, "sets points points"], strip: Float[Tensor, "sets points dim"]) -> None:
    """Add x xᵀ, a block of rows at a time from its diagonal on."""
    size = product.shape[1]
    for row in range(0, size, _step(size)):
        end = row + _step(size)
        product[:, row:end, row:].baddbmm_(strip[:, row:end], strip[:, row:].mT)


def _step(size: int) -> int:
    """Rows of a block."""
    return TILE if size <= 8 * TILE else 2 * TILE


def fill_zero(values: Tensor, bad: Bool[Tensor, ...] | None) -> Tensor:
    """A copy, where there is anything bad."""
    return values if bad is None else values.masked_fill(bad, 0)


def fill_zero_(values: Tensor, bad: Bool[Tensor, ...] | None) -> Tensor:
    """In place, where there is anything bad."""
    return values if bad is None else values.masked_fill_(bad, 0)


class CentredPoints(NamedTuple):
    """The points of a batch of sets, counted through, centred as they are taken."""

    points: Float[Tensor, "all_points dim"]
    bad: Bool[Tensor, " all_points"] | None
    mean: Float[Tensor, "batch dim"]
    size: int
    """of one set"""

    def take(self, index: Int[Tensor, "*rows"], dtype: torch.dtype) -> Float[Tensor, "*rows dim"]:
        """The points of `index`; those with NaN or Inf lie at the mean."""
        mean = self.mean[0] if len(self.mean) == 1 else self.mean[index // self.size]
        rows = self.points.index_select(0, index.flatten()).unflatten(0, index.shape).to(dtype).sub_(mean)
        return fill_zero_(rows, None if self.bad is None else self.bad[index][..., None])

    def compute_again(
        self,
        distance: Float[Tensor, "batch rows columns"],
        both: Float[Tensor, "batch rows columns"],
        rows: Int[Tensor, "batch rows"],
        columns: Int[Tensor, "batch columns"],
        *,
        symmetric: bool = False,
    ) -> None:
        """Overwrite every tile of `distance` that holds a pair too close for float32; inf is close to nothing."""
        close = distance < both.mul_(CLOSE)
        if not close.any():
            return
        tiles = max_pool2d(close.float()[:, None], TILE, ceil_mode=True)[:, 0] > 0
        batch, row, column = (tiles.triu() if symmetric else tiles).nonzero().unbind(1)
        row, column = (_tile(start * TILE, size) for start, size in zip((row, column), close.shape[1:], strict=True))
        room = max(STRIP // (4 * TILE * self.points.shape[-1]), 1)
        for b, i, j in zip(batch.split(room), row.split(room), column.split(room), strict=True):
            a, c = (self.take(ids[b[:, None], at], torch.float64) for ids, at in ((rows, i), (columns, j)))
            exact = from_gram(a, c).to(distance.dtype)
            distance[b[:, None, None], i[:, :, None], j[:, None, :]] = exact
            if symmetric:
                distance[b[:, None, None], j[:, :, None], i[:, None, :]] = exact.mT


def _tile(start: Int[Tensor, " tiles"], size: int) -> Int[Tensor, "tiles width"]:
    """The rows of each tile; the last ones overlap where tiles do not fit."""
    width = min(TILE, size)
    return start.clamp(max=size - width)[:, None] + torch.arange(width, device=start.device)
