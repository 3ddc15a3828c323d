"""Where data sets lie, and what is said when they do not."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VIDEO_ENDINGS = (".mp4", ".avi", ".webm", ".mkv", ".mov")


def home() -> Path:
    """`$HF_HOME`, below which lmms-eval keeps the videos of every task."""
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def read_json(path: Path, layout: str) -> Any:
    """The content of an annotation file.

    Raises:
        FileNotFoundError: no such file; the message says how the folder should look.
    """
    if not path.is_file():
        raise FileNotFoundError(f"dynfocus task: expected {layout}, got no file {str(path)!r}.")
    return json.loads(path.read_text(encoding="utf-8"))


def find_video(folder: Path, name: str) -> str:
    """The path of a video whose file may have another ending than its name in the annotations, or none.

    Raises:
        FileNotFoundError: no such video.
    """
    candidates = [folder / name, *(folder / f"{name}{ending}" for ending in VIDEO_ENDINGS)]
    candidates += [(folder / name).with_suffix(ending) for ending in VIDEO_ENDINGS]
    for path in candidates:
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"dynfocus task: expected the video {name!r} in {str(folder)!r}, found none.")


def as_rows(rows: Sequence[dict[str, Any]]) -> Any:
    """A data set of these rows."""
    from datasets import Dataset

    return Dataset.from_list(list(rows))


def text_of(question: str, wanted: dict[str, Any] | None) -> str:
    """The question between the model's pre_prompt and post_prompt of the task file."""
    wanted = wanted or {}
    return f"{wanted.get('pre_prompt', '')}{question}{wanted.get('post_prompt', '')}"
