"""Rods: two tokens for every other frame, what it shows and what of that the question asks for (Eq. 11–12)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector.choices import RodAttention


class RodEncoder(nn.Module):
    """The two rows of a peripheral frame before F_coarse: content, then context.

    E_t = softmax(φ_q(Q) φ_k(G_t)ᵀ / √D) G_t,   x_t = F_coarse([mean(G_t) ; mean(E_t)])

    F_coarse is applied by `CompactCooperativeEncoder`, because it shares F_fine. Without a question the second row is
    the densest prototype: uniform attention would only repeat the first.

    **Source**: Sec. 3.3, Eq. 11–12. **Symbols**: `sources` are G_t, or the frame's patches; `text` is Q.
    **Deviations**: the text asks and the prototypes are asked, as in the authors' code (docs/deviations.md).

    Args:
        dim: D.
        dim_text: Width of the text features; None when they already have width D and need no φ_q.
        attention: ``"learned"`` φ_q and φ_k, or ``"cosine"``: both the identity on L2-normalised rows, usable without
            training where text and vision share a space.
        temperature: Divides the logits of ``"cosine"``.
    """

    def __init__(
        self,
        dim: int,
        dim_text: int | None = None,
        *,
        attention: RodAttention = "learned",
        temperature: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if attention not in ("learned", "cosine"):
            raise ValueError(f"RodEncoder: expected attention 'learned' or 'cosine', got {attention!r}.")
        if not temperature > 0:
            raise ValueError(f"RodEncoder: expected temperature > 0, got {temperature}.")
        if attention == "cosine" and dim_text not in (None, dim):
            raise ValueError(
                f"RodEncoder: expected dim_text={dim} or None with attention 'cosine', got {dim_text}. "
                "It compares text and vision of one space; use attention 'learned' where there are two."
            )
        self.dim = dim
        self.dim_text = dim if dim_text is None else dim_text
        self.attention = attention
        self.temperature = temperature
        self.query: nn.Module = nn.Identity()
        self.key: nn.Module = nn.Identity()
        if attention == "learned":
            self.key = nn.Linear(dim, dim, device=device, dtype=dtype)
            if dim_text is not None:
                self.query = nn.Linear(dim_text, dim, device=device, dtype=dtype)

    def forward(
        self,
        sources: Float[Tensor, "batch frames sources dim"],
        source_mask: Bool[Tensor, "batch frames sources"],
        densest: Int[Tensor, "batch frames"],
        text: Float[Tensor, "batch *frames queries dim_text"] | None = None,
        text_mask: Bool[Tensor, "batch *frames queries"] | None = None,
    ) -> Float[Tensor, "batch frames two dim"]:
        """[mean(G_t) ; mean(E_t)]."""
        return self.weights(sources, source_mask, densest, text, text_mask) @ sources

    def weights(
        self,
        sources: Float[Tensor, "batch frames sources dim"],
        source_mask: Bool[Tensor, "batch frames sources"],
        densest: Int[Tensor, "batch frames"],
        text: Float[Tensor, "batch *frames queries dim_text"] | None = None,
        text_mask: Bool[Tensor, "batch *frames queries"] | None = None,
    ) -> Float[Tensor, "batch frames two sources"]:
        """`forward` as a matrix over the sources: uniform weights, then the mean attention of the question's tokens.

        Args:
            sources: G_t, or patches.
            source_mask: Which of them are real.
            densest: The source that stands in for the context where there is no question.
            text: Q, one set of tokens per video, or one per frame (Q-Former queries that have seen the frame).
            text_mask: Which tokens are real; a video without any has no question.

        Raises:
            ValueError: text of another width.
        """
        content = source_mask.to(sources.dtype)
        content = content / content.sum(-1, keepdim=True).clamp(min=1)
        no_question = nn.functional.one_hot(densest, sources.shape[2]).to(sources.dtype)
        if text is None:
            text = sources.new_zeros(len(sources), 0, self.dim_text)
            text_mask = None
        if text.shape[-1] != self.dim_text:
            raise ValueError(f"RodEncoder: expected text of width {self.dim_text}, got {text.shape[-1]}.")
        if text.ndim == 3:
            text = text[:, None]
            text_mask = None if text_mask is None else text_mask[:, None]
        attention = self._attention(sources, source_mask, text)
        real = torch.ones_like(text[..., 0], dtype=torch.bool) if text_mask is None else text_mask
        count = real.sum(-1)[..., None]
        context = attention.masked_fill(~real[..., None], 0).sum(2) / count.clamp(min=1)
        context = torch.where(count > 0, context.to(sources.dtype), no_question)
        return torch.stack([content, context], dim=2)

    def _attention(
        self, sources: Tensor, source_mask: Tensor, text: Tensor
    ) -> Float[Tensor, "batch frames queries sources"]:
        query, key = self.query(text), self.key(sources)
        if self.attention == "cosine":
            query, key = nn.functional.normalize(query, dim=-1), nn.functional.normalize(key, dim=-1)
        logits = query @ key.mT
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits / (self.temperature if self.attention == "cosine" else self.dim**0.5)
        return logits.masked_fill(~source_mask[:, :, None], torch.finfo(logits.dtype).min).softmax(-1)
