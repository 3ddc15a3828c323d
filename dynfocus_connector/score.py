"""How much an event matters to the answer (Eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfocus_connector.choices import ScoreInput


class ScoreNetwork(nn.Module):
    """φ: one score per event prototype, learned through the answer alone. It sees no text.

    s_l = φ([m_l^max ; m̄_l])

    m_l^max is the row of m_l (P × D) with the largest norm, m̄_l the mean row. φ is LayerNorm, then Linear and GELU for
    each hidden width, then Linear to 1: with the default widths (2D, D, D/2) it has 12,897,281 parameters at D = 1408.

    **Source**: Sec. 3.2, Eq. 6. **Symbols**: `dim` is D.
    **Deviations**: the paper gives no layers; Table 9's 11.87 M could not be met by any plain reading.

    Args:
        dim: D, the width of a prototype's rows.
        hidden: Widths of the hidden layers.
        score_input: ``"largest_norm"`` (the paper) or ``"elementwise_max"`` (the authors' code: [mean ; maximum]).
        share_context: After the first hidden layer the second half of the channels becomes its mean over the video's
            prototypes (the authors' code).
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: Sequence[int] | None = None,
        score_input: ScoreInput = "largest_norm",
        share_context: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = (2 * dim, dim, max(dim // 2, 1)) if hidden is None else tuple(hidden)
        self.score_input = score_input
        self.share_context = share_context
        self.embed, self.regress = score_layers(2 * dim, hidden, device, dtype)

    def forward(
        self,
        prototypes: Float[Tensor, "batch prototypes pooled dim"],
        mask: Bool[Tensor, "batch prototypes"] | None = None,
    ) -> Float[Tensor, "batch prototypes"]:
        """Scores of any range, higher = matters more."""
        hidden = self.embed(summarise(prototypes, self.score_input))
        if self.share_context:
            own, shared = hidden.chunk(2, dim=-1)
            hidden = torch.cat([own, masked_mean(shared, mask).expand_as(shared)], dim=-1)
        return self.regress(hidden)[..., 0]


class QuestionScoreNetwork(nn.Module):
    """The same score, conditioned on the question: ours, not the paper's.

    s_l = φ([m_l^max ; m̄_l ; c_l ; m̄_l' ⊙ c_l]), where c_l is what prototype l finds in the question by attention over
    its tokens and m̄_l' a linear map of [m_l^max ; m̄_l]. Without a question c_l is 0 and a plain score remains.

    Args:
        dim: D, the width of a prototype's rows.
        dim_text: Width of the text features.
        hidden: Widths of the hidden layers.
        score_input: As in `ScoreNetwork`.
    """

    def __init__(
        self,
        dim: int,
        dim_text: int,
        *,
        hidden: Sequence[int] | None = None,
        score_input: ScoreInput = "largest_norm",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = (2 * dim, dim, max(dim // 2, 1)) if hidden is None else tuple(hidden)
        self.score_input = score_input
        self.query = nn.Linear(2 * dim, dim, device=device, dtype=dtype)
        self.key = nn.Linear(dim_text, dim, device=device, dtype=dtype)
        self.value = nn.Linear(dim_text, dim, device=device, dtype=dtype)
        self.embed, self.regress = score_layers(4 * dim, hidden, device, dtype)

    def forward(
        self,
        prototypes: Float[Tensor, "batch prototypes pooled dim"],
        text: Float[Tensor, "batch queries dim_text"],
        text_mask: Bool[Tensor, "batch queries"] | None = None,
    ) -> Float[Tensor, "batch prototypes"]:
        """Scores of any range, higher = matters more to this question."""
        summary = summarise(prototypes, self.score_input)
        query = self.query(summary)
        found = attend(query, self.key(text), self.value(text), text_mask)
        return self.regress(self.embed(torch.cat([summary, found, query * found], dim=-1)))[..., 0]


def score_layers(
    width: int, hidden: Sequence[int], device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[nn.Sequential, nn.Sequential]:
    """φ in two parts: LayerNorm, Linear, GELU; then Linear and GELU for each further width, Linear to 1."""
    if not hidden:
        raise ValueError("ScoreNetwork: expected at least 1 hidden width, got 0.")
    embed = nn.Sequential(
        nn.LayerNorm(width, device=device, dtype=dtype),
        nn.Linear(width, hidden[0], device=device, dtype=dtype),
        nn.GELU(),
    )
    regress: list[nn.Module] = []
    for before, after in pairwise(hidden):
        regress += [nn.Linear(before, after, device=device, dtype=dtype), nn.GELU()]
    return embed, nn.Sequential(*regress, nn.Linear(hidden[-1], 1, device=device, dtype=dtype))


def summarise(
    prototypes: Float[Tensor, "batch prototypes pooled dim"], score_input: ScoreInput
) -> Float[Tensor, "batch prototypes two_dim"]:
    """[m^max ; m̄] of the paper, or [m̄ ; element-wise maximum] of the authors' code."""
    mean = prototypes.mean(2)
    if score_input == "elementwise_max":
        return torch.cat([mean, prototypes.amax(2)], dim=-1)
    if score_input != "largest_norm":
        raise ValueError(
            f"ScoreNetwork: expected score_input 'largest_norm' or 'elementwise_max', got {score_input!r}."
        )
    norm = prototypes.to(torch.promote_types(prototypes.dtype, torch.float32)).norm(dim=-1)
    row = norm.argmax(-1)[..., None, None].expand(*mean.shape[:2], 1, mean.shape[-1])
    return torch.cat([prototypes.gather(2, row)[:, :, 0], mean], dim=-1)


def attend(
    query: Float[Tensor, "*batch rows dim"],
    key: Float[Tensor, "*batch queries dim"],
    value: Float[Tensor, "*batch queries width"],
    mask: Bool[Tensor, "*batch queries"] | None,
) -> Float[Tensor, "*batch rows width"]:
    """Scaled dot-product attention; rows that may look at nothing get 0."""
    logits = (query @ key.mT).to(torch.promote_types(query.dtype, torch.float32)) / query.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[..., None, :], torch.finfo(logits.dtype).min)
    weight = logits.softmax(-1)
    if mask is not None:
        weight = weight * mask[..., None, :]
    return weight.to(value.dtype) @ value


def masked_mean(
    values: Float[Tensor, "batch prototypes dim"], mask: Bool[Tensor, "batch prototypes"] | None
) -> Float[Tensor, "batch 1 dim"]:
    """The mean over real prototypes."""
    if mask is None:
        return values.mean(1, keepdim=True)
    total = values.masked_fill(~mask[..., None], 0).sum(1, keepdim=True)
    return total / mask.sum(1).clamp(min=1)[:, None, None]


def min_max(
    scores: Float[Tensor, "batch prototypes"],
    mask: Bool[Tensor, "batch prototypes"] | None = None,
    *,
    epsilon: float = 0.0,
) -> Float[Tensor, "batch prototypes"]:
    """Scores scaled to [0, 1] over each video's finite ones: −∞ becomes 0, all equal become 1, padding 0.

    **Source**: Sec. 3.2, below Eq. 6. `epsilon` is added to the range (the authors' code: 1e-5).

    Example:
        >>> min_max(torch.tensor([[1.0, 3.0, 2.0, -torch.inf]])).tolist()
        [[0.0, 1.0, 0.5, 0.0]]
    """
    known = scores.isfinite() if mask is None else scores.isfinite() & mask
    low = torch.where(known, scores, torch.inf).amin(-1, keepdim=True)
    high = torch.where(known, scores, -torch.inf).amax(-1, keepdim=True)
    spread = torch.where(high > low, high - low, 1)
    scaled = torch.where(known, (torch.where(known, scores, 0) - low) / (spread + epsilon), 0)
    equal = known & (high <= low)
    lost = ~known.any(-1, keepdim=True) & (torch.ones_like(known) if mask is None else mask)
    return torch.where(equal | lost, 1 + scaled * 0, scaled)


def per_video(
    text: Float[Tensor, "batch *each queries dim"] | None,
    text_mask: Bool[Tensor, "batch *each queries"] | None,
    frame_mask: Bool[Tensor, "batch frames"] | None,
) -> tuple[Float[Tensor, "batch queries dim"] | None, Bool[Tensor, "batch queries"] | None]:
    """Per-frame queries [batch frames queries dim] as their mean over the real frames; others as they are."""
    if text is None or text.ndim == 3:
        return text, text_mask
    real = torch.ones_like(text[..., 0], dtype=torch.bool) if text_mask is None else text_mask
    real = real if frame_mask is None else real & frame_mask[..., None]
    total = text.masked_fill(~real[..., None], 0).sum(1)
    return total / real.sum(1).clamp(min=1)[..., None], real.any(1)


def text_similarity(
    prototypes: Float[Tensor, "batch prototypes pooled dim"],
    text: Float[Tensor, "batch queries dim_text"],
    text_mask: Bool[Tensor, "batch queries"] | None,
) -> Float[Tensor, "batch prototypes"]:
    """Cosine between the question (its tokens' mean direction) and each event's best-matching cell.

    Raises:
        ValueError: text and frames of different width, which cannot share a space.
    """
    if text.shape[-1] != prototypes.shape[-1]:
        raise ValueError(
            f"DynamicPrototypeEstimator: expected text of width {prototypes.shape[-1]} for text_weight > 0, "
            f"got {text.shape[-1]}. Text and frames must live in one space, as CLIP's do."
        )
    direction = nn.functional.normalize(text, dim=-1)
    if text_mask is not None:
        direction = direction.masked_fill(~text_mask[..., None], 0)
    question = nn.functional.normalize(direction.sum(1), dim=-1)
    cells = nn.functional.normalize(prototypes, dim=-1)
    return torch.einsum("blpd,bd->blp", cells, question).amax(-1)
