"""Low-rank adapters: what may train in the place of the language model's weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from dynfocus_connector.saving import replace_file

PREFIX = "language_model."
ADAPTER, BASE = ".lora_", ".base_layer."


@dataclass(frozen=True)
class LoraOptions:
    """W + (alpha / rank) · B A, where only A and B train.

    **Source**: Hu et al. 2021; rank, alpha, dropout and targets of LLaVA-1.5's LoRA script. The paper has no adapters.

    Args:
        rank: Rows of A, columns of B.
        alpha: Strength.
        dropout: In front of A.
        targets: The last part of the names of the linear layers that get one; ``"all-linear"``: all but the output's.
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05
    targets: str | Sequence[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"LoraOptions: expected rank >= 1, alpha > 0 and 0 <= dropout < 1, got {self.rank}, {self.alpha} and "
                f"{self.dropout}."
            )

    def peft_config(self) -> LoraConfig:
        """The same for peft."""
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )


def add_adapters(language_model: nn.Module, options: LoraOptions, seed: int = 0) -> None:
    """Put adapters beside the linear layers, in place; until they have learnt something they change nothing.

    Raises:
        ValueError: a target that is no linear layer.
    """
    linear = {name.split(".")[-1] for name, layer in language_model.named_modules() if isinstance(layer, nn.Linear)}
    lost = set() if isinstance(options.targets, str) else set(options.targets) - linear
    if lost or (isinstance(options.targets, str) and options.targets != "all-linear"):
        raise ValueError(
            f"LoraOptions: expected targets 'all-linear' or a list among {sorted(linear)}, got "
            f"{sorted(lost) or options.targets!r}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(options.peft_config(), language_model)


def merge(state: dict[str, Tensor], options: LoraOptions) -> dict[str, Tensor]:
    """Whole weights with their adapters added, under the names they have without adapters."""
    merged = {}
    for name, value in state.items():
        layer, beside, kind = name.partition(BASE)
        if beside and kind == "weight":
            wide = torch.promote_types(value.dtype, torch.float32)
            down, up = (state[f"{layer}{ADAPTER}{side}.default.weight"].to(wide) for side in "AB")
            value = (value.to(wide) + options.alpha / options.rank * up @ down).to(value.dtype)
        if ADAPTER not in name:
            merged[name.replace(BASE, ".")] = value
    return merged


def save_adapters(language_model: Any, state: dict[str, Tensor], folder: str | os.PathLike[str]) -> None:
    """The adapters of `state` as peft reads them: `PeftModel.from_pretrained(model.language_model, folder)`."""
    path = Path(folder)
    language_model.peft_config["default"].save_pretrained(str(path))
    tensors = {
        f"base_model.model.{name.removeprefix(PREFIX).replace('.default.', '.')}": value
        for name, value in state.items()
        if ADAPTER in name
    }
    replace_file(path / "adapter_model.safetensors", lambda file: save_file(tensors, file, metadata={"format": "pt"}))
