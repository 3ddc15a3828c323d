"""Which activations of a timm model are its patch features: [frames 3 height width] → [frames rows columns dim]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from dynfocus_video.errors import EncoderError

Features = Callable[[Tensor], Tensor]


def last_layer(model: nn.Module) -> Features:
    """The normed tokens of the last block without their prefix (class, registers), or the last map of convolutions."""
    tower: Any = model

    def features(pixels: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames rows columns dim"]:
        output = tower.forward_features(pixels)
        if output.ndim == 3:
            return _on_grid(tower, output[:, getattr(tower, "num_prefix_tokens", 0) :], pixels)
        if output.ndim != 4:
            raise EncoderError(
                f"load_encoder: expected a model with patch tokens or a feature map, got an output of shape "
                f"{tuple(output.shape)} from {type(model).__name__}. Choose another model."
            )
        # Swin and its kin keep the channels last.
        channels_last = output.shape[-1] == tower.num_features and output.shape[1] != tower.num_features
        return output if channels_last else output.permute(0, 2, 3, 1)

    return features


def last_but_one_block(model: nn.Module) -> Features:
    """The tokens of the last block but one, before any final norm; the blocks behind it are dropped."""
    tower: Any = model
    index = len(tower.blocks) - 2
    tower.prune_intermediate_layers([index], prune_norm=True)

    def features(pixels: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames rows columns dim"]:
        (tokens,) = tower.forward_intermediates(
            pixels, indices=[index], norm=False, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        return _on_grid(tower, tokens, pixels)

    return features


def joint_space_patches(model: nn.Module) -> Features:
    """Every patch projected by the head of a CLIP vision transformer; the last attention passes values alone."""
    tower: Any = model
    name = str(tower.pretrained_cfg.get("architecture", type(model).__name__))
    attention = getattr(tower.blocks[-1], "attn", None) if hasattr(tower, "blocks") else None
    is_tower = isinstance(getattr(tower, "head", None), nn.Linear) and hasattr(attention, "proj")
    if not is_tower or "clip" not in name:
        raise EncoderError(
            f"load_encoder: expected a CLIP vision transformer for features in a space shared with text, got "
            f"{name!r}. Use one of timm's vit_*_clip_* models."
        )
    tower.blocks[-1].attn.register_forward_hook(_values_only)

    def features(pixels: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames rows columns dim"]:
        tokens = tower.forward_features(pixels)[:, tower.num_prefix_tokens :]
        return _on_grid(tower, tower.head(tower.fc_norm(tokens)), pixels)

    return features


def _values_only(attention: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook: each token's own value through the attention's output projection."""
    tokens = inputs[0]
    if getattr(attention, "qkv", None) is None:
        values = attention.v_proj(tokens)
    else:
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        values = functional.linear(tokens, attention.qkv.weight, bias).chunk(3, dim=-1)[2]
    values = attention.norm(values) if isinstance(getattr(attention, "norm", None), nn.Module) else values
    projected: Tensor = attention.proj(values)
    return projected


def _on_grid(model: Any, tokens: Tensor, pixels: Tensor) -> Tensor:
    """Tokens row by row, laid out on the model's patch grid."""
    rows, columns = model.patch_embed.dynamic_feat_size(pixels.shape[-2:])
    if rows * columns != tokens.shape[1]:
        raise EncoderError(
            f"load_encoder: expected {rows}x{columns} patch tokens, got {tokens.shape[1]} from {type(model).__name__}. "
            "Choose a model that keeps its patches on a grid."
        )
    return tokens.unflatten(1, (rows, columns))
