"""Full-size pictures to the size an encoder looks at."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as functional
from jaxtyping import UInt8
from torch import Tensor


class FrameSize(NamedTuple):
    """The target of a resize.

    `fit="crop"` scales until `height / crop_fraction × width / crop_fraction` is covered and cuts out the centre (for a
    square target: shortest edge, then centre crop); `fit="stretch"` scales both sides on their own and sees the
    whole picture. Antialiased as in Pillow; differs from it by at most one grey level.
    """

    height: int = 224
    width: int = 224
    fit: Literal["crop", "stretch"] = "crop"
    crop_fraction: float = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def checked(self) -> FrameSize:
        """Itself, or a ValueError that names the field that makes no sense."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"FrameSize: expected height and width >= 1, got {self.height}x{self.width}.")
        if self.fit not in ("crop", "stretch"):
            raise ValueError(f"FrameSize: expected fit 'crop' or 'stretch', got {self.fit!r}.")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"FrameSize: expected 0 < crop_fraction <= 1, got {self.crop_fraction}.")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"FrameSize: expected 'bicubic' or 'bilinear', got {self.interpolation!r}.")
        return self

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a `height × width` picture after scaling, before the centre is cut out."""
        tall, wide = int(self.height / self.crop_fraction), int(self.width / self.crop_fraction)
        if self.fit == "stretch":
            return tall, wide
        if tall * width >= wide * height:
            return tall, max(self.width, int(tall * width / height))
        return max(self.height, int(wide * height / width)), wide


# What a reader gives when nobody says otherwise: shortest edge 224, centre crop.
DEFAULT_SIZE = FrameSize()


def resize_frames(
    frames: UInt8[Tensor, "frames height width 3"], size: FrameSize
) -> UInt8[Tensor, "frames tall wide 3"]:
    """Scale, then cut out the centre; frames that already have the size come back untouched."""
    size = size.checked()
    if frames.shape[1:3] == (size.height, size.width):
        return frames
    tall, wide = size.scaled(frames.shape[1], frames.shape[2])
    if frames.shape[1:3] != (tall, wide):
        planes = frames.permute(0, 3, 1, 2)
        planes = functional.interpolate(planes, size=(tall, wide), mode=size.interpolation, antialias=True)
        frames = planes.permute(0, 2, 3, 1)
    top, left = round((tall - size.height) / 2), round((wide - size.width) / 2)
    return frames[:, top : top + size.height, left : left + size.width].contiguous()
