"""The differentiable Top-K (Eq. 7–9): sampled with a low-variance gradient, exact without sampling, and hard."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.choices import GradientEstimator
from dynfocus_connector.topk_gradients import SampledTopK
from dynfocus_connector.topk_quadrature import expected_topk


def perturbed_topk(
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    *,
    sigma: float = 0.1,
    num_samples: int | None = 500,
    gradient: GradientEstimator = "rao_blackwell",
    gradient_samples: int | None = None,
    generator: torch.Generator | None = None,
    noise: Float[Tensor, "batch samples prototypes"] | None = None,
    mask: Bool[Tensor, "batch prototypes"] | None = None,
    max_k: int | None = None,
) -> Float[Tensor, "batch focus prototypes"]:
    """The Top-K as a matrix, smoothed by Gaussian noise until it has a gradient.

    P*(s) = argmax_P ⟨P, 1 sᵀ⟩ over one-hot P with rows in order of index,  P_σ(s) = E_Z[P*(s + σZ)],  Z ~ N(0, I),
    ∂P_σ/∂s = E_Z[P*(s + σZ) Zᵀ] / σ

    Both expectations are means over samples. Rows sum to 1, column sums lie in [0, 1] and add up to K, and adding a
    constant to the scores changes nothing. Row i is *not* item i of the hard Top-K: close scores blur it.

    **Source**: Sec. 3.2, Eq. 7–9 (after Berthet et al. 2020 and Cordonnier et al. 2021).
    **Symbols**: `scores` is s, `k` is K, `prototypes` L, `focus` K.
    **Deviations**: the authors' backward keeps the diagonal of the Jacobian only (``gradient="diagonal"``), which is
    not the gradient. The others are unbiased; the default integrates one noise coordinate at a time in closed form and
    has a small fraction of the variance of the literal Eq. 9 (``"plain"``). See docs/deviations.md.

    Args:
        scores: Higher is better; the paper's are min–max normalised to [0, 1]. NaN counts as -inf and gets no gradient.
        k: How many to choose, for all rows or for each; in a tensor, values are clamped to `max_k`, and everywhere to
            the number of unmasked entries. Rows of the result beyond it are 0.
        sigma: Standard deviation of the noise, in units of the scores.
        num_samples: Samples of Z, at least 2; None leaves sampling for `exact_topk`.
        gradient: ``"rao_blackwell"``, ``"leave_one_out"`` (Eq. 9 with the mean of the other samples as baseline),
            ``"plain"`` (Eq. 9) or ``"diagonal"``, for ablations.
        gradient_samples: How many of the samples ``"rao_blackwell"`` looks at; None for all. Its variance grows, its
            time falls with the share: 50 of 500 are still better than 500 ``"plain"`` ones.
        generator: Source of the noise.
        noise: Z itself; `num_samples` and `generator` are then not used. The only form inside a compiled graph.
        mask: True where an entry may be chosen.
        max_k: Rows of the result; by default k, or the number of entries where k is a tensor.

    Returns:
        P_σ(s), in the dtype of the scores, computed in float32 or better.

    Raises:
        ValueError: k or max_k out of range, fewer than 2 samples, sigma not positive, an unknown gradient, more
            `gradient_samples` than samples or with another gradient, `noise` together with ``num_samples=None``, or
            shapes that do not fit.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1, 0.8, 0.2]], requires_grad=True)
        >>> soft = perturbed_topk(scores, 2, generator=torch.Generator().manual_seed(0))
        >>> soft.argmax(-1).tolist()
        [[0, 2]]
        >>> soft[0, 0, 0].backward()
        >>> scores.grad.shape
        torch.Size([1, 4])
    """
    caller = "perturbed_topk"
    if gradient not in get_args(GradientEstimator):
        raise ValueError(f"{caller}: expected gradient to be one of {get_args(GradientEstimator)}, got {gradient!r}.")
    if num_samples is None:
        if noise is not None:
            shape = tuple(noise.shape)
            raise ValueError(f"{caller}: expected no noise with num_samples=None, got noise of shape {shape}.")
        return exact_topk(scores, k, sigma=sigma, mask=mask, max_k=max_k)
    _check(caller, scores, k, mask, max_k, sigma)
    _check_noise(caller, scores, num_samples, noise)
    rows = _rows(scores, k, max_k)
    if rows == 0:
        return scores[:, None][:, :0]
    if noise is None:
        noise = _draw_noise(scores, num_samples, generator)
    used = _gradient_samples(gradient, gradient_samples, noise.shape[1])
    ranking = _ranking(scores, mask)
    noise = noise.detach().to(ranking.dtype)
    if isinstance(k, int) and k == rows and mask is None:
        return SampledTopK.apply(ranking, noise, None, rows, sigma, gradient, used)[0].to(scores.dtype)
    allowed, counts = _allowed(scores, k, mask, rows)
    soft = SampledTopK.apply(ranking, noise, counts, rows, sigma, gradient, used)[0]
    return _only_real(soft, allowed, counts).to(scores.dtype)


def exact_topk(
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    *,
    sigma: float = 0.1,
    mask: Bool[Tensor, "batch prototypes"] | None = None,
    max_k: int | None = None,
) -> Float[Tensor, "batch focus prototypes"]:
    """The smoothed Top-K of `perturbed_topk` with its expectation computed, not sampled.

    P_σ(s)[m, i] = ∫ Pr(the K-th largest of s + σZ is t, i is held, m held items come before i) dt

    Deterministic, with an exact gradient to any order. Computed in float64 by a quadrature of 96 nodes, whose rows sum
    to 1 within 1e-7, mostly within 1e-12. Takes O(96·K·L) time and memory per row of scores: good for up to a few
    hundred entries.

    **Source**: Sec. 3.2, Eq. 8; the quadrature is ours.
    **Deviations**: see docs/deviations.md.

    Args:
        scores: Higher is better. NaN counts as -inf and gets no gradient.
        k: How many to choose, for all rows or for each (see `perturbed_topk`).
        sigma: Standard deviation of the noise, in units of the scores.
        mask: True where an entry may be chosen.
        max_k: Rows of the result; by default k, or the number of entries where k is a tensor.

    Returns:
        P_σ(s), in the dtype of the scores.

    Raises:
        ValueError: k or max_k out of range, sigma not positive, or shapes that do not fit.

    Example:
        >>> exact_topk(torch.tensor([[0.6, 0.4]]), 1, sigma=0.1)
        tensor([[[0.9214, 0.0786]]])
    """
    _check("exact_topk", scores, k, mask, max_k, sigma)
    rows = _rows(scores, k, max_k)
    if rows == 0:
        return scores[:, None][:, :0]
    allowed, counts = _allowed(scores, k, mask, rows)
    soft = expected_topk(scores, allowed, counts, rows, sigma)
    return _only_real(soft, allowed, counts).to(scores.dtype)


def hard_topk(
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    *,
    mask: Bool[Tensor, "batch prototypes"] | None = None,
    max_k: int | None = None,
) -> Float[Tensor, "batch focus prototypes"]:
    """The Top-K as one-hot rows in order of index.

    P*(s) = argmax_P ⟨P, 1 sᵀ⟩

    **Source**: Sec. 3.2, Eq. 7.

    Args:
        scores: Higher is better; of equal scores the lower index is chosen first. NaN counts as -inf.
        k: How many to choose, for all rows or for each (see `perturbed_topk`).
        mask: True where an entry may be chosen.
        max_k: Rows of the result; by default k, or the number of entries where k is a tensor.

    Returns:
        P*(s) in the dtype of the scores, without gradient.

    Raises:
        ValueError: k or max_k out of range, or shapes that do not fit.

    Example:
        >>> hard_topk(torch.tensor([[0.1, 0.9, 0.5]]), 2)
        tensor([[[0., 1., 0.],
                 [0., 0., 1.]]])
    """
    index = _hard_topk_indices("hard_topk", scores, k, mask, max_k)
    item = torch.arange(scores.shape[-1], device=scores.device)
    return (index[..., None] == item).to(scores.dtype)


def hard_topk_indices(
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    *,
    mask: Bool[Tensor, "batch prototypes"] | None = None,
    max_k: int | None = None,
) -> Int[Tensor, "batch focus"]:
    """The indices of the K largest scores, ascending, -1 at the end of rows that have fewer.

    **Source**: Sec. 3.2, Eq. 7.

    Args:
        scores: Higher is better; of equal scores the lower index is chosen first. NaN counts as -inf.
        k: How many to choose, for all rows or for each (see `perturbed_topk`).
        mask: True where an entry may be chosen.
        max_k: Columns of the result; by default k, or the number of entries where k is a tensor.

    Returns:
        Indices into each row of the scores.

    Raises:
        ValueError: k or max_k out of range, or shapes that do not fit.

    Example:
        >>> hard_topk_indices(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2]))
        tensor([[ 1,  2, -1]])
    """
    return _hard_topk_indices("hard_topk_indices", scores, k, mask, max_k)


def _hard_topk_indices(
    caller: str,
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    mask: Bool[Tensor, "batch prototypes"] | None,
    max_k: int | None,
) -> Int[Tensor, "batch focus"]:
    _check(caller, scores, k, mask, max_k)
    rows = _rows(scores, k, max_k)
    _, counts = _allowed(scores, k, mask, rows)
    best_first = torch.sort(_ranking(scores, mask), stable=True, dim=-1, descending=True).indices[:, :rows]
    beyond = torch.arange(rows, device=scores.device) >= counts[:, None]
    index = best_first.masked_fill(beyond, scores.shape[-1]).sort(-1).values
    return index.masked_fill(index == scores.shape[-1], -1)


def _check(
    caller: str,
    scores: Tensor,
    k: int | Tensor,
    mask: Tensor | None,
    max_k: int | None,
    sigma: float = 1.0,
) -> None:
    if scores.ndim != 2:
        raise ValueError(f"{caller}: expected scores of shape [batch prototypes], got {tuple(scores.shape)}.")
    batch, prototypes = scores.shape
    if mask is not None and mask.shape != scores.shape:
        raise ValueError(f"{caller}: expected mask of shape {(batch, prototypes)}, got {tuple(mask.shape)}.")
    if max_k is not None and not 0 <= max_k <= prototypes:
        raise ValueError(f"{caller}: expected 0 <= max_k <= {prototypes} entries, got {max_k}.")
    if isinstance(k, Tensor):
        if k.shape != (batch,):
            raise ValueError(f"{caller}: expected k of shape {(batch,)}, got {tuple(k.shape)}. Pass one k per row.")
    elif max_k is not None and not 0 <= k <= max_k:
        raise ValueError(f"{caller}: expected 0 <= k <= {max_k} = max_k, got {k}.")
    elif not 0 <= k <= prototypes:
        raise ValueError(f"{caller}: expected 0 <= k <= {prototypes} entries, got {k}.")
    if not sigma > 0:
        raise ValueError(f"{caller}: expected sigma > 0, got {sigma}. Use hard_topk for the limit without noise.")


def _check_noise(caller: str, scores: Tensor, num_samples: int, noise: Tensor | None) -> None:
    batch, prototypes = scores.shape
    if noise is not None:
        if noise.ndim != 3 or (noise.shape[0], noise.shape[2]) != (batch, prototypes):
            raise ValueError(
                f"{caller}: expected noise of shape ({batch}, samples, {prototypes}), got {tuple(noise.shape)}."
            )
        num_samples = noise.shape[1]
    if num_samples < 2:
        raise ValueError(
            f"{caller}: expected at least 2 samples, got {num_samples}. Take more, or num_samples=None for none."
        )


def _gradient_samples(gradient: GradientEstimator, wanted: int | None, samples: int) -> int:
    if wanted is None:
        return samples
    if gradient != "rao_blackwell":
        raise ValueError(
            f"perturbed_topk: expected gradient_samples with gradient='rao_blackwell', got {wanted} with {gradient!r}."
        )
    if not 1 <= wanted <= samples:
        raise ValueError(f"perturbed_topk: expected 1 <= gradient_samples <= {samples} samples, got {wanted}.")
    return wanted


def _rows(scores: Tensor, k: int | Tensor, max_k: int | None) -> int:
    """Rows of the result."""
    return max_k if max_k is not None else scores.shape[1] if isinstance(k, Tensor) else k


def _allowed(
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    mask: Bool[Tensor, "batch prototypes"] | None,
    rows: int,
) -> tuple[Bool[Tensor, "batch prototypes"], Int[Tensor, " batch"]]:
    """Which entries may be chosen, and how many are chosen in each row."""
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    wanted = k.long() if isinstance(k, Tensor) else torch.full((len(scores),), k, device=scores.device)
    return allowed, torch.minimum(wanted.clamp(0, rows), allowed.sum(-1))


def _ranking(
    scores: Float[Tensor, "batch prototypes"], mask: Bool[Tensor, "batch prototypes"] | None
) -> Float[Tensor, "batch prototypes"]:
    """Scores in float32 or better: infinities and NaN out of the noise's reach, lower index first, the rest -inf."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    rank = torch.arange(scores.shape[-1], dtype=scores.dtype, device=scores.device) / max(scores.shape[-1], 1)
    outside = torch.finfo(scores.dtype).max / 2 * (1 + rank)
    outside = torch.where(scores == torch.inf, outside.flip(-1), -outside)
    scores = torch.where(scores.isfinite(), scores, outside)
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def _draw_noise(
    scores: Float[Tensor, "batch prototypes"], samples: int, generator: torch.Generator | None
) -> Float[Tensor, "batch samples prototypes"]:
    batch, prototypes = scores.shape
    dtype = torch.promote_types(scores.dtype, torch.float32)
    device = scores.device if generator is None else generator.device
    noise = torch.randn(batch, samples, prototypes, generator=generator, dtype=dtype, device=device)
    return noise.to(scores.device)


def _only_real(
    soft: Float[Tensor, "batch focus prototypes"],
    allowed: Bool[Tensor, "batch prototypes"],
    counts: Int[Tensor, " batch"],
) -> Float[Tensor, "batch focus prototypes"]:
    """Zeros in padded rows and masked columns, and no gradient into them."""
    real_row = torch.arange(soft.shape[1], device=soft.device) < counts[:, None]
    return torch.where(real_row[:, :, None] & allowed[:, None, :], soft, 0.0)
