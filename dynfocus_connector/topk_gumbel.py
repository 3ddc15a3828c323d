"""Another relaxation of the Top-K, to compare with: successive softmaxes of Gumbel-perturbed scores."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gumbel_topk(
    scores: Float[Tensor, "batch prototypes"],
    k: int | Int[Tensor, " batch"],
    *,
    scale: float = 0.1,
    temperature: float = 0.5,
    generator: torch.Generator | None = None,
    mask: Bool[Tensor, "batch prototypes"] | None = None,
    max_k: int | None = None,
) -> Float[Tensor, "batch focus prototypes"]:
    """One relaxed draw of K entries without replacement, rows in order of their mean index.

    α_1 = s / σ + G,  p_j = softmax(α_j / τ),  α_{j+1} = α_j + log(1 − p_j),  G ~ Gumbel(0, 1)

    With τ → 0 the first draw follows softmax(s / σ): σ is the spread of the noise, as in `perturbed_topk`.

    **Source**: Xie and Ermon, "Reparameterizable subset sampling via continuous relaxations", 2019.

    Args:
        scores: Higher is better; finite where `mask` is True.
        k: How many to choose, for all rows or for each. Rows of the result beyond it are 0.
        scale: σ, in units of the scores.
        temperature: τ, between 0 (hard draws, no gradient) and 1 (very soft ones).
        generator: Source of the noise.
        mask: True where an entry may be chosen.
        max_k: Rows of the result; by default k, or the number of entries where k is a tensor.

    Returns:
        In the dtype of the scores; real rows sum to 1.

    Raises:
        ValueError: a scale or a temperature that is not positive.

    Example:
        >>> soft = gumbel_topk(torch.tensor([[9.0, 0.0, 8.0]]), 2, generator=torch.Generator().manual_seed(0))
        >>> soft.round().int().tolist()
        [[[1, 0, 0], [0, 0, 1]]]
    """
    if not (scale > 0 and temperature > 0):
        raise ValueError(f"gumbel_topk: expected scale and temperature > 0, got {scale} and {temperature}.")
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    rows = max_k if max_k is not None else scores.shape[1] if isinstance(k, Tensor) else k
    wanted = k if isinstance(k, Tensor) else torch.full((len(scores),), k, device=scores.device)
    device = scores.device if generator is None else generator.device
    uniform = torch.rand(scores.shape, generator=generator, device=device).to(scores.device)
    noise = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
    logits = scores.to(torch.promote_types(scores.dtype, torch.float32)) / scale + noise
    logits = logits.masked_fill(~allowed, -torch.inf)
    drawn = []
    for _ in range(rows):
        drawn.append((logits / temperature).softmax(-1).nan_to_num(0.0))
        logits = logits + _log_not_drawn(logits / temperature)
    if not drawn:
        return scores[:, None][:, :0]
    real = torch.arange(rows, device=scores.device) < torch.minimum(wanted, allowed.sum(-1))[:, None]
    soft = torch.where(real[..., None] & allowed[:, None], torch.stack(drawn, dim=1), 0.0)
    return _by_mean_index(soft, real).to(scores.dtype)


def _log_not_drawn(logits: Float[Tensor, "batch prototypes"]) -> Float[Tensor, "batch prototypes"]:
    """log(1 − softmax), from the others' sum: 1 − p itself would be lost where p is nearly 1."""
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].masked_fill(itself, -torch.inf).logsumexp(-1)
    return (others - logits.logsumexp(-1, keepdim=True)).clamp(min=-1e4)


def _by_mean_index(
    soft: Float[Tensor, "batch focus prototypes"], real: Bool[Tensor, "batch focus"]
) -> Float[Tensor, "batch focus prototypes"]:
    """Real rows first, ascending by the mean of the index they choose."""
    index = torch.arange(soft.shape[-1], dtype=soft.dtype, device=soft.device)
    order = (soft.detach() @ index).masked_fill(~real, torch.inf).argsort(dim=1, stable=True)
    return soft.gather(1, order[..., None].expand_as(soft))
