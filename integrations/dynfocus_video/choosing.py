"""Which connector compresses a video: a trained one from a folder, or a training-free one after a preset."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from dynfocus_connector import DynFocusConfig, DynFocusConnector, build_connector

Preset = Literal["paper", "authors_code"]

_TEXT_WEIGHT = 0.5
_SHARED_FIELDS = ("num_prototypes", "focus_ratio", "pool_grid", "spatial_prototypes", "spatial_neighbors")


def preset_config(preset: str, **changes: Any) -> DynFocusConfig:
    """A preset by name.

    Raises:
        ValueError: no preset has that name.
    """
    if preset not in get_args(Preset):
        raise ValueError(f"preset_config: expected preset to be one of {get_args(Preset)}, got {preset!r}.")
    config: DynFocusConfig = getattr(DynFocusConfig, preset)(**changes)
    return config


def choose_connector(
    dim: int,
    *,
    preset: str | None = None,
    num_prototypes: int | None = None,
    focus_ratio: float | None = None,
    checkpoint: str | None = None,
    dim_text: int | None = None,
    device: torch.device | str | None = None,
) -> DynFocusConnector:
    """A connector for features of width `dim`, in evaluation mode.

    Without a checkpoint nothing in it is trained: a preset then means its L, r, P and spatial levels.

    Args:
        dim: Width of the features.
        preset: "paper" (the default) or "authors_code"; a checkpoint brings its own.
        num_prototypes, focus_ratio: L and r instead of the preset's or the checkpoint's.
        checkpoint: A folder that `save_pretrained` wrote, or a name on the hub.
        dim_text: Width of the question's features, None without a question.
        device: Where the connector computes.

    Raises:
        ValueError: a checkpoint for another width, a preset beside a checkpoint, text of another width.
    """
    own = {"num_prototypes": num_prototypes, "focus_ratio": focus_ratio}
    changes = {name: value for name, value in own.items() if value is not None}
    if checkpoint is not None:
        return _trained(checkpoint, dim, preset, changes, dim_text, device)
    _check_text(dim, dim_text, "the features, because nothing is trained to translate between them")
    shape = {name: getattr(preset_config(preset or "paper"), name) for name in _SHARED_FIELDS}
    text_weight = _TEXT_WEIGHT if dim_text is not None else 0.0
    config = DynFocusConfig.training_free(dim=dim, text_weight=text_weight, **(shape | changes))
    return build_connector(config, device=device).eval()


def _trained(
    checkpoint: str, dim: int, preset: str | None, changes: dict[str, Any], dim_text: int | None, device: Any
) -> DynFocusConnector:
    if preset is not None:
        raise ValueError(
            f"choose_connector: expected a preset or a checkpoint, got both: {preset!r} and {checkpoint!r}. "
            "A checkpoint brings its own configuration."
        )
    if Path(checkpoint).is_file() or (checkpoint.startswith((".", "/")) and not Path(checkpoint).is_dir()):
        raise ValueError(
            f"choose_connector: expected a folder that save_pretrained wrote, got {checkpoint!r}. Check the path."
        )
    connector: DynFocusConnector = DynFocusConnector.from_pretrained(checkpoint, map_location=device or "cpu")
    config = connector.config
    if config.dim != dim:
        raise ValueError(
            f"choose_connector: expected features of width {config.dim}, as the checkpoint {checkpoint!r} wants, "
            f"got an encoder of width {dim}. Use the encoder it was trained with."
        )
    _check_text(config.dim if config.dim_text is None else config.dim_text, dim_text, f"the checkpoint {checkpoint!r}")
    if not changes:
        return connector
    changed = build_connector(dataclasses.replace(config, **changes), device=device)
    changed.load_state_dict(connector.state_dict())
    return changed.eval()


def _check_text(wanted: int, dim_text: int | None, whose: str) -> None:
    if dim_text is not None and dim_text != wanted:
        raise ValueError(
            f"choose_connector: expected question features of width {wanted}, as {whose}, got {dim_text}. "
            "Choose the text encoder that belongs to the vision encoder."
        )
