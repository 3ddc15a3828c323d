"""Reading other people's checkpoints: a few tensors at a time, pickles only as weights, nothing silently missing."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import safe_open
from torch import Tensor, nn

INDEX_NAME, SINGLE_NAME = "model.safetensors.index.json", "model.safetensors"
WRAPPERS = ("model_ema", "model", "module", "state_dict")
Rename = Callable[[str], str | None]
"""The key of our module for a key of a file, or None for a tensor that is not ours."""


class LoadReport(NamedTuple):
    """What a file gave to a part."""

    part: str
    source: str
    loaded: int
    """tensors taken"""
    tolerated: tuple[str, ...]
    """tensors of the part that were left aside on purpose"""

    def __str__(self) -> str:
        aside = f", {len(self.tolerated)} left aside ({self.tolerated[0]}, …)" if self.tolerated else ""
        return f"{self.part}: {self.loaded} tensors from {self.source}{aside}"


def read_tensors(source: str | os.PathLike[str], rename: Rename) -> dict[str, Tensor]:
    """The tensors that `rename` names, under their new names.

    Args:
        source: A .pth, .pt, .bin or .safetensors file, a folder of safetensors, or a repository of the Hugging Face
            hub. Of safetensors only the wanted tensors, of an index only the files that hold them, are read.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: a pickle that holds more than weights, or a folder without safetensors.
    """
    path = Path(source)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_pickle(path, rename)
    files = [str(path)] if path.suffix == ".safetensors" else _safetensors_of(str(source), rename)
    found: dict[str, Tensor] = {}
    for file in files:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"read_tensors: expected a checkpoint at {file!r}, found none.")
        with safe_open(file, framework="pt") as opened:
            names = {key: rename(key) for key in opened.keys()}  # noqa: SIM118
            found.update({new: opened.get_tensor(key) for key, new in names.items() if new is not None})
    return found


def _read_pickle(path: Path, rename: Rename) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"read_tensors: expected a checkpoint at {str(path)!r}, found none.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"read_tensors: expected {str(path)!r} to hold tensors and nothing else, got other objects. "
            f"Such a file can run any code; convert it where you trust it."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise ValueError(
            f"read_tensors: expected a dictionary of tensors in {str(path)!r}, got {type(content).__name__}."
        )
    named = {rename(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return {key: value for key, value in named.items() if key is not None}


def _safetensors_of(source: str, rename: Rename) -> list[str]:
    """The files of a folder or hub repository that hold a wanted tensor."""
    index = _fetch(source, INDEX_NAME)
    if index is None:
        single = _fetch(source, SINGLE_NAME)
        if single is None:
            raise ValueError(
                f"read_tensors: expected {SINGLE_NAME} or {INDEX_NAME} in {source!r}, found neither. "
                f"Is it a folder or a repository of safetensors?"
            )
        return [single]
    mapping = json.loads(Path(index).read_text())["weight_map"]
    shards = sorted({file for key, file in mapping.items() if rename(key) is not None})
    return [_fetch(source, shard) or os.path.join(source, shard) for shard in shards]


def _fetch(source: str, name: str) -> str | None:
    if os.path.isdir(source):
        path = os.path.join(source, name)
        return path if os.path.isfile(path) else None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise FileNotFoundError(f"read_tensors: expected a file, a folder or a hub repository, found no {source!r}.")
    try:
        return hf_hub_download(source, name)
    except EntryNotFoundError:
        return None


def load_exactly(
    module: nn.Module, state: dict[str, Tensor], *, part: str, source: object, tolerate: str | None = None
) -> LoadReport:
    """Copy a whole state into a module.

    Args:
        module: Whose every weight must be in `state`.
        state: Tensors under the module's names.
        part, source: For messages.
        tolerate: Names of further tensors that may be there, as a regular expression.

    Raises:
        ValueError: missing, extra or mis-shaped tensors, each kind counted and named.
    """
    own = module.state_dict()
    aside = tuple(sorted(key for key in state.keys() - own.keys() if tolerate and re.match(tolerate, key)))
    state = {key: value for key, value in state.items() if key not in aside}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    if told := _told(missing, extra, shapes):
        raise ValueError(
            f"load_exactly: expected {str(source)!r} to hold the weights of the {part} and no others, got {told}. "
            f"Is it the checkpoint of this part and of these sizes?"
        )
    module.load_state_dict(state)
    return LoadReport(part, str(source), len(state), aside)


@contextmanager
def opening(source: object, who: str) -> Iterator[None]:
    """Around `from_pretrained` of transformers: where no model lies, one line names the place.

    Raises:
        FileNotFoundError: `source` is no folder with a config.json, and no repository that can be reached.
    """
    try:
        yield
    except (OSError, HFValidationError) as error:
        if os.path.isfile(os.path.join(str(source), "config.json")):
            raise
        raise FileNotFoundError(
            f"{who}: expected a folder that `dynfocus train` or `dynfocus convert-weights` wrote, or a repository of "
            f"the hub, found neither at {str(source)!r}."
        ) from error


def expect_all_loaded(info: dict[str, Any], who: str, source: object, tolerate: str = "$^") -> None:
    """Refuse what transformers goes on with.

    Args:
        info: Of `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`.
        who, source: For messages.
        tolerate: Names of tensors that may be missing or extra, as a regular expression.

    Raises:
        ValueError: missing, extra or mis-shaped tensors, each kind counted and named.
    """
    missing, extra = (
        sorted(name for name in info.get(kind, ()) if not re.fullmatch(tolerate, name))
        for kind in ("missing_keys", "unexpected_keys")
    )
    shapes = sorted(
        f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in info.get("mismatched_keys", ())
    )
    if told := _told(missing, extra, shapes):
        raise ValueError(f"{who}: expected the weights in {str(source)!r} to fit their config.json, got {told}.")


def _told(missing: list[str], extra: list[str], shapes: list[str]) -> str:
    """How many of each kind, and the first of them."""
    kinds = (("missing", missing), ("extra", extra), ("mis-shaped", shapes))
    return "; ".join(f"{len(names)} {kind}: {', '.join(names[:3])}" for kind, names in kinds if names)
