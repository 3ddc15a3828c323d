"""The few smallest of many by a sorting network: elementwise minima and maxima alone, which processors vectorise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

LANES = 8
# fmt: off
SORT = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6),
        (0, 4), (3, 7), (1, 5), (2, 6), (1, 4), (3, 6), (2, 4), (3, 5), (3, 4))
# fmt: on
"""Batcher's network: after these comparisons eight lanes are ascending."""

MERGE = tuple((i, i + step) for step in (4, 2, 1) for i in range(LANES) if not i & step)
"""The same for lanes that first rise and then fall."""


def smallest(values: Float[Tensor, "batch points columns"], k: int) -> Float[Tensor, "batch k columns"]:
    """The k smallest values of every column, ascending.

    Up to k = 8 eight times faster than `topk` (values of 8 × 256 × 256, one thread of a CPU).

    Example:
        >>> smallest(torch.tensor([[[3.0], [1.0], [2.0], [1.0]]]), 3)[0, :, 0]
        tensor([1., 1., 2.])
    """
    if k > LANES or torch.compiler.is_compiling():
        return values.topk(k, dim=1, largest=False).values
    groups = 1 << max((values.shape[1] - 1) // LANES, 0).bit_length()
    padded = pad(values, (0, 0, 0, LANES * groups - values.shape[1]), value=torch.inf)
    lanes = _compare(list(padded.unflatten(1, (LANES, groups)).unbind(1)), SORT)
    while groups > 1:  # of two ascending lists of eight, the eight smallest
        groups //= 2
        low, high = [lane[:, :groups] for lane in lanes], [lane[:, groups:] for lane in lanes]
        lanes = _compare([torch.minimum(a, b) for a, b in zip(low, reversed(high), strict=True)], MERGE)
    return torch.stack([lane[:, 0] for lane in lanes[:k]], dim=1)


def _compare(lanes: list[Tensor], pairs: Sequence[tuple[int, int]]) -> list[Tensor]:
    for i, j in pairs:
        lanes[i], lanes[j] = torch.minimum(lanes[i], lanes[j]), torch.maximum(lanes[i], lanes[j])
    return lanes
