"""`dynfocus model-info`: parts, parameters and memory of a reference model, without allocating it."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import torch

from dynfocus_reference.config import PRESETS, ReferenceConfig, preset
from dynfocus_reference.lora import LoraOptions, add_adapters
from dynfocus_reference.memory import model_state_bytes
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.trainable import STAGES, count_parameters, patterns_of


def build_on_meta(config: ReferenceConfig, lora: LoraOptions | None = None) -> ReferenceModel:
    """The model with shapes and no memory, with adapters where options for them are given."""
    with torch.device("meta"):
        model = ReferenceModel(config)
        if lora is not None:
            add_adapters(model.language_model, lora)
    return model


def model_info(config: ReferenceConfig, gpus: int = 8) -> dict[str, Any]:
    """Parameters of each part, trainable parameters of each stage, and bytes per GPU for ZeRO-0 to ZeRO-3.

    Example:
        >>> model_info(preset("paper-7b"))["total"]
        7954285441
    """
    model = build_on_meta(config)
    connector = model.connector
    parts = {
        f"vision tower ({config.vision_name}, block {model.vision.index + 1})": model.vision,
        f"Q-Former ({config.num_queries} queries, its norm included)": model.qformer,
        "DPE (score network φ)": connector.estimator,
        "CCE: F_fine and F_coarse": connector.encoder.projector,
        "CCE: φ_q and φ_k": connector.encoder.rods,
        f"language model ({config.text_config.model_type})": model.language_model,
    }
    table = {name: count_parameters(part) for name, part in parts.items()}
    total = count_parameters(model)
    if total > sum(table.values()):
        table["CCE: the rest"] = total - sum(table.values())
    stages = {}
    for name, groups in STAGES.items():
        staged = build_on_meta(config, LoraOptions()) if "lora" in groups else model
        staged.set_trainable(patterns_of(groups))
        trainable = count_parameters(staged, trainable_only=True)
        per_gpu = [model_state_bytes(count_parameters(staged), trainable, stage, gpus) for stage in range(4)]
        stages[name] = {"trains": list(groups), "trainable": trainable, "bytes_per_gpu": per_gpu}
    return {"parts": table, "total": total, "gpus": gpus, "stages": stages}


def as_text(info: dict[str, Any]) -> str:
    """The tables, for people."""
    width = max(map(len, info["parts"])) + 2
    lines = [f"{'part':<{width}}{'parameters':>16}"]
    lines += [f"{name:<{width}}{count:>16,}" for name, count in info["parts"].items()]
    lines += [f"{'total':<{width}}{info['total']:>16,}", ""]
    lines += [f"GB of model states per GPU on {info['gpus']} GPUs, bf16 and Adam, activations not counted:"]
    lines += [f"{'stage':<{width}}{'trainable':>16}" + "".join(f"{f'ZeRO-{n}':>9}" for n in range(4))]
    for name, stage in info["stages"].items():
        sizes = "".join(f"{size / 1e9:>9.1f}" for size in stage["bytes_per_gpu"])
        lines.append(f"{name:<{width}}{stage['trainable']:>16,}{sizes}")
    return "\n".join(lines)


def resolve_config(name: str) -> ReferenceConfig:
    """A preset by name, or the configuration of a model folder.

    Raises:
        ValueError: neither.
    """
    if name in PRESETS:
        return preset(name)
    if os.path.isfile(os.path.join(name, "config.json")):
        return ReferenceConfig.from_pretrained(name)
    raise ValueError(f"model-info: expected {', '.join(PRESETS)} or a folder with config.json, got {name!r}.")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    info = model_info(resolve_config(arguments.model), arguments.gpus)
    print(json.dumps(info, indent=2) if arguments.json else as_text(info))
    return 0
