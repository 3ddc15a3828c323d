"""`dynfocus check-data`: reads a whole set before a run does."""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dynfocus_reference.data.conversation import Place, Template, encode
from dynfocus_reference.data.records import BadSampleError, JsonLines, Record, parse_record
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.reader import read_video
from dynfocus_video.resizing import FrameSize
from dynfocus_video.sampling import Sampling

SHOWN = 20
TooLong = Callable[[Record], str]
"""What is too long about a sample; nothing where it fits."""


@dataclass
class Summary:
    """The statistics of C.2, and what is wrong."""

    samples: int = 0
    images: int = 0
    videos: int = 0
    text_only: int = 0
    turns: int = 0
    seconds: float = 0.0
    longest_words: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(kind, message)"""

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"samples {self.samples:,}  images {self.images:,}  videos {self.videos:,}  text-only {self.text_only:,}",
            f"turns {self.turns:,}  seconds of video {self.seconds:,.1f}  longest sample {self.longest_words:,} words",
        ]
        kinds = collections.Counter(kind for kind, _ in self.bad)
        lines += [f"bad: {count:,} {kind}" for kind, count in kinds.most_common()]
        lines += [f"  {message}" for _, message in self.bad[:SHOWN]]
        if len(self.bad) > SHOWN:
            lines.append(f"  ... and {len(self.bad) - SHOWN:,} more")
        return "\n".join([*lines, "every sample can be used" if not self.bad else f"{len(self.bad):,} bad samples"])


def check_file(
    path: str, root: str = ".", *, too_long: TooLong | None = None, workers: int = 4, progress: bool = False
) -> Summary:
    """Go through every record, and decode two pictures of each image or video once.

    Args:
        path: .json or .jsonl in LLaVA format.
        root: Folder below which images and videos lie.
        too_long: Such as `longer_than` makes.
        workers: Threads that decode.
        progress: Show a bar on stderr.
    """
    file, summary = JsonLines(path), Summary()
    records: list[tuple[str, Record]] = []
    for row in tqdm(range(len(file)), desc="records", disable=not progress, file=sys.stderr):
        name = f"{file.path.name}[{row}]"
        try:
            record = parse_record(file[row], name)
        except BadSampleError as error:
            summary.samples += 1
            summary.bad.append(("malformed", str(error)))
            continue
        _count(summary, record)
        if told := too_long(record) if too_long else "":
            summary.bad.append(("over-long", f"{name}: {told}"))
        records.append((name, record))
    _look(summary, records, Path(root), workers, progress)
    return summary


def longer_than(max_length: int, tokenizer: PreTrainedTokenizerBase, template: Template = "vicuna_v1") -> TooLong:
    """Finds samples that training would cut, or could not use.

    Args:
        max_length: In text tokens, as in `DataOptions`.
        tokenizer: Of the language model.
        template: As in training.
    """

    def too_long(record: Record) -> str:
        places: list[Place | None] = ["front" if record.path else None, *[None] * (len(record.turns) - 1)]
        try:
            kept = encode(record.turns, tokenizer, template=template, places=places, max_length=max_length).turns
        except ValueError as error:
            return str(error)
        turns = 1 if template == "plain" else len(record.turns)
        return "" if kept == turns else f"expected at most {max_length} tokens, got room for {kept} of {turns} turns."

    return too_long


def _count(summary: Summary, record: Record) -> None:
    words = sum(len(f"{turn.question} {turn.answer}".split()) for turn in record.turns)
    summary.samples += 1
    summary.turns += len(record.turns)
    summary.longest_words = max(summary.longest_words, words)
    summary.images += record.modality == "image"
    summary.videos += record.modality == "video"
    summary.text_only += record.modality == "text"


def _look(summary: Summary, records: list[tuple[str, Record]], root: Path, workers: int, progress: bool) -> None:
    """Decode every different file once; a bad one is told for each sample that shows it."""
    paths = sorted({str(root / str(record.path)) for _, record in records if record.path is not None})
    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(_open, paths), total=len(paths), desc="files", disable=not progress, file=sys.stderr)
        seen = dict(zip(paths, bar, strict=True))
    for name, record in records:
        if record.path is None:
            continue
        seconds, kind, problem = seen[str(root / record.path)]
        summary.seconds += seconds if record.modality == "video" else 0
        if kind:
            summary.bad.append((kind, f"{name}: {problem}"))


def _open(path: str) -> tuple[float, str, str]:
    try:
        if not Path(path).is_file():
            return 0.0, "missing file", f"expected a file at {path!r}, found none."
        video = read_video(path, Sampling(frames=2), size=FrameSize(32, 32))
    except (OSError, ValueError) as error:
        return 0.0, "undecodable", str(error)
    if video.truncated:
        return video.duration, "truncated", f"{path!r} is {video.truncated}"
    return video.duration, "", ""


def run(arguments: argparse.Namespace) -> int:
    """Print the summary; 1 where samples are bad."""
    too_long = None
    if arguments.model is not None:
        tokenizer = ReferenceProcessor.from_pretrained(arguments.model).tokenizer
        too_long = longer_than(arguments.max_length, tokenizer, arguments.template)
    summary = check_file(arguments.file, arguments.root, too_long=too_long, workers=arguments.workers, progress=True)
    print(summary.as_text())
    return 1 if summary.bad else 0
