"""A rival whose tokens are the text encoder's queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynfocus_connector.budget import evenly
from dynfocus_connector.contracts import TokenKind
from dynfocus_connector.pooled_baselines import OneByOne
from dynfocus_connector.pooling import Grid


class QueryTokens(OneByOne):
    """Every frame's own query tokens, one linear layer away from the language model: BLIP-2's way, frame by frame.

    Of M queries per frame the first ⌊budget / T⌋ are kept; a budget below one token per frame takes fewer frames,
    evenly.

    Args:
        dim_text: Width of the queries.
        dim_out: Width of the tokens.
        projector: None for no layer: tokens keep the width of the queries.

    Raises:
        ValueError: no queries per frame, or a budget of no token.
    """

    kind = TokenKind.ROD

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
        self.projector = (
            nn.Identity() if projector is None else nn.Linear(dim_text, dim_out, device=device, dtype=dtype)
        )

    def _seen(self, frames: Tensor, text: Tensor | None) -> Tensor:
        if text is None or text.ndim != 4 or not text.shape[2]:
            got = None if text is None else tuple(text.shape)
            raise ValueError(
                f"QueryTokens: expected text of shape [batch frames queries dim_text] with at least 1 query, got {got}."
            )
        return text

    def _pool(self, video: Tensor, grid: Grid, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        (length, count), patches = video.shape[:2], grid[0] * grid[1]
        limit = length * count if limit is None else limit
        moments = torch.tensor(evenly(length, min(length, limit)), device=video.device)
        count = min(count, patches, limit // len(moments))
        slot = torch.arange(count, device=video.device) * patches // count
        return video[moments, :count].flatten(0, 1), moments.repeat_interleave(count), slot.repeat(len(moments))
