"""Inputs that do not fit together are refused before anything changes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dynfocus_connector import CompressedVideo
from dynfocus_transformers.adapters import Batch, HostAdapter, Visual, flat


def check_prompt(batch: Batch) -> None:
    """Raises ValueError for inputs whose places cannot be found."""
    if batch.get("input_ids") is None or batch.get("inputs_embeds") is not None:
        raise ValueError("compress_batch: expected input_ids, got inputs_embeds. Pass the prompt's ids with the video.")
    mask = batch.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != batch["input_ids"].shape):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"compress_batch: expected an attention_mask of shape {tuple(batch['input_ids'].shape)}, got {got}."
        )


def check_rows(row: Int[Tensor, " placeholders"], counts: list[int]) -> None:
    """Raises ValueError where the placeholders of one visual would lie in two prompts."""
    sizes = torch.tensor(counts, device=row.device)
    last = sizes.cumsum(0) - 1
    if bool((row[last - sizes + 1] != row[last]).any()):
        raise ValueError(
            f"compress_batch: expected each of the visuals of {counts} tokens in one prompt, got prompts of "
            f"{row.bincount().tolist()} placeholders. Give videos and prompts in the same order."
        )


def check_pictures(adapter: HostAdapter, batch: Batch, pictures: Any) -> None:
    """Raises ValueError where a prompt has other placeholders than its pictures have tokens."""
    slots = batch["input_ids"] == adapter.picture_placeholder
    count, found = len(flat(pictures.pooler_output)), int(slots.sum())
    if count != found:
        raise ValueError(
            f"compress_batch: expected {count} placeholders (token {adapter.picture_placeholder}) for the pictures, "
            f"got {found}. Prepare text, pictures and video with the host's processor in one call."
        )


def check_tokens(visual: Visual, slots: Int[Tensor, "frames patches"], video: CompressedVideo) -> None:
    """Raises ValueError for tokens of another width, or more tokens than there are patches."""
    if video.tokens.shape[-1] != visual.rows.shape[-1]:
        raise ValueError(
            f"compress_batch: expected tokens of width {visual.rows.shape[-1]} from the connector, got "
            f"{video.tokens.shape[-1]}. Build it with dim_out={visual.rows.shape[-1]}."
        )
    if len(video.tokens) > slots.numel():
        raise ValueError(
            f"compress_batch: expected at most {slots.numel()} tokens for {slots.shape[0]} frames of "
            f"{slots.shape[1]} patches, got {len(video.tokens)}. Give the connector a budget."
        )
