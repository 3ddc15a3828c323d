"""One file per (setting, arm, seed): written whole or not at all, never written twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dynfocus_video.atomic import replace_together


class Key(NamedTuple):
    """What a run is."""

    setting: str
    """which table it belongs to"""
    arm: str
    seed: int

    def path(self, folder: Path) -> Path:
        """Where its result lies."""
        name = re.sub(r"[^\w=.]+", "-", self.arm)
        return folder / self.setting / f"{name}-seed{self.seed}.json"


@dataclass(frozen=True)
class Result:
    """What a run found."""

    setting: str
    arm: str
    seed: int
    kinds: dict[str, dict[str, float | None]]
    """accuracy, recall, precision and tokens of every kind of question"""
    tokens: float
    """per story"""
    seconds: float
    """of training"""
    steps: int
    stories: int
    """at evaluation"""
    length: int
    """frames of each"""

    @property
    def key(self) -> Key:
        """What was run."""
        return Key(self.setting, self.arm, self.seed)

    def write(self, folder: Path) -> None:
        """Atomically."""
        path = self.key.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=1) + "\n"
        replace_together({path: lambda part: part.write_text(text, encoding="utf-8")})


def read_results(folder: Path) -> list[Result]:
    """Every result below a folder, in order of their names."""
    return [Result(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*/*.json"))]


def missing(keys: Iterable[Key], folder: Path) -> list[Key]:
    """Those without a file."""
    return [key for key in keys if not key.path(folder).is_file()]


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers of a nested structure, rounded."""
    if isinstance(value, dict):
        return {name: rounded(each, digits) for name, each in value.items()}
    return round(value, digits) if isinstance(value, float) else value
