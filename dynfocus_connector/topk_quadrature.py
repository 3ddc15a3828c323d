"""P_σ(s) of Eq. 8 without sampling: one integral over the K-th largest noisy score, one recursion over the items.

Given that the K-th largest noisy score is t, every item is above t, below t, or at t (exactly one), independently of
the others. So the probability that item i has slot m is an integral over t of products of two subset-size recursions:
m held items before i, K − 1 − m after it. The integrand is smooth and decays like a Gaussian, where the trapezoidal
rule converges exponentially; the sums of the rows of P show the error of the rule.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

NODES = 96
HALF_WIDTH = 9.0
"""half the range of integration, in units of `threshold_range`'s estimate of the standard deviation of t"""
BISECTIONS = 24


def expected_topk(
    scores: Float[Tensor, "batch prototypes"],
    allowed: Bool[Tensor, "batch prototypes"],
    counts: Int[Tensor, " batch"],
    rows: int,
    sigma: float,
) -> Float[Tensor, "batch {rows} prototypes"]:
    """E[P*(s + σZ)] in float64, differentiable; rows beyond `counts` hold no meaning."""
    scores = spread_out(scores.double(), allowed, sigma)
    center, spread = threshold_range(scores, counts, sigma)
    node = torch.linspace(-HALF_WIDTH, HALF_WIDTH, NODES, dtype=scores.dtype, device=scores.device)
    step = spread * (2 * HALF_WIDTH / (NODES - 1))
    above, at, below = chances((scores[:, None] - (center + spread * node)[..., None]) / sigma, sigma)
    (none_before, one_before), (none_after, one_after) = subset_sizes(above, at, below, rows)
    after = (counts.clamp(min=1)[:, None] - 1 - torch.arange(rows, device=scores.device)).clamp(min=0)
    after = after[:, None, None].expand_as(none_after)
    none_after, one_after = none_after.gather(-1, after), one_after.gather(-1, after)
    above, at = above[..., None], at[..., None]
    density = none_before * (above * one_after + at * none_after) + one_before * above * none_after
    return (density.sum(1) * step[..., None]).mT


def spread_out(
    scores: Float[Tensor, "batch prototypes"], allowed: Bool[Tensor, "batch prototypes"], sigma: float
) -> Float[Tensor, "batch prototypes"]:
    """Finite scores of the same order: NaN, infinities and the masked out of the noise's reach, lower index first."""
    finite = scores.isfinite() & allowed
    lowest = torch.where(finite, scores, math.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0).detach()
    highest = torch.where(finite, scores, -math.inf).amax(-1, keepdim=True).nan_to_num(neginf=0.0).detach()
    rank = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    gap = 100 * sigma
    outside = torch.where(scores == math.inf, highest + gap * rank.flip(0), lowest - gap * rank)
    outside = torch.where(allowed, outside, outside - gap * len(rank))
    return torch.where(finite, scores, outside.detach())


@torch.no_grad()
def threshold_range(
    scores: Float[Tensor, "batch prototypes"], counts: Int[Tensor, " batch"], sigma: float
) -> tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]:
    """Where the K-th largest noisy score lies and about how far it strays.

    The centre t solves Σ_i Φ((s_i − t)/σ) = K − ½. It is within σ Φ⁻¹(1 − 1/2L) of the K-th largest score.
    """
    prototypes = scores.shape[-1]
    counts = counts.clamp(min=1)[:, None]
    kth = scores.sort(-1, descending=True).values.gather(-1, counts - 1)
    reach = sigma * math.sqrt(2 * math.log(2 * prototypes) + 1)
    low, high = kth - reach, kth + reach
    for _ in range(BISECTIONS):
        center = (low + high) / 2
        above = torch.special.ndtr((scores - center) / sigma).sum(-1, keepdim=True)
        low, high = torch.where(above > counts - 0.5, center, low), torch.where(above > counts - 0.5, high, center)
    above, at, below = chances((scores - center) / sigma, sigma)
    spread = ((above * below).sum(-1, keepdim=True) + 0.25).sqrt() / at.sum(-1, keepdim=True)
    return center, spread.clamp(max=1.5 * sigma)


def chances(
    deviation: Float[Tensor, "*shape"], sigma: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The probability that an item is above t, its density at t, the probability that it is below."""
    deviation = deviation.clamp(-40.0, 40.0)
    above = torch.special.ndtr(deviation)
    at = torch.exp(-0.5 * deviation.square()) / (sigma * math.sqrt(2 * math.pi))
    return above, at, torch.special.ndtr(-deviation)


def subset_sizes(
    above: Float[Tensor, "batch nodes prototypes"],
    at: Float[Tensor, "batch nodes prototypes"],
    below: Float[Tensor, "batch nodes prototypes"],
    rows: int,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Of the items before each item and of those after it, the chance that m < rows are held, none or one of them at t.

    Both directions run in one recursion, the second on the reversed items. Results are [batch nodes prototypes rows].
    """
    above, at, below = (torch.stack([chance, chance.flip(-1)])[..., None] for chance in (above, at, below))
    none = pad(torch.ones_like(above[..., 0, :]), (0, rows - 1))
    one = torch.zeros_like(none)
    nones, ones = [], []
    for item in range(above.shape[-2]):
        nones.append(none)
        ones.append(one)
        shifted = pad(none, (1, -1))
        one = one * below[..., item, :] + pad(one, (1, -1)) * above[..., item, :] + shifted * at[..., item, :]
        none = none * below[..., item, :] + shifted * above[..., item, :]
    (none_before, none_after), (one_before, one_after) = torch.stack(nones, -2), torch.stack(ones, -2)
    return (none_before, one_before), (none_after.flip(-2), one_after.flip(-2))
