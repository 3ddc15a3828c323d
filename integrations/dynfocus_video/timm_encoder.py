"""Any timm model as a frame encoder, with the preprocessing it was trained with."""

from __future__ import annotations

import os
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dynfocus_video.resizing import FrameSize, resize_frames
from dynfocus_video.timm_features import joint_space_patches, last_but_one_block, last_layer
from dynfocus_video.timm_weights import create_model

_CHUNK = 16
# The paper's tower (through LLaMA-VID): the output of the last block but one, no final norm, the whole shortest edge.
_LAST_BUT_ONE = ("eva_giant_patch14_clip_224",)


class TimmEncoder:
    """Patch features of a timm model: the last layer's (normed) patch tokens, or a convolutional model's last map.

    `eva_giant_patch14_clip_224` gives the paper's features instead: block 39 of 40, without the final norm.

    With `project=True` a CLIP vision transformer gives dense features in the space it shares with text: its last
    attention passes values on without mixing patches, and the head projects every patch.
    **Source**: MaskCLIP, "Extract Free Dense Labels from CLIP" (Zhou et al., ECCV 2022), Section 3.2.

    Args:
        name: a timm name, with or without a tag.
        weights: a .safetensors or .pth file; None takes timm's pretrained weights.
        device: where to compute.
        project: see above.

    Raises:
        EncoderError: unknown name, weights that do not fit or cannot be had, `project` without a joint space.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        project: bool = False,
    ) -> None:
        self.name, self.joint_space, self.device = f"timm:{name}", project, torch.device(device)
        last_but_one = name.split(".")[0] in _LAST_BUT_ONE and not project
        self.model = create_model(name, weights=weights, keep_head=project, last_but_one=last_but_one).to(self.device)
        config = _data_config(self.model)
        self.frame_size = _frame_size(config, whole_edge=name.split(".")[0] in _LAST_BUT_ONE)
        self._mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)
        choice = last_but_one_block if last_but_one else joint_space_patches if project else last_layer
        self._features = choice(self.model)
        probe = self._one_chunk(torch.zeros(1, self.frame_size.height, self.frame_size.width, 3, dtype=torch.uint8))
        self.grid, self.dim = (probe.shape[1], probe.shape[2]), probe.shape[3]

    def encode(self, frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames patches dim"]:
        """Features of any number of frames, [frames patches dim] in float32; other sizes are resized."""
        empty = torch.zeros(0, self.grid[0] * self.grid[1], self.dim, device=self.device)
        chunks = [self._one_chunk(chunk).flatten(1, 2) for chunk in frames.split(_CHUNK)] if len(frames) else []
        return torch.cat([empty, *chunks])

    @torch.no_grad()
    def _one_chunk(self, frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames rows columns dim"]:
        frames = resize_frames(frames, self.frame_size).to(self.device)
        pixels = frames.permute(0, 3, 1, 2).float() / 255
        return self._features((pixels - self._mean) / self._std).float()


def _data_config(model: nn.Module) -> dict[str, Any]:
    from timm.data import resolve_data_config

    config: dict[str, Any] = resolve_data_config(model=model)
    return config


def _frame_size(config: dict[str, Any], *, whole_edge: bool) -> FrameSize:
    """timm's evaluation transform as a FrameSize."""
    _, height, width = config["input_size"]
    fit = "stretch" if config.get("crop_mode") == "squash" else "crop"
    fraction = 1.0 if whole_edge else float(config["crop_pct"])
    kind = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return FrameSize(height, width, fit=fit, crop_fraction=fraction, interpolation=kind)  # type: ignore[arg-type]
