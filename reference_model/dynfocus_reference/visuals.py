"""From packed pictures to padded clips: which frame belongs to which placeholder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled

from dynfocus_connector import CompressedVideo


class Visuals(NamedTuple):
    """The visual inputs of a batch. Frames of all clips are packed one behind the other."""

    frames: Tensor
    """UInt8[frames height width 3], pictures; Float[frames 3 height width], normalised; or Float[frames all dim], the
    tower's tokens, computed before"""
    clip_lengths: Int[Tensor, " clips"]
    """frames of each clip; 1 for an image"""
    clip_index: Int[Tensor, " placeholders"]
    """which clip each placeholder shows; several turns may ask about one clip"""
    question_ids: Int[Tensor, "placeholders length"]
    """the question of each placeholder, in the Q-Former's vocabulary"""
    question_mask: Bool[Tensor, "placeholders length"]

    @staticmethod
    def build(
        frames: Tensor,
        clip_lengths: Tensor,
        question_ids: Tensor,
        question_mask: Tensor | None = None,
        clip_index: Tensor | None = None,
    ) -> Visuals:
        """Visual inputs that fit together; one placeholder per clip unless `clip_index` says otherwise.

        Raises:
            ValueError: lengths that do not add up, a clip or a question that is missing.
        """
        index = torch.arange(len(clip_lengths), device=clip_lengths.device) if clip_index is None else clip_index
        mask = torch.ones_like(question_ids, dtype=torch.bool) if question_mask is None else question_mask.bool()
        total = int(clip_lengths.sum())
        if total != len(frames) or (len(clip_lengths) and int(clip_lengths.min()) < 1):
            raise ValueError(
                f"Visuals: expected clip_lengths >= 1 that add up to {len(frames)} frames, got {clip_lengths.tolist()}."
            )
        if len(question_ids) != len(index) or mask.shape != question_ids.shape:
            raise ValueError(
                f"Visuals: expected one question per placeholder ({len(index)}) and a mask of its shape, "
                f"got questions {tuple(question_ids.shape)} and mask {tuple(mask.shape)}."
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(clip_lengths):
            raise ValueError(f"Visuals: expected clip_index below {len(clip_lengths)}, got {index.tolist()}.")
        return Visuals(frames, clip_lengths, index, question_ids, mask)

    def rows(self) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"], Bool[Tensor, "placeholders longest"]]:
        """For every (placeholder, frame): the frame's row in `frames`, the placeholder, and the mask that pads them."""
        lengths = self.clip_lengths[self.clip_index]
        starts = (self.clip_lengths.cumsum(0) - self.clip_lengths)[self.clip_index]
        longest = int(lengths.max()) if len(lengths) else 1
        position = torch.arange(longest, device=lengths.device)
        mask = position < lengths[:, None]
        frame = (starts[:, None] + position)[mask]
        placeholder = torch.arange(len(lengths), device=lengths.device)[:, None].expand_as(mask)[mask]
        return frame, placeholder, mask


VISUAL_INPUTS = ("video", *Visuals._fields)
"""The arguments of `ReferenceModel.forward` and `generate` that `shown` takes."""


def shown(
    video: CompressedVideo | None = None,
    frames: Tensor | None = None,
    clip_lengths: Tensor | None = None,
    clip_index: Tensor | None = None,
    question_ids: Tensor | None = None,
    question_mask: Tensor | None = None,
) -> CompressedVideo | Visuals | None:
    """What a batch shows: tokens computed before, or frames and the questions about them; None for text alone.

    Raises:
        ValueError: frames without their lengths and questions.
    """
    if video is not None or frames is None or len(frames) == 0:
        return video
    if clip_lengths is None or question_ids is None:
        raise ValueError("ReferenceModel: expected clip_lengths and question_ids beside frames, got None.")
    return Visuals.build(frames, clip_lengths, question_ids, question_mask, clip_index)


def pad_rows(
    rows: Float[Tensor, " rows *features"], mask: Bool[Tensor, "placeholders longest"]
) -> Float[Tensor, "placeholders longest *features"]:
    """Rows in the order of `mask`, and zeros where it is False."""
    padded = rows.new_zeros(*mask.shape, *rows.shape[1:])
    return padded.masked_scatter(mask.view(*mask.shape, *(1,) * (rows.ndim - 1)), rows)


def in_chunks(function: Callable[..., Tensor], size: int, *inputs: Tensor) -> Tensor:
    """`function` over rows, `size` at a time, so that memory does not grow with the length of the video.

    Under ZeRO-3 every call gathers parameters from all ranks: then every rank makes as many calls as the busiest one,
    with copies of its last row where it has nothing left to do.
    """
    count = len(inputs[0])
    rounds = max(-(-count // size), 1)
    if is_deepspeed_zero3_enabled() and torch.distributed.is_initialized():
        most = torch.tensor(rounds, device=inputs[0].device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        rounds = int(most)
    outputs = []
    for i in range(rounds):
        part = slice(i * size, (i + 1) * size) if i * size < count else slice(count - 1, count)
        output = function(*(value[part] for value in inputs))
        outputs.append(output if i * size < count else output[:0])
    return torch.cat(outputs)
