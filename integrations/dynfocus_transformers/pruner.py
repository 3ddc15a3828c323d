"""Temporal redundancy: tokens that repeat the frame before go, whatever the question."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, TokenBudget, TokenKind


class TemporalPruner(nn.Module):
    """Keep the first frame, and of every later one the patches that differ most from the same place one frame before.

    d_{t,n} = 1 − cos(v_{t,n}, v_{t−1,n}); the B patches with the largest d stay as they are, d_{1,n} = 2.

    **Source**: the idea of Efficient Video Sampling (arXiv:2510.14624). **Deviations**: the paper compares pixels by
    L1, here projected tokens are compared by cosine; ties go to the earlier patch.

    Args:
        ratio: The share of patches that stay, where a call gives no budget.

    Example:
        >>> frames = torch.randn(1, 1, 16, 8).expand(1, 5, 16, 8)
        >>> TemporalPruner(ratio=0.2)(frames).frame_index.unique().tolist()
        [0]
    """

    def __init__(self, ratio: float = 0.25) -> None:
        super().__init__()
        self.budget = TokenBudget(ratio=ratio)

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Tensor | None = None,
        *,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        budget: TokenBudget | None = None,
        **unused: Any,
    ) -> CompressedVideo:
        """As `DynFocusConnector`; text has no part in it."""
        masks = [None] * len(frames) if frame_mask is None else frame_mask
        pairs = zip(frames, masks, strict=True)
        return CompressedVideo.pack([self._prune(v if m is None else v[m], budget or self.budget) for v, m in pairs])

    @staticmethod
    def _prune(video: Float[Tensor, "frames patches dim"], budget: TokenBudget) -> CompressedVideo:
        length, patches, _ = video.shape
        count = min(budget.tokens_for(length, patches), length * patches)
        change = temporal_change(video).flatten()
        slots = change.sort(descending=True, stable=True).indices[:count].sort().values
        return CompressedVideo.build(
            tokens=video.flatten(0, 1)[slots],
            frame_index=slots // patches,
            kind=torch.full_like(slots, int(TokenKind.CONE)),
            anchor=slots % patches,
            offsets=torch.tensor([0, count], device=video.device),
        )


def temporal_change(video: Float[Tensor, "frames patches dim"]) -> Float[Tensor, "frames patches"]:
    """How much every patch differs from the one before it in time, 0 to 2; 2 in the first frame."""
    unit = nn.functional.normalize(video.to(torch.promote_types(video.dtype, torch.float32)), dim=-1)
    change = 1 - (unit[1:] * unit[:-1]).sum(-1)
    return torch.cat([torch.full_like(unit[:1, :, 0], 2.0), change])
