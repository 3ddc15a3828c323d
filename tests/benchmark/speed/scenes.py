"""Synthetic features: scenes, and noise within them. Not those of a vision encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.benchmark.speed.operation import Setting


def scene_points(setting: Setting, frames: int, dim: int, noise: float = 0.3, scenes: int = 25) -> Tensor:
    """Points [1 frames dim]: runs around random centres, every point with its own amount of noise.

    At noise 0.3 the amounts differ enough for float32 distances to rank them; at 1e-3 they do not.
    """
    generator = torch.Generator().manual_seed(0)
    scenes = min(scenes, frames)
    points = torch.randn(scenes, dim, generator=generator)[torch.arange(frames) * scenes // frames]
    amount = noise * (1 + torch.rand(frames, 1, generator=generator))
    points += amount * torch.randn(frames, dim, generator=generator)
    return points[None].to(setting.device, setting.dtype)


def scene_frames(setting: Setting, frames: int, patches: int = 256, dim: int = 1408) -> Tensor:
    """Frames [frames patches dim]: every frame holds 24 objects, in scenes of changing objects."""
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(frames, patches, dim, dtype=setting.dtype)
    layout = torch.arange(patches) * 24 // patches
    for t in range(frames):
        if t % max(frames // 25, 1) == 0:
            objects = torch.randn(24, dim, generator=generator)
        amount = 0.3 * (1 + torch.rand(patches, 1, generator=generator))
        frame = objects[layout] + amount * torch.randn(patches, dim, generator=generator)
        features[t] = frame + 0.2 * torch.randn(dim, generator=generator)
    return features.to(setting.device)
