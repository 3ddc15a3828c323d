"""Tokens of a video that no longer fill a grid, and the newlines between its frames."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynfocus_connector import CompressedVideo

FRAME = "dynfocus_frame"


def ragged(video: CompressedVideo, pooled: Float[Tensor, "frames patches dim"]) -> Float[Tensor, "some tokens dim"]:
    """A video's tokens in the order of their places: [frames, patches, dim] where all stay, else [1, tokens, dim].

    The latter remember the frame of each token, as their attribute `dynfocus_frame`.
    """
    length, patches, _ = pooled.shape
    order = (video.frame_index * patches + video.anchor).argsort(stable=True)
    tokens = video.tokens[order]
    if len(tokens) == length * patches:
        return tokens.view(length, patches, -1)
    tokens = tokens[None]
    setattr(tokens, FRAME, video.frame_index[order])
    return tokens


def close_frames(
    tokens: Float[Tensor, "1 tokens dim"], newline: Float[Tensor, " dim"]
) -> Float[Tensor, "1 longer dim"]:
    """A newline behind the last token of every frame that has any.

    Args:
        tokens: From `ragged`.
        newline: The host's.
    """
    frame: Int[Tensor, " tokens"] = getattr(tokens, FRAME)
    number = torch.unique_consecutive(frame, return_inverse=True)[1]
    place = torch.arange(len(frame), device=frame.device) + number
    longer = newline.to(tokens).expand(len(frame) + int(number[-1]) + 1, -1)
    return longer.index_copy(0, place, tokens[0])[None]
