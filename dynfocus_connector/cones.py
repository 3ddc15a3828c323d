"""Cones: fine tokens for the frames that matter (Eq. 10)."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfocus_connector.choices import Fusion


class ConeEncoder(nn.Module):
    """The rows of a focus frame before F_fine, without any pooling.

    x_t = F_fine([h_k ; G_t])

    F_fine is applied by `CompactCooperativeEncoder`, because Eq. 12 shares it.

    **Source**: Sec. 3.3, Eq. 10; the fusions of Table 12. **Symbols**: `events` are h_k, `objects` are G_t.

    Args:
        dim: D.
        pooled: P, the rows of an event prototype.
        first_level: Rows of G_t that belong to its first level.
        fusion: ``"multi_grained"`` = [h_k ; all levels], ``"concatenation"`` = [h_k ; first level],
            ``"cross_attention"`` = the rows of h_k attend to G_t (the only one with parameters).
    """

    def __init__(
        self,
        dim: int,
        *,
        pooled: int = 16,
        first_level: int = 16,
        fusion: Fusion = "multi_grained",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if fusion not in get_args(Fusion):
            raise ValueError(f"ConeEncoder: expected fusion to be one of {get_args(Fusion)}, got {fusion!r}.")
        self.fusion = fusion
        self.pooled = pooled
        self.first_level = first_level
        if fusion == "cross_attention":
            self.query = nn.Linear(dim, dim, device=device, dtype=dtype)
            self.key = nn.Linear(dim, dim, device=device, dtype=dtype)

    def num_tokens(self, num_rows: int) -> int:
        """Tokens of a cone frame whose G_t has `num_rows` rows."""
        extra = {"multi_grained": num_rows, "concatenation": min(self.first_level, num_rows), "cross_attention": 0}
        return self.pooled + extra[self.fusion]

    def forward(
        self,
        events: Float[Tensor, "batch focus pooled dim"],
        objects: Float[Tensor, "batch focus rows dim"],
        row_mask: Bool[Tensor, "batch focus rows"],
    ) -> Float[Tensor, "batch focus tokens dim"]:
        """[h_k ; G_t], or its variants."""
        if self.fusion == "multi_grained":
            return torch.cat([events, objects], dim=2)
        if self.fusion == "concatenation":
            return torch.cat([events, objects[:, :, : self.first_level]], dim=2)
        return self.attention(events, objects, row_mask) @ objects

    def attention(self, events: Tensor, objects: Tensor, row_mask: Tensor) -> Float[Tensor, "batch focus pooled rows"]:
        """softmax(φ_q(h_k) φ_k(G_t)ᵀ / √D) over real rows."""
        logits = self.query(events) @ self.key(objects).mT
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / events.shape[-1] ** 0.5
        logits = logits.masked_fill(~row_mask[:, :, None], torch.finfo(logits.dtype).min)
        return logits.softmax(-1).to(objects.dtype)

    def weights(
        self,
        events: Float[Tensor, "batch focus pooled dim"],
        objects: Float[Tensor, "batch focus rows dim"],
        row_mask: Bool[Tensor, "batch focus rows"],
    ) -> Float[Tensor, "batch focus tokens sources"]:
        """`forward` as a matrix over [h_k ; G_t]."""
        batch, focus, rows = row_mask.shape
        sources = self.pooled + rows
        if self.fusion != "cross_attention":
            picked = torch.eye(sources, dtype=events.dtype, device=events.device)[: self.num_tokens(rows)]
            return picked.expand(batch, focus, *picked.shape)
        return nn.functional.pad(self.attention(events, objects, row_mask), (self.pooled, 0))
