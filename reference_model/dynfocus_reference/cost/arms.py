"""The connector, and what stands in its place where there is no DPE and no CCE."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConnector, TokenKind
from dynfocus_reference.model import ReferenceModel

Arm = Literal["dynfocus", "two_tokens", "every_patch"]
ARMS: tuple[Arm, ...] = get_args(Arm)


class TwoTokens(nn.Module):
    """Two tokens for every frame, its mean and what the question finds in its patches; nothing is clustered.

    `build_baseline("two_tokens")` has the same number of tokens, but makes its rods from G_t and so pays for S-DPC.

    **Source**: Table 8, "w/o DPE + CCE": as LLaMA-VID does. Rods and projector are the connector's own.
    """

    def __init__(self, connector: DynFocusConnector) -> None:
        super().__init__()
        self.rods, self.projector = connector.encoder.rods, connector.encoder.projector

    def num_tokens(self, num_frames: int, num_patches: int) -> int:
        """Tokens of one video."""
        return 2 * num_frames

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Float[Tensor, "batch frames queries dim_text"],
        *,
        frame_mask: Bool[Tensor, "batch frames"],
    ) -> CompressedVideo:
        """As `DynFocusConnector`."""
        real = torch.ones_like(frames[..., 0], dtype=torch.bool)
        rows = self.rods(frames, real, torch.zeros_like(frame_mask, dtype=torch.long), text)
        return pack(self.projector.coarse(rows), frame_mask, TokenKind.ROD)


class EveryPatch(nn.Module):
    """Every patch of every frame, through F_fine; the question is not looked at."""

    def __init__(self, connector: DynFocusConnector) -> None:
        super().__init__()
        self.fine: Any = connector.encoder.projector.content

    def num_tokens(self, num_frames: int, num_patches: int) -> int:
        """Tokens of one video."""
        return num_frames * num_patches

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Any = None,
        *,
        frame_mask: Bool[Tensor, "batch frames"],
    ) -> CompressedVideo:
        """As `DynFocusConnector`."""
        return pack(self.fine(frames), frame_mask, TokenKind.CONE)


def pack(
    tokens: Float[Tensor, "batch frames each dim"], frame_mask: Bool[Tensor, "batch frames"], kind: TokenKind
) -> CompressedVideo:
    """The tokens of the real frames, one behind the other."""
    each = tokens.shape[2]
    frame = frame_mask.nonzero()[:, 1].repeat_interleave(each)
    offsets = nn.functional.pad(frame_mask.sum(1).cumsum(0) * each, (1, 0))
    anchor = torch.arange(len(frame), device=frame.device) % each
    return CompressedVideo.build(
        tokens[frame_mask].flatten(0, 1), frame, torch.full_like(frame, int(kind)), anchor, offsets
    )


def become(model: ReferenceModel, arm: Arm) -> None:
    """Replace the model's connector; what an arm has no use for is gone."""
    if arm != "dynfocus":
        rival = TwoTokens if arm == "two_tokens" else EveryPatch
        model.connector = rival(model.connector)  # type: ignore[assignment]
