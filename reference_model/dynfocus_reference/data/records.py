"""LLaVA-format records: `{"id", "image" | "video" (or neither), "conversations": [{"from", "value"}, ...]}`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

MARKER = "<image>"
VIDEO_MARKER = "<video>"
Modality = Literal["text", "image", "video"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "video")
UNREADABLE = (ValueError, RecursionError)
"""No JSON, no UTF-8, numbers or nesting without end."""


class BadSampleError(ValueError):
    """One record cannot be used; the message says which and why."""

    kind = "malformed"


class WrongOrderError(BadSampleError):
    """Turns that do not alternate, beginning with a human one."""

    kind = "turns in the wrong order"


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    """without markers"""
    answer: str | None
    """None where the model is to answer"""
    marked: bool
    """whether the data put the visual input here"""


class Record(NamedTuple):
    """One validated sample."""

    id: str
    modality: Modality
    path: str | None
    """of the image or video, below the set's root"""
    turns: list[Turn]
    seconds: float | None = None
    """length of the video, where the data says it"""


class JsonLines(Sequence[dict]):
    """The records of a .json list or a .jsonl file; of the latter only line positions are kept in memory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"JsonLines: expected a .json or .jsonl file, found no {str(path)!r}.")
        self._items: list[dict] | None = None
        self._starts = np.zeros(0, dtype=np.int64)
        if self.path.suffix == ".jsonl":
            self._starts = self._line_starts()
        else:
            self._items = self._whole()

    def _whole(self) -> list[dict]:
        try:
            items = json.loads(self.path.read_text(encoding="utf-8"))
        except UNREADABLE as error:
            raise ValueError(f"JsonLines: expected JSON in {str(self.path)!r}, got {error}.") from error
        if not isinstance(items, list):
            raise ValueError(f"JsonLines: expected a list in {str(self.path)!r}, got {type(items).__name__}.")
        return items

    def _line_starts(self) -> np.ndarray:
        starts, position = [], 0
        with open(self.path, "rb") as file:
            for line in file:
                if line.strip():
                    starts.append(position)
                position += len(line)
        return np.asarray(starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) if self._items is None else len(self._items)

    def __getitem__(self, index: int) -> dict:  # type: ignore[override]
        if self._items is not None:
            return self._items[index]
        with open(self.path, "rb") as file:
            file.seek(int(self._starts[index]))
            line = file.readline()
        try:
            return json.loads(line)
        except UNREADABLE as error:
            raise BadSampleError(f"{self.path.name}[{index}]: expected JSON on this line, got {error}.") from error

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))


def modality_of(raw: dict[str, Any]) -> Modality:
    """What a raw record shows."""
    return "video" if raw.get("video") else "image" if raw.get("image") else "text"


def parse_record(raw: dict[str, Any], name: str) -> Record:
    """A validated record.

    Args:
        raw: One element of the list.
        name: File and number, for messages.

    Raises:
        WrongOrderError: turns in the wrong order.
        BadSampleError: markers without a visual input or more than one, empty answers, a
            path that is no text, a duration that is no number.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("conversations"), list):
        raise BadSampleError(f"{name}: expected an object with a list 'conversations', got {str(raw)[:80]}.")
    modality = modality_of(raw)
    path = None if modality == "text" else raw[modality]
    if not isinstance(path, str | None):
        raise BadSampleError(f"{name}: expected the path of one {modality}, got {str(path)[:80]}.")
    return Record(str(raw.get("id", name)), modality, path, _turns(raw, modality, name), seconds_of(raw, name))


def seconds_of(raw: dict[str, Any], name: str) -> float | None:
    """The length of a record's video, where it says it.

    Raises:
        BadSampleError: it is no finite number.
    """
    written = raw.get("duration")
    if written is None:
        return None
    try:
        seconds = float(written)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BadSampleError(f"{name}: expected duration as a number of seconds, got {str(written)[:80]!r}.")
    return seconds


def _turns(raw: dict[str, Any], modality: Modality, name: str) -> list[Turn]:
    if strange := [turn for turn in raw["conversations"] if not isinstance(turn, dict)]:
        raise BadSampleError(f"{name}: expected turns with 'from' and 'value', got {str(strange[0])[:80]!r}.")
    said = [(turn.get("from"), turn.get("value")) for turn in raw["conversations"]]
    order = [speaker for speaker, _ in said]
    if not order or order != ["human", "gpt"] * (len(order) // 2):
        raise WrongOrderError(f"{name}: expected turns human, gpt, human, gpt, ..., got {order[:6]}.")
    if not all(isinstance(value, str) for _, value in said):
        raise BadSampleError(f"{name}: expected text in every turn, got {[type(value).__name__ for _, value in said]}.")
    turns = [
        Turn(_without_markers(question), answer.strip(), _markers(question) > 0)
        for (_, question), (_, answer) in zip(said[::2], said[1::2], strict=True)
    ]
    if not all(turn.answer for turn in turns):
        raise BadSampleError(f"{name}: expected an answer in every turn, got an empty one.")
    count = sum(_markers(question) for _, question in said[::2])
    if count > (modality != "text"):
        raise BadSampleError(
            f"{name}: expected at most {int(modality != 'text')} {MARKER} in a {modality} sample, got {count}."
        )
    return turns


def _markers(text: str) -> int:
    return text.count(MARKER) + text.count(VIDEO_MARKER)


def _without_markers(text: str) -> str:
    return text.replace(MARKER, "").replace(VIDEO_MARKER, "").strip()
