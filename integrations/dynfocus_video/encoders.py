"""What turns frames into patch features, and how one is named: `embedded`, `timm:NAME`."""

from __future__ import annotations

import os
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dynfocus_video.embedded import EmbeddedEncoder
from dynfocus_video.errors import EncoderError
from dynfocus_video.resizing import FrameSize

ENCODERS = {
    "embedded": "local colour, orientation and low-frequency descriptors; no weights",
    "timm:NAME": "any timm model, e.g. timm:vit_base_patch16_clip_224, timm:eva_giant_patch14_clip_224 (the paper's)",
}


@runtime_checkable
class Encoder(Protocol):
    """Frames to patch features; deterministic, and the same (to rounding) whatever the batch.

    Attributes:
        name: the spec that names it.
        dim: width of a patch feature.
        grid: rows and columns of patches; `patches = rows · columns`, row by row.
        frame_size: what to hand to `read_video(size=...)`; other sizes are accepted and resized to it.
        joint_space: True when features live in a space shared with text.
    """

    name: str
    dim: int
    grid: tuple[int, int]
    frame_size: FrameSize
    joint_space: bool

    def encode(self, frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames patches dim"]: ...


def load_encoder(
    spec: str = "embedded",
    *,
    weights: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    project: bool = False,
) -> Encoder:
    """Build the encoder that `spec` names.

    Args:
        spec: "embedded", or "timm:NAME" with a model or hub name that timm knows.
        weights: a .safetensors or .pth file in place of timm's download.
        device: where the encoder computes.
        project: give features of a CLIP tower in the space it shares with text, for use with `load_text_encoder`.

    Raises:
        EncoderError: unknown spec or name, weights that do not fit or cannot be downloaded, no joint space.
    """
    if spec == "embedded":
        if weights is not None:
            raise EncoderError(
                f"load_encoder: expected no weights for 'embedded', which has none, got {str(weights)!r}."
            )
        if project:
            raise EncoderError(
                "load_encoder: expected a CLIP tower for features in a space shared with text, got 'embedded'. "
                "Use timm:vit_base_patch16_clip_224 or another of timm's CLIP models."
            )
        return EmbeddedEncoder(device=device)
    if spec.startswith("timm:") and spec != "timm:":
        from dynfocus_video.timm_encoder import TimmEncoder

        return TimmEncoder(spec.removeprefix("timm:"), weights=weights, device=device, project=project)
    known = "; ".join(f"{name!r} ({what})" for name, what in ENCODERS.items())
    raise EncoderError(f"load_encoder: expected one of {known}, got {spec!r}.")
