"""Is there room for a checkpoint? Asked before anything is written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dynfocus_reference.lora import ADAPTER
from dynfocus_reference.memory import ADAM_BYTES
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.training.checkpoint import belongs, checkpoints

SMALL_FILES = 10_000_000
"""Bytes of random states, scripts and the state of the Trainer, with room to spare."""


def checkpoint_bytes(model: ReferenceModel) -> int:
    """The most a checkpoint takes: the weights it holds, DeepSpeed's copy of them, its float32 weights and two moments.

    Adapters are written once more, for peft.
    """
    total = SMALL_FILES
    for name, parameter in model.named_parameters():
        count, size = getattr(parameter, "ds_numel", parameter.numel()), parameter.element_size()
        total += count * size * (belongs(name, parameter) + (ADAPTER in name))
        total += count * (size + ADAM_BYTES) * parameter.requires_grad
    return total


def run_bytes(model: ReferenceModel, output: str | os.PathLike[str], keep: int, *, exports: bool) -> int:
    """What a run will still write: one checkpoint more than it keeps, less those that lie there; the whole model."""
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) if exports else 0
    left = max(keep + 1 - len(checkpoints(output, complete=True)), 1)
    return left * checkpoint_bytes(model) + whole


def ensure_room(folder: str | os.PathLike[str], needed: int, purpose: str = "a checkpoint") -> None:
    """Refuse before anything is written.

    Args:
        folder: Made where it is not there.
        needed: Bytes.
        purpose: What they are for.

    Raises:
        OSError: the folder cannot be written, or the disk has no room.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x")
    except OSError as error:
        raise OSError(f"ensure_room: expected a folder that can be written, got {str(path)!r}: {error}.") from error
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OSError(
            f"ensure_room: expected {needed / 1e9:.3f} GB of room for {purpose} in {str(path)!r}, got "
            f"{free / 1e9:.3f} GB. Nothing was overwritten; make room and start the same command again."
        )


def ensure_empty(folder: str | os.PathLike[str], who: str) -> None:
    """Make a folder, and refuse one that holds something.

    Raises:
        ValueError: it does.
    """
    os.makedirs(folder, exist_ok=True)
    if os.listdir(folder):
        raise ValueError(f"{who}: expected an empty output folder, got {os.fspath(folder)!r} with files in it.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Every error of a write as one that says what is still whole.

    Raises:
        OSError: the disk is full, or went away.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        whole = [one.name for one in checkpoints(path.parent, complete=True)]
        raise OSError(
            f"train: expected to write {str(path)!r}, got: {error}. Complete checkpoints beside it: {whole}. "
            f"Nothing of them was touched; make room and start the same command again."
        ) from error


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `folder`, then rename: a reader never meets half of it, an error leaves the old one."""
    beside, old = (folder.with_name(f".{folder.name}.{state}") for state in ("part", "old"))
    for left in (beside, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        write(beside)
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
