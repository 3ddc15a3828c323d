"""A compressed video takes the place of its placeholders in a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.contracts import CompressedVideo

PaddingSide = Literal["left", "right"]


class SplicedPrompt(NamedTuple):
    """What a language model takes instead of `input_ids`."""

    inputs_embeds: Float[Tensor, "batch length dim"]
    attention_mask: Bool[Tensor, "batch length"]
    position_ids: Int[Tensor, "batch length"]
    """0 for the first real token of each sample"""
    labels: Int[Tensor, "batch length"] | None
    is_video: Bool[Tensor, "batch length"]


def splice(
    video: CompressedVideo,
    input_ids: Int[Tensor, "batch text"],
    embed: Callable[[Tensor], Tensor],
    *,
    placeholder: int,
    labels: Int[Tensor, "batch text"] | None = None,
    attention_mask: Bool[Tensor, "batch text"] | Int[Tensor, "batch text"] | None = None,
    padding_side: PaddingSide = "right",
    ignore_index: int = -100,
) -> SplicedPrompt:
    """Put tokens where the placeholders are.

    The n-th placeholder of the batch, read row by row, becomes the tokens of the n-th video that has any: a sample may
    hold several videos or none. Gradients reach the tokens and the embedding.

    Args:
        video: A packed batch of videos in the order of the placeholders.
        input_ids: Prompts with one `placeholder` per video; the id need not be in the vocabulary.
        embed: The language model's input embedding.
        placeholder: The id that stands for a video.
        labels: Targets; positions of a video become `ignore_index`.
        attention_mask: Which of `input_ids` are real; padding is dropped and made anew.
        padding_side: Where the result is padded: ``"left"`` for generation.
        ignore_index: The label of positions without a target.

    Raises:
        ValueError: as many placeholders as videos are expected; unknown padding side; tokens of another width than
            the embedding.

    Example:
        >>> from dynfocus_connector import DynFocusConfig, build_connector
        >>> video = build_connector(DynFocusConfig.training_free(dim=8)).eval()(torch.randn(1, 1, 64, 8))
        >>> prompt = splice(video, torch.tensor([[1, -200, 2]]), torch.nn.Embedding(10, 8), placeholder=-200)
        >>> prompt.inputs_embeds.shape
        torch.Size([1, 42, 8])
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"splice: expected padding_side 'left' or 'right', got {padding_side!r}.")
    batch, _ = input_ids.shape
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    is_slot = (input_ids == placeholder) & real
    start, length = _slots(video, int(is_slot.sum()))
    count = real.long().masked_scatter(is_slot, length)
    first_row = torch.zeros_like(count).masked_scatter(is_slot, start)

    total = count.sum(1)
    longest = int(total.max()) if batch else 0
    origin = torch.arange(input_ids.numel(), device=input_ids.device).repeat_interleave(count.flatten())
    end = count.flatten().cumsum(0)
    within = torch.arange(len(origin), device=origin.device) - (end - count.flatten())[origin]
    from_video = is_slot.flatten()[origin]
    position = torch.arange(longest, device=origin.device).expand(batch, longest)
    position = position - (longest - total[:, None] if padding_side == "left" else 0)
    mask = (position >= 0) & (position < total[:, None])

    rows = embed(input_ids.masked_fill(is_slot | ~real, 0)).flatten(0, 1)[origin]
    if rows.shape[-1] != video.tokens.shape[-1]:
        raise ValueError(
            f"splice: expected video tokens as wide as the embedding ({rows.shape[-1]}), got {video.tokens.shape[-1]}."
        )
    tokens = video.tokens.to(rows.dtype)
    rows = rows.masked_scatter(from_video[:, None], tokens[(first_row.flatten()[origin] + within)[from_video]])
    rows = rows + tokens.flatten()[:0].sum()
    return SplicedPrompt(
        inputs_embeds=rows.new_zeros(batch, longest, rows.shape[-1]).masked_scatter(mask[..., None], rows),
        attention_mask=mask,
        position_ids=position.clamp(min=0).masked_fill(~mask, 0),
        labels=_spread(labels, origin, from_video, mask, ignore_index),
        is_video=torch.zeros_like(mask).masked_scatter(mask, from_video),
    )


def _slots(video: CompressedVideo, placeholders: int) -> tuple[Tensor, Tensor]:
    """First row and length of each video that has tokens."""
    length = video.offsets.diff()
    shown = length > 0
    if int(shown.sum()) != placeholders:
        raise ValueError(
            f"splice: expected one placeholder per video, got {placeholders} placeholders and {int(shown.sum())} "
            f"videos with tokens. Check the chat template and the number of videos of each prompt."
        )
    return video.offsets[:-1][shown], length[shown]


def _spread(
    labels: Tensor | None, origin: Tensor, from_video: Tensor, mask: Tensor, ignore_index: int
) -> Tensor | None:
    if labels is None:
        return None
    values = labels.flatten()[origin].masked_fill(from_video, ignore_index)
    return labels.new_full(mask.shape, ignore_index).masked_scatter(mask, values)
