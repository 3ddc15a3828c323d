"""The frozen vision tower: the last block but one of a timm ViT, without the final norm."""

from __future__ import annotations

from typing import Any, NamedTuple

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn


class VisionFeatures(NamedTuple):
    """What the tower says about each picture."""

    patches: Float[Tensor, "frames patches dim"]
    """V: what DPE and CCE take"""
    tokens: Float[Tensor, "frames all dim"]
    """class and register tokens, then the patches: what the Q-Former takes"""


class VisionTower(nn.Module):
    """Any timm vision transformer, cut behind one of its blocks and never trained.

    **Source**: Sec. 4.1; EVA-CLIP ViT-g/14, block 39 of 40 without the final norm, as LLaMA-VID reads it.

    Args:
        name: A timm model; a tag after the dot is ignored, no weights are fetched.
        block: Whose output is taken, as Python counts.
        model_kwargs: More arguments of `timm.create_model`.

    Example:
        >>> tower = VisionTower("vit_tiny_patch16_224", img_size=32, depth=3)
        >>> features = tower(torch.zeros(2, 3, 32, 32))
        >>> features.patches.shape, features.tokens.shape
        (torch.Size([2, 4, 192]), torch.Size([2, 5, 192]))
    """

    def __init__(
        self,
        name: str = "eva_giant_patch14_clip_224",
        *,
        block: int = -2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        model: Any = timm.create_model(name, pretrained=False, num_classes=0, **model_kwargs)
        depth = len(model.blocks) if hasattr(model, "blocks") else 0
        if not -depth <= block < depth:
            raise ValueError(
                f"VisionTower: expected a block between {-depth} and {depth - 1} of {name!r}, got {block}."
            )
        self.index = block % depth
        model.prune_intermediate_layers([self.index], prune_norm=True, prune_head=True)
        self.model: Any = model.to(device=device, dtype=dtype)
        self.dim: int = model.embed_dim
        self.num_patches: int = model.patch_embed.num_patches
        self.num_tokens: int = self.num_patches + model.num_prefix_tokens
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> VisionTower:
        """Stays in evaluation mode: the tower is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "frames 3 height width"]) -> VisionFeatures:
        """Features of normalised pictures, in the dtype of the tower."""
        pixels = pixels.to(next(self.model.parameters()).dtype)
        patches, prefix = self._block(pixels)
        return VisionFeatures(patches, torch.cat([prefix, patches], dim=1))

    def _block(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [frames patches dim] and prefix tokens [frames prefix dim] behind the chosen block."""
        prefixed = self.model.num_prefix_tokens > 0
        (output,) = self.model.forward_intermediates(
            pixels,
            indices=[self.index],
            return_prefix_tokens=prefixed,
            norm=False,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return output if prefixed else (output, output[:, :0])
