"""Which sets a run reads, and how their records become samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynfocus_reference.data.conversation import Template

Placeholder = Literal["random", "front"]


@dataclass(frozen=True)
class Source:
    """One set of a mixture.

    Args:
        path: .json or .jsonl in LLaVA format.
        root: Folder below which its images and videos lie.
        weight: How often each sample is seen per epoch: 0.5 a seeded half, 2 each twice.
        name: For messages; the file's name where empty.
    """

    path: str
    root: str = "."
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"Source: expected weight > 0, got {self.weight} for {self.path!r}.")


@dataclass(frozen=True)
class DataOptions:
    """How records become samples.

    Args:
        template: `plain` or `vicuna_v1`.
        placeholder: "random": at the beginning or end of the question (Sec. 3.4); "front" always.
        per_turn: Every human turn shows the visual input anew, compressed for its own question.
        fps: Frames per second, by the paper's index rule.
        max_frames: Longer videos are sampled evenly.
        max_length: Text tokens of a sample; later turns are left out, a first turn that is longer is a bad sample.
        square_images: Pad images to a square with the mean colour.
        seed: Of placeholders and of the halves that weights take.
        features: Folder of the tower's tokens (`dynfocus extract-features`), read in the place of pixels.
    """

    template: Template = "vicuna_v1"
    placeholder: Placeholder = "random"
    per_turn: bool = False
    fps: float = 1.0
    max_frames: int | None = 200
    max_length: int | None = 2048
    square_images: bool = True
    seed: int = 0
    features: str | None = None

    def __post_init__(self) -> None:
        if self.placeholder not in ("random", "front"):
            raise ValueError(f"DataOptions: expected placeholder 'random' or 'front', got {self.placeholder!r}.")
