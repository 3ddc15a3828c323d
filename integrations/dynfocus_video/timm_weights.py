"""timm models by name, with weights that are complete or refused."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynfocus_video.errors import EncoderError


def create_model(
    name: str, *, weights: str | os.PathLike[str] | None, keep_head: bool, last_but_one: bool
) -> nn.Module:
    """A timm model in evaluation mode with pretrained weights, or with those of a file.

    Args:
        name: a timm name, with or without a tag, or "hf-hub:OWNER/NAME".
        weights: .safetensors or .pth; None downloads (or finds in the cache) what timm publishes under the name.
        keep_head: keep the final projection (CLIP towers) instead of dropping it.
        last_but_one: the last block and what follows are never run; a file may lack them.
    """
    timm = _timm()
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=4, cutoff=0.5)
        raise EncoderError(
            f"load_encoder: expected a model that timm {timm.__version__} knows, got {name!r}. "
            + (f"Did you mean {', '.join(near)}?" if near else "timm.list_models() lists them.")
        )
    state = None if weights is None else _read_state(Path(weights))
    head = {} if keep_head else {"num_classes": 0}
    if keep_head and state is not None and "head.weight" in state:
        head = {"num_classes": state["head.weight"].shape[0]}
    try:
        model: nn.Module = timm.create_model(name, pretrained=weights is None, **head)
    except Exception as error:  # hub, network, timm and configuration errors share no base class
        raise EncoderError(
            f"load_encoder: expected pretrained weights of {name!r}, got {type(error).__name__}: {_first_line(error)}. "
            "Without a network, name a file: weights=FILE (--weights FILE)."
        ) from error
    if state is not None:
        unused = () if keep_head else _classifier_prefixes(model)
        if last_but_one:
            unused = (*unused, f"blocks.{len(model.blocks) - 1}.", "norm.", "fc_norm.")  # type: ignore[arg-type]
        _load_complete(model, state, str(weights), unused)
    return model.eval().requires_grad_(False)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise EncoderError(
            "load_encoder: expected timm to be installed, got no such module. "
            "Run: pip install 'dynfocus-connector[video]'"
        ) from error
    return timm


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200].rstrip(".")


def _classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    return tuple(f"{prefix}." for prefix in ([named] if isinstance(named, str) else named))


def _read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name; no pickled code is run."""
    if not path.is_file():
        raise EncoderError(f"load_encoder: expected a weights file, got {str(path)!r}, which does not exist.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip errors share no base class
        raise EncoderError(
            f"load_encoder: expected tensors in a .safetensors or .pth file, got {str(path)!r} "
            f"({type(error).__name__}: {_first_line(error)})."
        ) from error
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(
            f"load_encoder: expected a state dict of tensors, got {type(state).__name__} in {str(path)!r}."
        )
    return state


def _load_complete(model: nn.Module, state: dict[str, Tensor], source: str, unused: tuple[str, ...]) -> None:
    """Load every tensor the model runs, converting published layouts as timm does, or say which do not fit."""
    if _mismatches(model, state, unused):
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        state = convert(state, model) if convert is not None else state
    wrong = _mismatches(model, state, unused)
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise EncoderError(
            f"load_encoder: expected weights for every tensor of {type(model).__name__}, got {len(wrong)} that "
            f"do not fit in {source!r}: {shown}. Check that the file belongs to this model."
        )
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)


def _mismatches(model: nn.Module, state: dict[str, Tensor], unused: tuple[str, ...]) -> list[str]:
    own = model.state_dict()
    wrong = [f"missing {name}" for name in own if name not in state]
    wrong += [f"unexpected {name}" for name in state if name not in own]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    return [line for line in wrong if not line.removeprefix("missing ").removeprefix("unexpected ").startswith(unused)]
