"""The default encoder: local descriptors of colour and shape that need no weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from jaxtyping import Float, UInt8
from torch import Tensor

from dynfocus_video.resizing import FrameSize, resize_frames

_GRID = 16
_PIXELS = 112  # the side at which descriptors are computed, half of the frame's
_CELL = _PIXELS // _GRID
_ORIENTATIONS = 8
_CHUNK = 4  # frames at a time, so that a chunk's planes stay in the cache
_COSINES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
# Björn Ottosson's Oklab: linear sRGB to cone responses, their cube roots to lightness and two opponent colours.
_RGB_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_LMS_TO_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


class Recipe(NamedTuple):
    """The weight of each group of descriptors; 0 leaves the group out.

    The default is the row of docs/results/embedded_encoder.md that tells shots and parts of a picture apart best.
    """

    lightness: float = 0.5  # 1: mean lightness of the patch
    chroma: float = 3.0  # 2: mean opponent colours
    surround: float = 0.5  # 3: mean colour of the 3 × 3 patches around
    spread: float = 1.0  # 3: standard deviation of the three colour channels
    orientation: float = 1.0  # 8: square root of the gradient strength per orientation
    waves: float = 1.0  # 7: low cosine coefficients of lightness


class EmbeddedEncoder:
    """Describes each of 16 × 16 patches by colour in Oklab, gradient orientation and low frequencies.

    Fixed formulas: the same frame always gives the same features, whatever lies beside it in the batch.

    Args:
        recipe: the groups and their weights; None takes the measured default.
        device: where to compute.

    Example:
        >>> encoder = EmbeddedEncoder()
        >>> tuple(encoder.encode(torch.zeros(2, 224, 224, 3, dtype=torch.uint8)).shape)
        (2, 256, 24)
    """

    name = "embedded"
    grid = (_GRID, _GRID)
    frame_size = FrameSize(2 * _PIXELS, 2 * _PIXELS, fit="stretch")
    joint_space = False

    def __init__(self, recipe: Recipe | None = None, *, device: torch.device | str = "cpu") -> None:
        self.recipe = recipe if recipe is not None else Recipe()
        self.device = torch.device(device)
        sizes = (1, 2, 3, 3, _ORIENTATIONS, len(_COSINES))
        self.dim = sum(size for size, weight in zip(sizes, self.recipe, strict=True) if weight)

    def encode(self, frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames patches dim"]:
        """Features of any number of frames of any size, [frames 256 dim] in float32."""
        empty = torch.zeros(0, _GRID * _GRID, self.dim, device=self.device)
        chunks = [self._describe(chunk.to(self.device)) for chunk in frames.split(_CHUNK)] if len(frames) else []
        return torch.cat([empty, *chunks])

    def _describe(self, frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames patches dim"]:
        pixels = _oklab(resize_frames(frames, self.frame_size))
        mean = functional.avg_pool2d(pixels, _CELL)
        groups = (
            mean[:, :1],
            mean[:, 1:],
            functional.avg_pool2d(functional.pad(mean, (1, 1, 1, 1), mode="replicate"), 3, stride=1),
            (functional.avg_pool2d(pixels.square(), _CELL) - mean.square()).clamp_min(0).sqrt(),
            _orientations(pixels[:, :1]).sqrt(),
            _waves(pixels[:, :1]),
        )
        kept = [weight * group for weight, group in zip(self.recipe, groups, strict=True) if weight]
        return torch.cat(kept, dim=1).flatten(2).transpose(1, 2)


def _oklab(frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames 3 rows columns"]:
    """Half-size Oklab planes."""
    value = functional.avg_pool2d(frames.permute(0, 3, 1, 2).float().contiguous(), 2) / 255
    light = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = _mix(light, _RGB_TO_LMS).clamp_min(0).pow(1 / 3)
    return _mix(cones, _LMS_TO_OKLAB)


def _mix(planes: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """A linear map of the channels, as sums, so that rounding does not depend on the batch."""
    return torch.stack([sum(weight * planes[:, i] for i, weight in enumerate(row)) for row in matrix], dim=1)  # type: ignore[misc]


def _orientations(lightness: Float[Tensor, "frames 1 rows columns"]) -> Float[Tensor, "frames orientations 16 16"]:
    """Mean gradient strength per orientation θ_k: max(0, |g| cos 2(θ − θ_k)), which needs no angle to be computed."""
    padded = functional.pad(lightness, (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    strength = (across.square() + down.square() + 1e-12).sqrt()
    cosine, sine = (across.square() - down.square()) / strength, 2 * across * down / strength
    angles = [2 * math.pi * k / _ORIENTATIONS for k in range(_ORIENTATIONS)]
    responses = [(math.cos(angle) * cosine + math.sin(angle) * sine).relu() for angle in angles]
    return torch.cat([functional.avg_pool2d(response, _CELL) for response in responses], dim=1)


def _waves(lightness: Float[Tensor, "frames 1 rows columns"]) -> Float[Tensor, "frames waves 16 16"]:
    """The first cosine coefficients of each patch, without the constant one."""
    steps = math.pi * (torch.arange(_CELL, device=lightness.device) + 0.5) / _CELL
    basis = torch.stack([torch.outer((steps * down).cos(), (steps * across).cos()) for down, across in _COSINES])
    basis = basis / basis.flatten(1).norm(dim=1)[:, None, None] / _CELL
    return functional.conv2d(lightness, basis[:, None], stride=_CELL)
