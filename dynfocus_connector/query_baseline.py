"""A rival whose tokens are the text encoder's queries."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfocus_connector.budget import TokenBudget, evenly
from dynfocus_connector.contracts import CompressedVideo, TokenKind


class QueryTokens(nn.Module):
    """Every frame's own query tokens, one linear layer away from the language model: BLIP-2's way, frame by frame.

    Of M queries per frame the first ⌊budget / T⌋ are kept; a budget below one token per frame takes fewer frames,
    evenly.

    Args:
        dim_text: Width of the queries.
        dim_out: Width of the tokens.
        projector: None for no layer: tokens keep the width of the queries.
    """

    def __init__(
        self,
        dim_text: int,
        dim_out: int,
        *,
        projector: str | None = "mlp2x_gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.projector: nn.Module = (
            nn.Identity() if projector is None else nn.Linear(dim_text, dim_out, device=device, dtype=dtype)
        )

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Tensor | None = None,
        *,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        budget: TokenBudget | None = None,
        **unused: Any,
    ) -> CompressedVideo:
        """As `DynFocusConnector`; the queries are those of each frame.

        Raises:
            ValueError: no queries per frame, or a budget of no token.
        """
        if text is None or text.ndim != 4:
            got = None if text is None else tuple(text.shape)
            raise ValueError(f"QueryTokens: expected text of shape [batch frames queries dim_text], got {got}.")
        videos = []
        for b, queries in enumerate(text):
            queries = queries if frame_mask is None else queries[frame_mask[b]]
            videos.append(self._one(queries, frames.shape[2], budget))
        return CompressedVideo.pack(videos)

    def _one(self, queries: Float[Tensor, "frames queries dim_text"], patches: int, budget: Any) -> CompressedVideo:
        length, count = queries.shape[:2]
        limit = length * count if budget is None else budget.tokens_for(length, patches)
        if limit < 1:
            raise ValueError(f"QueryTokens: expected a budget of at least 1 token, got {limit}.")
        moments = torch.tensor(evenly(length, min(length, limit)), device=queries.device)
        count = min(count, patches, limit // max(len(moments), 1)) if len(moments) else 0
        tokens = self.projector(queries[moments, :count]).flatten(0, 1)
        frame = moments.repeat_interleave(count)
        slot = torch.arange(count, device=queries.device) * patches // max(count, 1)
        return CompressedVideo.build(
            tokens=tokens,
            frame_index=frame,
            kind=torch.full_like(frame, int(TokenKind.ROD)),
            anchor=slot.repeat(len(moments)),
            offsets=torch.tensor([0, len(tokens)], device=queries.device),
        )
