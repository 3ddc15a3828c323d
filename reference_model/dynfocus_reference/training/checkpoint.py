"""What a checkpoint holds, when it is complete, and what a second stage takes from a first."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynfocus_connector import build_connector
from dynfocus_reference.model import ReferenceModel

MARKER = "COMPLETE"
TRAINED_NAME = "trained.safetensors"
PROJECTOR = "connector.encoder.projector."


def gather(model: ReferenceModel, wanted: Callable[[str, Tensor], bool]) -> dict[str, Tensor]:
    """Whole parameters on the CPU, one at a time; every rank must call this under ZeRO-3."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if wanted(name, parameter):
            with _whole(parameter):
                state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return state


def _whole(parameter: Tensor) -> Any:
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def belongs(name: str, parameter: Tensor) -> bool:
    """A checkpoint holds the whole connector, trained or not, and whatever else trains."""
    return name.startswith("connector.") or parameter.requires_grad


def write_state(state: dict[str, Tensor], path: Path) -> None:
    """All or nothing: written beside, then renamed."""
    partial = path.with_name(path.name + ".part")
    save_file(state, str(partial), metadata={"format": "pt"})
    os.replace(partial, path)


def mark_complete(folder: str | os.PathLike[str], facts: dict[str, Any]) -> None:
    """The last file of a checkpoint; without it the folder counts as half-written."""
    path = Path(folder) / MARKER
    with open(path.with_name(MARKER + ".part"), "w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def checkpoints(folder: str | os.PathLike[str], *, complete: bool) -> list[Path]:
    """Checkpoints of a run, oldest first, complete or half-written."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    chosen = [path for path in found if (path / MARKER).is_file() == complete]
    return sorted(chosen, key=lambda path: int(path.name.split("-")[1]))


def newest_complete(folder: str | os.PathLike[str], facts: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from.

    Args:
        folder: Of the run.
        facts: What must not change on resume, such as the number of processes.

    Raises:
        ValueError: it was written under other facts.
    """
    found = checkpoints(folder, complete=True)
    if not found:
        return None
    written = json.loads((found[-1] / MARKER).read_text())
    changed = {key: (written.get(key), value) for key, value in facts.items() if written.get(key) != value}
    if changed:
        told = ", ".join(f"{key} {before!r}, now {now!r}" for key, (before, now) in changed.items())
        raise ValueError(
            f"newest_complete: expected the settings {str(found[-1])!r} was written under, got {told}. "
            f"Start with those again, or give another output folder."
        )
    return found[-1]


def rotate(folder: str | os.PathLike[str], keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints."""
    for path in checkpoints(folder, complete=True)[: -max(keep, 1)]:
        (path / MARKER).unlink()
        shutil.rmtree(path)


def ensure_room(folder: str | os.PathLike[str], needed: int) -> None:
    """Refuse before anything is written.

    Raises:
        OSError: the folder cannot be written, or the disk has no room for a checkpoint.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OSError(f"ensure_room: expected a folder that can be written, got {str(path)!r}: {error}.") from error
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OSError(
            f"ensure_room: expected {needed / 1e9:.1f} GB of room for a checkpoint in {str(path)!r}, got "
            f"{free / 1e9:.1f} GB. Nothing was overwritten; make room and start the same command again."
        )


def find_trained(folder: str | os.PathLike[str]) -> Path:
    """The trained weights of a run's folder or of one of its checkpoints.

    Raises:
        FileNotFoundError: none there.
    """
    places = [Path(folder), *reversed(checkpoints(folder, complete=True))]
    for place in places:
        if (place / TRAINED_NAME).is_file():
            return place / TRAINED_NAME
    raise FileNotFoundError(
        f"find_trained: expected {TRAINED_NAME} in {str(folder)!r} or in a complete checkpoint there, found none."
    )


def carry_over(model: ReferenceModel, folder: str | os.PathLike[str], carry: str, seed: int) -> str:
    """Take stage 1's weights into a model that is about to begin stage 2.

    Args:
        model: Not yet sharded.
        folder: Of stage 1.
        carry: "projector": F_fine and F_coarse; the rest of the connector is drawn anew. "all": everything there.
        seed: For what is drawn.

    Returns:
        A sentence that says what was taken and what was drawn.

    Raises:
        ValueError: weights that the model does not have, or of another shape.
    """
    path = find_trained(folder)
    state = load_file(path)
    own = dict(model.named_parameters())
    wrong = [name for name in state if name not in own or own[name].shape != state[name].shape]
    if wrong or not any(name.startswith(PROJECTOR) for name in state):
        raise ValueError(
            f"carry_over: expected {str(path)!r} to hold the projector and fit the model, got {len(wrong)} that do not "
            f"fit: {wrong[:3]}."
        )
    if carry == "projector":
        draw_connector(model, seed)
        state = {name: value for name, value in state.items() if name.startswith(PROJECTOR)}
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    drawn = sum(name.startswith("connector.") and name not in state for name in own)
    return f"{len(state)} tensors taken from {path}, {drawn} of the connector drawn with seed {seed}"


def draw_connector(model: ReferenceModel, seed: int) -> None:
    """New random weights for the whole connector."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_connector(model.connector.config).state_dict()
    model.connector.load_state_dict(fresh)
