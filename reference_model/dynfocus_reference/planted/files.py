"""Stories as video files, and sets of them in the project's LLaVA format."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from dynfocus_reference.data.records import MARKER
from dynfocus_reference.planted.questions import KINDS, Kind, Question, ask, rotations
from dynfocus_reference.planted.world import Story, render, write_story
from dynfocus_video.atomic import replace_together

SET_NAME = "questions.jsonl"
SCALE = 4
"""Every pixel of the world is a square of so many: strokes of one pixel and their colours survive 4:2:0 and players"""


class Coding(NamedTuple):
    """How pixels become a file."""

    codec: str
    pixels: str
    scale: int
    options: dict[str, str]


LOSSY = Coding("libx264", "yuv420p", SCALE, {"preset": "veryfast", "crf": "12"})
LOSSLESS = Coding("libx264rgb", "rgb24", 1, {"preset": "veryfast", "qp": "0"})


def write_video(story: Story, path: str | os.PathLike[str], *, lossless: bool = False) -> None:
    """An MP4 of one frame per second, 192 × 192 pixels; resized to 48 × 48 it shows what the story's pixels show.

    Args:
        lossless: 48 × 48 pixels, each as the study sees it; few players show such a file.
    """
    coding = LOSSLESS if lossless else LOSSY
    replace_together({Path(path): lambda part: _encode(render(story), part, coding)})


def _encode(frames: np.ndarray, path: Path, coding: Coding) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(coding.codec, rate=1, options=coding.options)
        enlarged = frames.repeat(coding.scale, axis=1).repeat(coding.scale, axis=2)
        stream.height, stream.width, stream.pix_fmt = *enlarged.shape[1:3], coding.pixels
        for frame in enlarged:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_set(
    folder: str | os.PathLike[str],
    count: int,
    seed: int,
    *,
    length: int = 32,
    kinds: Sequence[Kind] = KINDS,
) -> Path:
    """Videos, and one question of every kind about each of them.

    Args:
        folder: For the videos and `SET_NAME`; made where it is missing.
        count: Videos.
        seed: Of the first story; the others follow it.
        length: Frames of each.
        kinds: Of questions.

    Returns:
        The file of questions. Beside the LLaVA format's fields a record has `kind`, `question` (without its options),
        `options` (empty for an open answer), `answer` and `evidence`, the frames that show it.

    Raises:
        ValueError: a story or a question that cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(seed, seed + count):
        story, name = write_story(number, length), f"story-{number:06d}.mp4"
        write_video(story, folder / name)
        records += [record(story, name, ask(story, kind, number)) for kind in kinds]
    lines = "".join(json.dumps(entry) + "\n" for entry in records)
    replace_together({folder / SET_NAME: lambda part: part.write_text(lines, encoding="utf-8")})
    return folder / SET_NAME


def record(story: Story, video: str, question: Question) -> dict[str, Any]:
    """One line of a set; the options stand in a rotation that the story's number decides."""
    prompts = rotations(question)
    prompt = prompts[story.seed % len(prompts)]
    options = prompt.removeprefix(question.text).strip()
    return {
        "id": f"{Path(video).stem}-{question.kind}",
        "video": video,
        "duration": story.length,
        "conversations": [
            {"from": "human", "value": f"{MARKER}\n{prompt}"},
            {"from": "gpt", "value": question.answer},
        ],
        "kind": question.kind,
        "question": question.text,
        "options": options.split(" or ") if options else [],
        "answer": question.answer,
        "evidence": question.evidence,
    }
