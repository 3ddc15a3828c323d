"""What answers: found by a "module:callable" string, so that this package imports no model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_video.reader import VideoFrames
from dynfocus_video.resizing import FrameSize

Prompt = Sequence[str | VideoFrames]
"""Text and visual inputs in the order of the prompt; a picture is a video of one frame"""
PLANTED = "planted"
LOADERS = {
    "reference": "dynfocus_reference.answering:load",
    "transformers": "dynfocus_transformers.answering:load",
}


class Engine(Protocol):
    """A model that answers questions about videos. `load(**arguments, device=...)` of a host makes one."""

    frame_size: FrameSize | None
    """the size in which frames are wanted; None: as they are in the file"""

    def answer(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """One answer per prompt, computed in one batch, and what it cost.

        The costs: `tokens` of all visual inputs, `focus_frames`, `input_tokens` and `output_tokens` of the language
        model, `seconds_encode` and `seconds_prefill` of the batch divided by its size, and `batch`, its size.
        """
        ...

    def loss(self, prompt: Prompt, continuation: str) -> tuple[float, bool]:
        """The mean cross-entropy of a continuation, in nats per token, and whether greedy decoding would produce it."""
        ...


def load_engine(arguments: ModelArguments, device: Any) -> Engine:
    """The engine that the arguments name.

    Raises:
        ValueError: a host that does not exist, or an error of the host's own.
    """
    found: Engine = resolve(LOADERS.get(host_of(arguments), host_of(arguments)))(
        pretrained=model_folder(arguments.pretrained),
        connector=arguments.connector,
        max_tokens=arguments.max_tokens,
        scorer=arguments.scorer,
        dtype=arguments.dtype,
        attn=arguments.attn,
        device=device,
    )
    return found


def host_of(arguments: ModelArguments) -> str:
    """The host that was named, or the one whose model lies in the folder."""
    if arguments.host is not None:
        return arguments.host
    config = Path(model_folder(arguments.pretrained)) / "config.json"
    known = config.is_file() and json.loads(config.read_text()).get("model_type") == "dynfocus_reference"
    return "reference" if known else "transformers"


def model_folder(pretrained: str) -> str:
    """A folder or hub id as it is; for "planted" the folder of the shipped checkpoint."""
    return str(resolve("dynfocus_reference.planted:checkpoint_folder")()) if pretrained == PLANTED else pretrained


def resolve(name: str) -> Any:
    """What a "module:callable" string names.

    Raises:
        ValueError: no such module or no such name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"host: expected a 'module:callable' that can be imported, got {name!r} ({error}).") from error
