"""Long synthetic streams whose events are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

FRAMES, PATCHES, DIM = 3000, 4, 8


class World(NamedTuple):
    """A stream and the event that each of its frames belongs to."""

    frames: Tensor
    """[frames patches dim]"""
    event: Tensor


def skewed(seed: int, *, noise: float = 0.1, drift: float = 0.0) -> World:
    """12 scenes of log-normal lengths (σ = 1.5), and 8 inserts of 1 to 3 frames at random moments."""
    random = torch.Generator().manual_seed(seed)
    length = torch.exp(1.5 * torch.randn(12, generator=random))
    length = (length / length.sum() * (FRAMES - 24)).long().clamp(min=5)
    event = torch.arange(12).repeat_interleave(length).tolist()
    for insert in range(12, 20):
        place = int(torch.randint(len(event) + 1, (), generator=random))
        event[place:place] = [insert] * int(torch.randint(1, 4, (), generator=random))
    return _film(torch.tensor(event), random, noise, drift)


def recurring(seed: int) -> World:
    """400 shots of 20 looks, some rare, cut back and forth."""
    random = torch.Generator().manual_seed(seed)
    look = (torch.rand(400, generator=random).square() * 20).long()
    return _film(look.repeat_interleave(_lengths(400, random)), random, 0.1, 0.0)


def all_different(seed: int) -> World:
    """300 shots, none like another."""
    random = torch.Generator().manual_seed(seed)
    return _film(torch.arange(300).repeat_interleave(_lengths(300, random)), random, 0.1, 0.0)


def _lengths(shots: int, random: torch.Generator) -> Tensor:
    length = torch.exp(torch.randn(shots, generator=random))
    return (length / length.sum() * FRAMES).long().clamp(min=1)


def _film(event: Tensor, random: torch.Generator, noise: float, drift: float) -> World:
    """Each event a random look of deviation 1, plus noise of its own in every frame, plus a random walk."""
    event = event.unique(return_inverse=True)[1]
    looks = torch.randn(int(event.max()) + 1, PATCHES, DIM, generator=random)
    own = noise * torch.randn(len(event), PATCHES, DIM, generator=random)
    walk = torch.randn(len(event), PATCHES, DIM, generator=random).cumsum(0) / len(event) ** 0.5
    return World(looks[event] + own + drift * walk, event)


WORLDS: dict[str, Callable[[int], World]] = {
    "12 scenes of skewed lengths, 8 inserts": skewed,
    "the same, noise 0.5": lambda seed: skewed(seed, noise=0.5),
    "the same, drifting": lambda seed: skewed(seed, drift=1.0),
    "400 shots of 20 looks": recurring,
    "300 different shots": all_different,
}
