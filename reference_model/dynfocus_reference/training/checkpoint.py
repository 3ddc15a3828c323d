"""What a checkpoint holds, and when it is complete."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dynfocus_connector import DynFocusConfig
from dynfocus_connector.saving import replace_file
from dynfocus_reference.model import ReferenceModel

logger = logging.getLogger(__name__)
MARKER, WRITING = "COMPLETE", "WRITING"
TRAINED_NAME = "trained.safetensors"
CONFIG_KEY = "connector"
CONNECTOR = "connector."


def gather(model: ReferenceModel, wanted: Callable[[str, Tensor], bool], *, keep: bool = True) -> dict[str, Tensor]:
    """Whole parameters on the CPU, one at a time; every rank must call this under ZeRO-3, and `keep` nothing for it."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if wanted(name, parameter):
            with _whole(parameter):
                if keep:
                    state[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return state


def _whole(parameter: Tensor) -> Any:
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def belongs(name: str, parameter: Tensor) -> bool:
    """A checkpoint holds the whole connector, trained or not, and whatever else trains."""
    return name.startswith(CONNECTOR) or parameter.requires_grad


def write_state(state: dict[str, Tensor], path: Path, connector: DynFocusConfig) -> None:
    """All or nothing; the connector's configuration goes into the header."""
    header = {"format": "pt", CONFIG_KEY: json.dumps(connector.to_dict())}
    replace_file(path, lambda file: save_file(state, file, metadata=header))


def begin(folder: Path) -> None:
    """The first file of a checkpoint: until it is complete it may be thrown away."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WRITING).touch()


def mark_complete(folder: str | os.PathLike[str], facts: dict[str, Any]) -> None:
    """The last file of a checkpoint; without it the folder counts as half-written."""
    replace_file(Path(folder) / MARKER, lambda file: _write_durably(file, json.dumps(facts)))
    (Path(folder) / WRITING).unlink(missing_ok=True)


def _write_durably(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def drop_half_written(folder: str | os.PathLike[str]) -> list[str]:
    """Delete checkpoints that a run did not finish; move other folders of such a name out of the way. Their names."""
    names = []
    for path in checkpoints(folder, complete=False):
        if (path / WRITING).is_file():
            shutil.rmtree(path)
        else:
            path.rename(path.with_name(f"not-mine-{path.name}-{time.time_ns()}"))
        names.append(path.name)
    return names


def checkpoints(folder: str | os.PathLike[str], *, complete: bool) -> list[Path]:
    """Checkpoints of a run, oldest first, complete or half-written."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    chosen = [path for path in found if (path / MARKER).is_file() == complete]
    return sorted(chosen, key=lambda path: int(path.name.split("-")[1]))


def newest_complete(folder: str | os.PathLike[str], facts: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from.

    Args:
        folder: Of the run.
        facts: What must not change on resume, such as the number of processes. What an older checkpoint does not say
            is told in the log and not compared.

    Raises:
        ValueError: it was written under other facts.
    """
    found = checkpoints(folder, complete=True)
    if not found:
        return None
    written = json.loads((found[-1] / MARKER).read_text())
    if unknown := sorted(facts.keys() - written.keys()):
        logger.warning("%s does not say, and nobody compares: %s", found[-1], ", ".join(unknown))
    changed = {key: (written[key], value) for key, value in facts.items() if written.get(key, value) != value}
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
        (path / MARKER).replace(path / WRITING)
        shutil.rmtree(path)
