"""What each noisy sample of a Top-K holds, as indices, and the two items at its border."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad


class Border(NamedTuple):
    """All that an exchange of items needs to know of a sample beside what it holds."""

    rank: Int[Tensor, "batch samples width"]
    """held items up to each one, itself included (int32); L + 1 columns"""
    last: Int[Tensor, "batch samples 1"]
    """the K-th largest item, the first that would leave"""
    last_value: Float[Tensor, "batch samples 1"]
    """its noisy score; inf where K = 0"""
    next: Int[Tensor, "batch samples 1"]
    """the (K+1)-th largest item, the first that would enter"""
    next_value: Float[Tensor, "batch samples 1"]
    """its noisy score; -inf where there is none"""


def draw_topk(
    scores: Float[Tensor, "batch prototypes"],
    noise: Float[Tensor, "batch samples prototypes"],
    counts: Int[Tensor, " batch"] | None,
    rows: int,
    sigma: float,
    with_border: int,
) -> tuple[Int[Tensor, "batch samples focus"], Border]:
    """The items of P*(s + σZ) in order of index, and the border of the first `with_border` samples.

    A sample holds the `counts[b] <= rows` largest items, followed by L, which is no item; or `rows` items without
    counts, where nothing has to be sorted.
    """
    noisy = torch.add(scores.unsqueeze(1), noise, alpha=sigma)
    values, picked = noisy.topk(rows, dim=-1, sorted=counts is not None)
    held = torch.zeros_like(noisy, dtype=torch.bool)
    if counts is None:
        within = None
        held = held.scatter(-1, picked, True)
    else:
        within = (torch.arange(rows, device=scores.device) < counts[:, None, None]).expand_as(picked)
        held = held.scatter(-1, picked, within)
        values = torch.where(within, values, math.inf)
    rank = held.cumsum(-1, dtype=torch.int32)
    first = slice(with_border)
    border = _border(*(of_all[:, first] for of_all in (noisy, values, picked, held, rank)))
    return _in_order(picked, rank, within), border


def cells(items: Int[Tensor, "batch samples focus"], width: int) -> Int[Tensor, "batch samples focus"]:
    """slot · width + item: where each held item lies in a flattened matrix of `width` columns."""
    return items + torch.arange(items.shape[-1], device=items.device) * width


def read(
    matrix: Float[Tensor, "batch rows width"], cell: Int[Tensor, "batch samples cells"]
) -> Float[Tensor, "batch samples cells"]:
    """The entries of a flattened matrix."""
    return matrix.flatten(1).gather(1, cell.flatten(1)).view(cell.shape)


def _in_order(
    picked: Int[Tensor, "batch samples focus"],
    rank: Int[Tensor, "batch samples prototypes"],
    within: Bool[Tensor, "batch samples focus"] | None,
) -> Int[Tensor, "batch samples focus"]:
    """The picked items in order of index, then L for those not `within`: a counting sort, as their ranks are known."""
    slot = rank.gather(-1, picked).long() - 1
    if within is None:
        return torch.zeros_like(picked).scatter(-1, slot, picked)
    beyond = picked.shape[-1]
    room = picked.new_full((*picked.shape[:-1], beyond + 1), rank.shape[-1])
    return room.scatter(-1, torch.where(within, slot, beyond), picked)[..., :beyond]


def _border(
    noisy: Float[Tensor, "batch samples prototypes"],
    values: Float[Tensor, "batch samples focus"],
    picked: Int[Tensor, "batch samples focus"],
    held: Bool[Tensor, "batch samples prototypes"],
    rank: Int[Tensor, "batch samples prototypes"],
) -> Border:
    last_value, place = values.min(-1, keepdim=True)
    next_value, entrant = noisy.masked_fill(held, -math.inf).max(-1, keepdim=True)
    return Border(pad(rank, (0, 1)), picked.gather(-1, place), last_value, entrant, next_value)
