"""The sampled Top-K of Eq. 8 and four estimators of its gradient (Eq. 9), from the indices of what each sample holds.

A sample is described by its K items in order of index: item j of that list has slot j, its row in P. So ⟨g, P⟩ of a
sample is K reads from g, and the (samples, K, L) one-hots of the textbook form are never built.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from dynfocus_connector.choices import GradientEstimator
from dynfocus_connector.topk_exchange import exchange_gains
from dynfocus_connector.topk_samples import Border, cells, draw_topk, read


class SampledTopK(torch.autograd.Function):
    """P_σ(s), the mean over the samples of P*(s + σZ), with a chosen estimator of its vector–Jacobian product.

    `gradient_samples` of the samples take part in the Rao-Blackwell estimator; the others use all.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        scores: Float[Tensor, "batch prototypes"],
        noise: Float[Tensor, "batch samples prototypes"],
        counts: Int[Tensor, " batch"] | None,
        rows: int,
        sigma: float,
        gradient: GradientEstimator,
        gradient_samples: int,
    ) -> tuple[Tensor, ...]:
        integrated = gradient == "rao_blackwell"
        items, border = draw_topk(scores, noise, counts, rows, sigma, gradient_samples if integrated else 0)
        soft = mean_one_hot(items, scores.shape[-1], scores.dtype)
        return (soft, items, *border) if integrated else (soft, items)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        scores, noise, _, _, ctx.sigma, ctx.gradient, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        kept = output[1:] if ctx.gradient == "rao_blackwell" else (noise, output[1])
        ctx.save_for_backward(scores, *kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Float[Tensor, "batch focus prototypes"], *_: Any) -> tuple[Tensor | None, ...]:
        scores, *kept = ctx.saved_tensors
        if ctx.gradient == "rao_blackwell":
            grad = rao_blackwell(upstream, scores, kept[0], Border(*kept[1:]), ctx.sigma)
        elif ctx.gradient == "diagonal":
            grad = diagonal(upstream, kept[0], kept[1], ctx.sigma)
        else:
            grad = score_function(upstream, kept[0], kept[1], ctx.sigma, centred=ctx.gradient == "leave_one_out")
        return grad, None, None, None, None, None, None


# PyTorch asks for it in every call, and working it out anew would take longer than the samples of a short video.
SampledTopK.forward.__signature__ = inspect.signature(SampledTopK.forward)  # type: ignore[attr-defined]


def mean_one_hot(
    items: Int[Tensor, "batch samples focus"], prototypes: int, dtype: torch.dtype
) -> Float[Tensor, "batch focus prototypes"]:
    """The mean of the samples' one-hot matrices P, by counting."""
    batch, samples, rows = items.shape
    cell = cells(items, prototypes + 1).flatten(1)
    counts = torch.zeros(batch, rows * (prototypes + 1), dtype=dtype, device=items.device)
    counts = counts.scatter_add(1, cell, torch.ones_like(cell, dtype=dtype))
    return counts.view(batch, rows, prototypes + 1)[..., :prototypes] / samples


def score_function(
    upstream: Float[Tensor, "batch focus prototypes"],
    noise: Float[Tensor, "batch samples prototypes"],
    items: Int[Tensor, "batch samples focus"],
    sigma: float,
    *,
    centred: bool,
) -> Float[Tensor, "batch prototypes"]:
    """E[(⟨g, P⟩ − b) Z] / σ (Eq. 9), b = 0 or, centred, the mean of ⟨g, P⟩ over the other samples."""
    value = read(pad(upstream, (0, 1)), cells(items, noise.shape[-1] + 1)).sum(-1, keepdim=True)
    if centred:
        value = (value - value.mean(1, keepdim=True)) * (items.shape[1] / (items.shape[1] - 1))
    return (value * noise).mean(1) / sigma


def diagonal(
    upstream: Float[Tensor, "batch focus prototypes"],
    noise: Float[Tensor, "batch samples prototypes"],
    items: Int[Tensor, "batch samples focus"],
    sigma: float,
) -> Float[Tensor, "batch prototypes"]:
    """The authors' estimator: how P[·, i] answers to s_i, without how it answers to every other score."""
    here = read(pad(upstream, (0, 1)), cells(items, noise.shape[-1] + 1)) * pad(noise, (0, 1)).gather(-1, items)
    total = here.new_zeros(len(here), noise.shape[-1] + 1).scatter_add(1, items.flatten(1), here.flatten(1))
    return total[:, :-1] / (items.shape[1] * sigma)


def rao_blackwell(
    upstream: Float[Tensor, "batch focus prototypes"],
    scores: Float[Tensor, "batch prototypes"],
    items: Int[Tensor, "batch samples focus"],
    border: Border,
    sigma: float,
) -> Float[Tensor, "batch prototypes"]:
    """E[pdf((s_i − t_i) / σ) / σ · (⟨g, P with i⟩ − ⟨g, P without i⟩)]: the noise of item i is integrated out exactly.

    With all other noise fixed, item i is held exactly where s_i + σ z_i exceeds t_i, the K-th largest of the others.
    That is the noisy score of i's partner: the first to enter for held items, the last held one for the others.
    """
    items = items[:, : border.last.shape[1]]
    scores = pad(scores, (0, 1))
    held_scores = scores.gather(1, items.flatten(1)).view(items.shape)
    leaving, entering = exchange_gains(upstream, items, border)
    leaving = leaving.mul_(bell_(held_scores - border.next_value, sigma))
    entering = entering.mul_(bell_(scores.unsqueeze(1) - border.last_value, sigma))
    total = entering.scatter(-1, items, leaving).sum(1)[:, :-1]
    return total / (items.shape[1] * sigma * math.sqrt(2 * math.pi))


def bell_(distance: Float[Tensor, "*shape"], sigma: float) -> Float[Tensor, "*shape"]:
    """exp(−d² / 2σ²) in the memory of d: fresh pages would cost as much as the arithmetic."""
    return distance.square_().mul_(-0.5 / sigma**2).exp_()
