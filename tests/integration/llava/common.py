"""What the stand-ins for LLaVA-NeXT and LLaMA-VID share: a tiny language model, an encoder, padding."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

PLACEHOLDER, IGNORE, END = -200, -100, 2
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""what the installed transformers calls what these code bases know as past_key_values"""
VISION, WIDTH, SIDE = 24, 32, 8


def config(**changes: Any) -> LlamaConfig:
    sizes = {"vocab_size": 100, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2}
    values = {"num_attention_heads": 4, "eos_token_id": END, "pad_token_id": 0, "max_position_embeddings": 4096}
    multimodal = {"mm_hidden_size": VISION, "mm_spatial_pool_mode": "average"}
    return LlamaConfig(**{**sizes, **values, **multimodal, **changes})


class Tower(nn.Module):
    """Square patches of 4 pixels, with a class token in front where asked."""

    num_patches_per_side = SIDE

    def __init__(self, class_token: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, VISION, 4, 4)
        self.class_token = class_token

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.patches(pixels.to(self.patches.weight)).flatten(2).transpose(1, 2)
        return torch.cat([rows.mean(1, keepdim=True), rows], 1) if self.class_token else rows


class Piece(NamedTuple):
    """Part of a prompt."""

    embeds: Tensor
    labels: Tensor


def joined(rows: list[list[Piece]], limit: int | None, left: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, labels and mask of prompts of different lengths."""
    embeds = [torch.cat([piece.embeds for piece in row])[:limit] for row in rows]
    labels = [torch.cat([piece.labels for piece in row])[:limit] for row in rows]
    side = "left" if left else "right"
    mask = [torch.ones_like(row[:, 0], dtype=torch.bool) for row in embeds]
    pad = nn.utils.rnn.pad_sequence
    return (
        pad(embeds, True, 0.0, side),
        pad(labels, True, float(IGNORE), side),
        pad(mask, True, 0.0, side),
    )
