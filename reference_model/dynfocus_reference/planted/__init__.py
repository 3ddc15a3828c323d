"""A small world of rendered videos with planted evidence, and the study that asks the paper's questions of it."""

from __future__ import annotations

from pathlib import Path


def checkpoint_folder() -> Path:
    """The shipped model of this world: a folder for `ReferenceModel.from_pretrained` and its processor."""
    return Path(__file__).parent / "checkpoint"
