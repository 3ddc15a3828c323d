"""Synthetic features: scenes, and noise within them. Not those of a vision encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.benchmark.speed.operation import Setting

OBJECTS = 24


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
    """Frames [frames patches dim]: every frame holds 24 objects, in scenes of changing objects.

    Objects are orthogonal and of growing size and noise, patches of an object and frames of a scene of growing noise:
    so no two densities nearly tie, which float32 distances would decide by chance.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(frames, patches, dim, dtype=setting.dtype)
    label = torch.arange(patches) * OBJECTS // patches
    place = torch.arange(patches) - torch.searchsorted(label, label)
    growth = 1 + 0.03 * label[:, None]
    scene = max(frames // 25, 1)
    for t in range(frames):
        if t % scene == 0:
            directions = torch.linalg.qr(torch.randn(dim, OBJECTS, generator=generator)).Q.T * dim**0.5
        noise = 0.3 * (1 + 0.05 * place[:, None]) * torch.randn(patches, dim, generator=generator)
        shift = 0.2 * (1 + 0.02 * (t % scene)) * torch.randn(dim, generator=generator)
        features[t] = (directions[label] + noise) * growth + shift
    return features.to(setting.device)
