"""F_fine and F_coarse: from the width of vision features to the width of the language model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Projector(nn.Module):
    """F_fine is a two-layer GELU network; F_coarse is the same network on the content token, one Linear on the context.

    **Source**: Eq. 10 and 12.
    **Deviations**: the sharing is read from the parameter count of Table 9 (docs/deviations.md).

    Args:
        dim: D.
        dim_out: D_llm.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.content = nn.Sequential(
            nn.Linear(dim, dim_out, device=device, dtype=dtype),
            nn.GELU(),
            nn.Linear(dim_out, dim_out, device=device, dtype=dtype),
        )
        self.context = nn.Linear(dim, dim_out, device=device, dtype=dtype)

    def fine(self, rows: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim_out"]:
        """F_fine, on every row of a cone frame."""
        return self.content(rows)

    def coarse(self, rows: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim_out"]:
        """F_coarse, on [content ; context] of a rod frame."""
        return torch.cat([self.content(rows[..., :1, :]), self.context(rows[..., 1:, :])], dim=-2)

    def forward(self, rows: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim_out"]:
        """F_fine."""
        return self.fine(rows)


class IdentityProjector(nn.Module):
    """Tokens stay in the width of the vision features, ready for a host's own projector."""

    def fine(self, rows: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim"]:
        """The rows themselves."""
        return rows

    coarse = fine
    forward = fine
