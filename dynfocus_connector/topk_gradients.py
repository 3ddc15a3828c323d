"""The sampled Top-K of Eq. 8 and four estimators of its gradient (Eq. 9), from memberships alone.

A sample is described by the items it holds. An item's slot, its row in P, is the number of held items before it, so
⟨g, P⟩ of every sample is a gather from g, and the (samples, K, L) one-hots of the textbook form are never built.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from dynfocus_connector.choices import GradientEstimator


class TopKSamples(NamedTuple):
    """What each noisy sample holds, and the two items at its border."""

    held: Bool[Tensor, "batch samples prototypes"]
    """is the item among the sample's K largest"""
    last: Int[Tensor, "batch samples 1"]
    """the K-th largest item, the first that would leave"""
    last_value: Float[Tensor, "batch samples 1"]
    """its noisy score; inf where K = 0"""
    next: Int[Tensor, "batch samples 1"]
    """the (K+1)-th largest item, the first that would enter"""
    next_value: Float[Tensor, "batch samples 1"]
    """its noisy score; -inf where there is none"""


class SampledTopK(torch.autograd.Function):
    """P_σ(s), the mean over the samples of P*(s + σZ), with a chosen estimator of its vector–Jacobian product."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        scores: Float[Tensor, "batch prototypes"],
        noise: Float[Tensor, "batch samples prototypes"],
        counts: Int[Tensor, " batch"],
        rows: int,
        sigma: float,
        gradient: GradientEstimator,
    ) -> tuple[Tensor, ...]:
        samples = draw_topk(scores, noise, counts, rows, sigma)
        return mean_one_hot(samples.held, rows, scores.dtype), *samples

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        scores, noise, _, _, ctx.sigma, ctx.gradient = inputs
        ctx.mark_non_differentiable(*output[1:])
        kept = output[1:] if ctx.gradient == "rao_blackwell" else (noise, output[1])
        ctx.save_for_backward(scores, *kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Float[Tensor, "batch focus prototypes"], *_: Any) -> tuple[Tensor | None, ...]:
        scores, *kept = ctx.saved_tensors
        if ctx.gradient == "rao_blackwell":
            grad = rao_blackwell(upstream, scores, TopKSamples(*kept), ctx.sigma)
        elif ctx.gradient == "diagonal":
            grad = diagonal(upstream, kept[0], kept[1], ctx.sigma)
        else:
            grad = score_function(upstream, kept[0], kept[1], ctx.sigma, centred=ctx.gradient == "leave_one_out")
        return grad, None, None, None, None, None


def draw_topk(
    scores: Float[Tensor, "batch prototypes"],
    noise: Float[Tensor, "batch samples prototypes"],
    counts: Int[Tensor, " batch"],
    rows: int,
    sigma: float,
) -> TopKSamples:
    """P*(s + σZ) as memberships: the `counts[b] <= rows` largest items of every sample."""
    noisy = torch.add(scores.unsqueeze(1), noise, alpha=sigma)
    values, items = noisy.topk(min(rows + 1, noisy.shape[-1]), dim=-1)
    counts = counts[:, None, None].expand(-1, noise.shape[1], 1)
    within = torch.arange(items.shape[-1], device=items.device) < counts
    held = torch.zeros_like(noisy, dtype=torch.bool).scatter(-1, items, within)
    values = pad(pad(values, (1, 0), value=math.inf), (0, 1), value=-math.inf)
    items = pad(items, (1, 1))
    return TopKSamples(
        held=held,
        last=items.gather(-1, counts),
        last_value=values.gather(-1, counts),
        next=items.gather(-1, counts + 1),
        next_value=values.gather(-1, counts + 1),
    )


def cells(held: Bool[Tensor, "batch samples prototypes"]) -> Int[Tensor, "batch samples prototypes"]:
    """slot · L + item: where each item lies, or would lie, in a flattened P; up to row K for items beyond the last."""
    slot = held.cumsum(-1) - held.long()
    return slot * held.shape[-1] + torch.arange(held.shape[-1], device=held.device)


def mean_one_hot(
    held: Bool[Tensor, "batch samples prototypes"], rows: int, dtype: torch.dtype
) -> Float[Tensor, "batch {rows} prototypes"]:
    """The mean of the samples' one-hot matrices P, by counting."""
    batch, samples, prototypes = held.shape
    counts = torch.zeros(batch, (rows + 1) * prototypes, dtype=dtype, device=held.device)
    counts = counts.scatter_add(1, cells(held).flatten(1), held.flatten(1).to(dtype))
    return counts.view(batch, rows + 1, prototypes)[:, :rows] / samples


def read_cells(
    upstream: Float[Tensor, "batch focus prototypes"], held: Bool[Tensor, "batch samples prototypes"], *shifts: int
) -> tuple[Float[Tensor, "batch samples prototypes"], ...]:
    """g[slot + shift, item] of every item, for each shift in -1, 0, 1; zero outside of g."""
    prototypes = held.shape[-1]
    padded = pad(upstream, (0, 0, 1, 2)).flatten(1)
    cell = cells(held).flatten(1)
    return tuple(padded[:, (1 + shift) * prototypes :].gather(1, cell).view(held.shape) for shift in shifts)


def score_function(
    upstream: Float[Tensor, "batch focus prototypes"],
    noise: Float[Tensor, "batch samples prototypes"],
    held: Bool[Tensor, "batch samples prototypes"],
    sigma: float,
    *,
    centred: bool,
) -> Float[Tensor, "batch prototypes"]:
    """E[(⟨g, P⟩ − b) Z] / σ (Eq. 9), b = 0 or, centred, the mean of ⟨g, P⟩ over the other samples."""
    (here,) = read_cells(upstream, held, 0)
    value = (here * held).sum(-1, keepdim=True)
    if centred:
        value = (value - value.mean(1, keepdim=True)) * (held.shape[1] / (held.shape[1] - 1))
    return (value * noise).mean(1) / sigma


def diagonal(
    upstream: Float[Tensor, "batch focus prototypes"],
    noise: Float[Tensor, "batch samples prototypes"],
    held: Bool[Tensor, "batch samples prototypes"],
    sigma: float,
) -> Float[Tensor, "batch prototypes"]:
    """The authors' estimator: how P[·, i] answers to s_i, without how it answers to every other score."""
    (here,) = read_cells(upstream, held, 0)
    return (here * held * noise).mean(1) / sigma


def rao_blackwell(
    upstream: Float[Tensor, "batch focus prototypes"],
    scores: Float[Tensor, "batch prototypes"],
    samples: TopKSamples,
    sigma: float,
) -> Float[Tensor, "batch prototypes"]:
    """E[pdf((s_i − t_i) / σ) / σ · (⟨g, P with i⟩ − ⟨g, P without i⟩)]: the noise of item i is integrated out exactly.

    With all other noise fixed, item i is held exactly where s_i + σ z_i exceeds t_i, the K-th largest of the others.
    That is the noisy score of i's partner: the first to enter for held items, the last held one for the others.
    """
    threshold = torch.where(samples.held, samples.next_value, samples.last_value)
    deviation = (scores.unsqueeze(1) - threshold) / sigma
    density = torch.exp(-0.5 * deviation.square()) / (sigma * math.sqrt(2 * math.pi))
    return (density * exchange_gain(upstream, samples)).mean(1)


def exchange_gain(
    upstream: Float[Tensor, "batch focus prototypes"], samples: TopKSamples
) -> Float[Tensor, "batch samples prototypes"]:
    """⟨g, P with i⟩ − ⟨g, P without i⟩ for every item i, whose place its partner takes.

    When `entering` replaces `leaving`, the held items between the two move by one slot: up where entering < leaving,
    down where leaving < entering. With S_±(i) = Σ_{held j < i} (g[slot_j ± 1, j] − g[slot_j, j]) and

        up(i) = g[slot_i, i] − S_+(i),    down(i) = g[slot_i − 1, i] + S_−(i),

    the exchange changes ⟨g, P⟩ by up(entering) − up(leaving), or by down(entering) − down(leaving).
    """
    held = samples.held
    below, here, above = read_cells(upstream, held, -1, 0, 1)
    up = here - sum_before((above - here) * held)
    down = below + sum_before((below - here) * held)
    partner = torch.where(held, samples.next, samples.last)
    moves_up = (torch.arange(held.shape[-1], device=held.device) < partner) ^ held
    return torch.where(moves_up, up - at_partner(up, samples), down - at_partner(down, samples))


def sum_before(terms: Float[Tensor, "batch samples prototypes"]) -> Float[Tensor, "batch samples prototypes"]:
    """Σ_{j < i} terms_j."""
    return pad(terms, (1, 0))[..., :-1].cumsum(-1)


def at_partner(
    values: Float[Tensor, "batch samples prototypes"], samples: TopKSamples
) -> Float[Tensor, "batch samples prototypes"]:
    return torch.where(samples.held, values.gather(-1, samples.next), values.gather(-1, samples.last))
