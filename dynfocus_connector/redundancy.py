"""How much of a video is redundant (Appendix A, Fig. 1)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

TokenReduction = Literal["max", "mean"]


class Redundancy(NamedTuple):
    """Shares of a video's frames, between 0 and 1."""

    temporal: float
    """frames that look like the next one"""
    answer_irrelevant: float | None
    """frames unlike question and answer; None without text"""


def estimate_redundancy(
    frames: Float[Tensor, "frames dim"],
    text: Float[Tensor, "tokens dim_text"] | None = None,
    *,
    temporal_threshold: float,
    relevance_threshold: float | None = None,
    reduction: TokenReduction = "max",
) -> Redundancy:
    """The two redundancy ratios of one video.

    Temporal: the share of frames whose cosine similarity to the next frame, min–max normalised over the video, is
    above a threshold. Answer-irrelevant: the share of frames whose similarity to the question and answer, normalised
    alike, is below one.

    **Source**: Appendix A. **Deviations**: the thresholds, and how token similarities become one number, are lost from
    the text; both are arguments. A static video, where min–max is 0/0, counts as redundant in time; one whose frames
    all relate alike to the text as relevant throughout.

    Args:
        frames: One feature per frame, e.g. CLIP's image embedding.
        text: One feature per token of question and answer, in the same space.
        temporal_threshold: Between 0 and 1.
        relevance_threshold: Between 0 and 1; needed with `text`.
        reduction: Similarity of a frame to the text: the maximum over tokens, or their mean.

    Raises:
        ValueError: fewer than 2 frames, text without a threshold or of another width, unknown reduction.

    Example:
        >>> frames = torch.eye(4)[[0, 0, 0, 1, 2]]
        >>> estimate_redundancy(frames, temporal_threshold=0.5).temporal
        0.5
    """
    if len(frames) < 2:
        raise ValueError(f"estimate_redundancy: expected at least 2 frames, got {len(frames)}.")
    rows = nn.functional.normalize(frames.double(), dim=-1)
    following = _min_max((rows[:-1] * rows[1:]).sum(-1), equal=1.0)
    temporal = (following > temporal_threshold).double().mean().item()
    if text is None:
        return Redundancy(temporal, None)
    if relevance_threshold is None:
        raise ValueError("estimate_redundancy: expected a relevance_threshold with text, got None.")
    if text.shape[-1] != frames.shape[-1]:
        raise ValueError(f"estimate_redundancy: expected text of width {frames.shape[-1]}, got {text.shape[-1]}.")
    similarity = rows @ nn.functional.normalize(text.double(), dim=-1).mT
    if reduction not in ("max", "mean"):
        raise ValueError(f"estimate_redundancy: expected reduction 'max' or 'mean', got {reduction!r}.")
    relevance = similarity.amax(-1) if reduction == "max" else similarity.mean(-1)
    irrelevant = (_min_max(relevance, equal=1.0) < relevance_threshold).double().mean().item()
    return Redundancy(temporal, irrelevant)


def _min_max(values: Tensor, *, equal: float) -> Tensor:
    """Scaled to [0, 1]; `equal` where all are the same to rounding."""
    low, high = values.min(), values.max()
    if high - low <= 1e-9:
        return torch.full_like(values, equal)
    return (values - low) / (high - low)
