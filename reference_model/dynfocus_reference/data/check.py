"""`dynfocus check-data`: reads a whole set before a run does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dynfocus_connector.saving import replace_file
from dynfocus_reference.data.conversation import Place, Template, encode
from dynfocus_reference.data.records import BadSampleError, JsonLines, Record, parse_record
from dynfocus_reference.data.summary import Problem, Summary
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.reader import read_video
from dynfocus_video.resizing import FrameSize
from dynfocus_video.sampling import Sampling

TooLong = Callable[[Record], str]
"""What is too long about a sample; nothing where it fits."""


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
    shown: list[tuple[int, str]] = []
    for row in _bar(range(len(file)), "records", len(file), progress):
        name = f"{file.path.name}[{row}]"
        summary.total += 1
        try:
            record = parse_record(file[row], name)
        except BadSampleError as error:
            summary.bad.append(Problem(row, error.kind, str(error)))
            continue
        place = None if record.path is None else str(Path(root, record.path))
        summary.count(record, place)
        shown += [] if place is None else [(row, place)]
        if told := too_long(record) if too_long else "":
            summary.bad.append(Problem(row, "over-long", f"{name}: {told}"))
    damaged = _look(summary, workers, progress)
    for row, place in shown:
        if place in damaged:
            kind, told = damaged[place]
            summary.bad.append(Problem(row, kind, f"{file.path.name}[{row}]: {told}"))
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


def write_good(path: str, root: str, summary: Summary, output: str) -> int:
    """The samples of a set without a problem, each video with its `duration`, as .jsonl; how many they are."""
    file, bad = JsonLines(path), {problem.row for problem in summary.bad}
    good = [row for row in range(len(file)) if row not in bad]

    def with_duration(raw: dict[str, Any]) -> dict[str, Any]:
        seconds = summary.seconds.get(str(Path(root, raw["video"]))) if raw.get("video") else None
        return raw if seconds is None else {**raw, "duration": round(seconds, 3)}

    def write(part: str) -> None:
        with open(part, "w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(with_duration(file[row])) + "\n" for row in good)

    Path(output).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(output), write)
    return len(good)


def _look(summary: Summary, workers: int, progress: bool) -> dict[str, tuple[str, str]]:
    """Decode every file once, and note how long videos are; what is wrong with which."""
    paths, damaged = sorted(summary.files), {}
    with ThreadPoolExecutor(workers) as pool:
        for path, (seconds, kind, told) in zip(
            paths, _bar(pool.map(_open, paths), "files", len(paths), progress), strict=True
        ):
            if kind:
                damaged[path] = kind, told
            if seconds and summary.files[path] == "video":
                summary.seconds[path] = seconds
    return damaged


def _bar(items: Iterable[Any], name: str, count: int, progress: bool) -> Iterable[Any]:
    return tqdm(items, total=count, desc=name, disable=not progress, file=sys.stderr)


def _open(path: str) -> tuple[float, str, str]:
    """Seconds, and the kind of problem and the problem where there is one."""
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
    if arguments.write is not None:
        count = write_good(arguments.file, arguments.root, summary, arguments.write)
        print(f"{count:,} good samples written to {arguments.write}")
    return 1 if summary.bad else 0
