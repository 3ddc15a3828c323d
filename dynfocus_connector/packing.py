"""Where every token of a batch comes from and where it sits: one cumsum, one gather, no loop over frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class TokenCounts(NamedTuple):
    """Tokens of a cone frame and of a rod frame."""

    cone: int
    rod: int
    rods_of_all_focus: int = 0
    """Rod tokens that cone frames get as well in videos without peripheral frames (the authors' code)."""

    def total(self, num_frames: int, num_focus: int) -> int:
        """K·cone + (T − K)·rod, known before anything is computed.

        Example:
            >>> TokenCounts(40, 2).total(num_frames=100, num_focus=20)
            960
        """
        extra = self.rods_of_all_focus * num_frames if num_focus == num_frames else 0
        return num_focus * self.cone + (num_frames - num_focus) * self.rod + extra


class Layout(NamedTuple):
    """For each token of the packed batch: its frame, its place in the frame, its encoder."""

    frame: Int[Tensor, " tokens"]
    """flat index into batch × frames"""
    place: Int[Tensor, " tokens"]
    """which row of its encoder"""
    is_cone: Bool[Tensor, " tokens"]
    """made by the cones; the frame's other tokens by the rods"""
    offsets: Int[Tensor, " videos"]


def layout(
    is_focus: Bool[Tensor, "batch frames"],
    frame_mask: Bool[Tensor, "batch frames"] | None,
    counts: TokenCounts,
    num_tokens: int | None,
) -> Layout:
    """Tokens in frame order (Eq. 13).

    Args:
        is_focus: b_t.
        frame_mask: True for real frames; others get no token.
        counts: Tokens per frame.
        num_tokens: Their sum, where it is known; read from the device otherwise.
    """
    batch, frames = is_focus.shape
    mask = torch.ones_like(is_focus) if frame_mask is None else frame_mask
    extra = ((is_focus | ~mask).all(1, keepdim=True) * counts.rods_of_all_focus).expand(batch, frames)
    per_frame = torch.where(is_focus, counts.cone + extra, counts.rod) * mask
    end = per_frame.flatten().cumsum(0)
    num_tokens = int(end[-1]) if num_tokens is None else num_tokens
    index = torch.arange(batch * frames, device=is_focus.device)
    frame = index.repeat_interleave(per_frame.flatten(), output_size=num_tokens)
    place = torch.arange(num_tokens, device=frame.device) - (end - per_frame.flatten())[frame]
    extra = extra.flatten()[frame]
    is_cone = is_focus.flatten()[frame] & (place >= extra)
    per_video = per_frame.sum(1).cumsum(0)
    offsets = torch.cat([per_video.new_zeros(1), per_video])
    return Layout(frame, torch.where(is_cone, place - extra, place), is_cone, offsets)


def frame_number(
    is_focus: Bool[Tensor, "batch frames"], frame_mask: Bool[Tensor, "batch frames"] | None
) -> Int[Tensor, " all_frames"]:
    """The number of each frame among the real ones of its video, whatever the padding."""
    real = torch.ones_like(is_focus) if frame_mask is None else frame_mask
    return (real.cumsum(1) - 1).flatten()
