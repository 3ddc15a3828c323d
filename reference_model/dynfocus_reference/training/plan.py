"""What a run would do, without building it."""

from __future__ import annotations

import math
import os
from typing import Any

import torch

from dynfocus_reference.data.records import JsonLines
from dynfocus_reference.memory import model_state_bytes
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.model_info import build_on_meta, resolve_config
from dynfocus_reference.trainable import count_parameters, patterns_of
from dynfocus_reference.training.room import checkpoint_bytes
from dynfocus_reference.training.settings import TrainConfig
from dynfocus_reference.training.tokens import LONGEST, tokens_per_sample


def plan(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """What a run would do, without building it."""
    model = build_on_meta(resolve_config(config.model), config.lora)
    model.to(torch.bfloat16 if config.bf16 else torch.float32)  # type: ignore[arg-type]
    names = model.set_trainable(patterns_of(config.train))
    total, trainable = count_parameters(model), count_parameters(model, trainable_only=True)
    samples = sum(round(source.weight * _count(source.path)) for source in config.sources)
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.epochs * _steps(config, samples, world_size))
    longest = model.connector.num_tokens(config.data.max_frames or LONGEST, model.vision.num_patches)
    return {
        "trains": list(config.train),
        "trainable parameters": trainable,
        "trainable tensors": len(names),
        "all parameters": total,
        "samples": samples,
        "steps": steps,
        "samples per step": config.global_batch_size,
        "forwards per step and GPU": config.accumulation(world_size),
        "visual tokens of the longest video": longest,
        **_per_step(config, model),
        "GB of model states per GPU": round(model_state_bytes(total, trainable, config.zero, world_size) / 1e9, 1),
        "GB of a checkpoint at most": round(checkpoint_bytes(model) / 1e9, 1),
    }


def _per_step(config: TrainConfig, model: ReferenceModel) -> dict[str, Any]:
    """Tokens of all GPUs, by an average sample."""
    mean = tokens_per_sample(config, model)
    if mean is None:
        return {"tokens per step": "needs the data and a model folder"}
    text, visual = (round(value * config.global_batch_size) for value in (mean.text, mean.visual))
    return {
        "tokens per step, about": text + visual,
        "  of text": text,
        "  of videos and images": visual,
        "  videos taken for the longest": f"{mean.unknown:.0%} of samples say no duration",
    }


def _steps(config: TrainConfig, samples: int, world_size: int) -> int:
    """Of one epoch; the last one may be smaller."""
    batches = math.ceil(math.ceil(samples / config.batch_size_per_gpu) / world_size)
    return math.ceil(batches / config.accumulation(world_size))


def _count(path: str) -> int:
    return len(JsonLines(path)) if os.path.isfile(path) else 0
