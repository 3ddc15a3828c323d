"""What a second stage takes from a first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

from dynfocus_connector import build_connector
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.training.checkpoint import CONNECTOR, TRAINED_NAME, checkpoints

PROJECTOR = "connector.encoder.projector."


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
        A sentence that names what was taken and what was drawn.

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
    drawn = [name for name in own if name.startswith(CONNECTOR) and name not in state]
    return f"taken from {path}: {grouped(state)}; drawn with seed {seed}: {grouped(drawn)}"


def grouped(names: Iterable[str]) -> str:
    """Parameters by what their names begin with, and how many there are.

    Example:
        >>> grouped(["connector.encoder.projector.content.0.bias", "connector.encoder.projector.context.bias", "head"])
        'connector.encoder.projector.* (2), head'
    """
    parts = Counter(".".join([*parent[:3], "*"]) if (parent := name.split(".")[:-1]) else name for name in names)
    return ", ".join(f"{part} ({count})" if part.endswith("*") else part for part, count in parts.items()) or "nothing"


def draw_connector(model: ReferenceModel, seed: int) -> None:
    """New random weights for the whole connector."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_connector(model.connector.config).state_dict()
    model.connector.load_state_dict(fresh)
