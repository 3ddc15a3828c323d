"""Prompts for the stand-ins, and connectors that tell what they were shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, TokenKind
from tests.integration.llava.common import IGNORE, PLACEHOLDER, SIDE
from tests.integration.transformers.tiny import noise, padded


@dataclass(frozen=True)
class Video:
    """A part of a prompt; `seed` names its pixels."""

    frames: int = 6
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """A part of a prompt."""

    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """Text with labels."""

    ids: tuple[int, ...]


Part = Video | Picture | Answer | list[int]


def pixels(part: Video | Picture) -> Tensor:
    frames = part.frames if isinstance(part, Video) else 1
    return noise(part.seed, frames, 3, 4 * SIDE, 4 * SIDE)


def ids_of(part: Part) -> list[int]:
    if isinstance(part, Video | Picture):
        return [PLACEHOLDER]
    return list(part.ids) if isinstance(part, Answer) else part


def labels_of(part: Part) -> list[int]:
    return list(part.ids) if isinstance(part, Answer) else [IGNORE] * len(ids_of(part))


def batch(*rows: list[Part], left: bool = False, labels: bool = False) -> dict[str, Any]:
    """What LLaVA-NeXT's collator makes: a prompt without pictures brings one that goes nowhere."""
    ids = [[token for part in row for token in ids_of(part)] for row in rows]
    parts = [[part for part in row if isinstance(part, Video | Picture)] or [None] for row in rows]
    flat = [part for row in parts for part in row]
    names = {Video: "video", Picture: "image", type(None): "text"}
    made = {
        "input_ids": padded(ids, 0, left),
        "attention_mask": padded([[1] * len(row) for row in ids], 0, left).bool(),
        "images": [pixels(part or Picture()) for part in flat],
        "modalities": [names[type(part)] for part in flat],
    }
    if labels:
        targets = [[token for part in row for token in labels_of(part)] for row in rows]
        made["labels"] = padded(targets, IGNORE, left)
    return made


class Picked(nn.Module):
    """Some patches as they are, (frame, patch) each; keeps what it was shown."""

    def __init__(self, *places: tuple[int, int], width: int | None = None) -> None:
        super().__init__()
        self.places = places or ((0, 0),)
        self.width = width
        self.texts: list[Tensor | None] = []

    def forward(self, frames: Tensor, text: Tensor | None = None, *, budget: Any = None) -> CompressedVideo:
        self.texts.append(text)
        frame, anchor = torch.tensor(self.places).T
        tokens = frames[0, frame, anchor]
        return CompressedVideo.build(
            tokens=tokens if self.width is None else tokens[:, : self.width],
            frame_index=frame,
            kind=torch.full_like(frame, int(TokenKind.CONE)),
            anchor=anchor,
            offsets=torch.tensor([0, len(frame)]),
        )
