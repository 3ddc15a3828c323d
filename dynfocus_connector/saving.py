"""A connector as a folder: config.json and model.safetensors, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
from torch import Tensor, nn

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


def write_folder(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Write both files; each appears complete."""
    tensors = {name: value.contiguous() for name, value in state.items()}
    replace_file(folder / WEIGHTS_NAME, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2) + "\n"
    replace_file(folder / CONFIG_NAME, lambda path: Path(path).write_text(text))


def replace_file(path: Path, write: Callable[[str], Any]) -> None:
    """Write beside `path`, then rename: a reader never meets half a file, an error leaves the old one."""
    temporary = path.with_name(path.name + ".part")
    try:
        write(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def find_file(model_id: str, name: str, hub: dict[str, Any]) -> str:
    """The path of a file in a folder, or in a repository of the hub.

    Raises:
        FileNotFoundError: the folder holds no such file.
    """
    if os.path.isdir(model_id):
        path = os.path.join(model_id, name)
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"DynFocusConnector.from_pretrained: expected {name} in {model_id!r}, found none. "
                f"Write one with save_pretrained."
            )
        return path
    keys = ("revision", "cache_dir", "force_download", "local_files_only", "token")
    return hf_hub_download(model_id, name, **{key: hub[key] for key in keys if key in hub})


def load_exactly(connector: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy weights into `connector`.

    Raises:
        ValueError: missing, extra or mis-shaped ones, named.
    """
    own = connector.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"DynFocusConnector.from_pretrained: expected the weights in {source!r} to fit its config.json, "
            f"got missing {missing}, extra {extra}, mis-shaped {shapes}."
        )
    connector.load_state_dict(state)
