"""What `dynfocus check-data` counts, and how it says it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from dynfocus_reference.data.records import Modality, Record

SHOWN = 20


class Problem(NamedTuple):
    """What is wrong with one sample."""

    row: int
    kind: str
    message: str


@dataclass
class Summary:
    """The statistics of C.2, and what is wrong. A file that several samples show is one file."""

    total: int = 0
    """samples, unreadable ones included"""
    samples: Counter[Modality] = field(default_factory=Counter)
    """readable ones, by what they show"""
    files: dict[str, Modality] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """of each video that can be decoded"""
    turns: int = 0
    longest_words: int = 0
    bad: list[Problem] = field(default_factory=list)

    def count(self, record: Record, file: str | None) -> None:
        """One more readable sample, and the image or video that it shows."""
        words = sum(len(f"{turn.question} {turn.answer}".split()) for turn in record.turns)
        self.samples[record.modality] += 1
        self.turns += len(record.turns)
        self.longest_words = max(self.longest_words, words)
        if file is not None:
            self.files[file] = record.modality

    def as_text(self) -> str:
        """For people."""
        shown, files = self.samples, Counter(self.files.values())
        kinds = Counter(problem.kind for problem in self.bad)
        lines = [
            f"samples {self.total:,}: {shown['video']:,} with a video, {shown['image']:,} with an image, "
            f"{shown['text']:,} text-only",
            f"files: {files['video']:,} videos ({sum(self.seconds.values()):,.1f} seconds), {files['image']:,} images",
            f"turns {self.turns:,}, longest sample {self.longest_words:,} words",
            *(f"bad: {count:,} {kind}" for kind, count in kinds.most_common()),
            *(f"  {problem.message}" for problem in self.bad[:SHOWN]),
        ]
        if len(self.bad) > SHOWN:
            lines.append(f"  ... and {len(self.bad) - SHOWN:,} more")
        return "\n".join([*lines, f"{len(self.bad):,} bad samples" if self.bad else "every sample can be used"])
