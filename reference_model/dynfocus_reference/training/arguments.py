"""The settings of a run for transformers and DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable

import torch
from transformers import TrainingArguments

from dynfocus_reference.training.config import CONFIG_FOLDER
from dynfocus_reference.training.settings import TrainConfig

PACKAGES = {"tensorboard": ("tensorboard", "reference"), "wandb": ("wandb", "wandb")}
"""The package that a logger needs, and the extra of ours that brings it."""


def expect_loggers(names: Iterable[str]) -> None:
    """Refuse loggers whose package is not installed, before a model is read.

    Raises:
        ImportError: names the package and the extra that brings it.
    """
    for name in names:
        package, extra = PACKAGES.get(name, (None, None))
        if package is not None and importlib.util.find_spec(package) is None:
            raise ImportError(
                f"train: expected the package {package} for report_to: [{name}], found none. "
                f'Install it with `pip install "dynfocus-connector[{extra}]"`, or leave {name} out of report_to.'
            )


def training_arguments(config: TrainConfig, world_size: int) -> TrainingArguments:
    """The settings of a run as transformers wants them; `zero` picks the DeepSpeed file."""
    cpu = not torch.cuda.is_available()
    deepspeed = None
    if config.zero:
        deepspeed = json.loads((CONFIG_FOLDER / "deepspeed" / f"zero{config.zero}.json").read_text())
        if cpu:
            _deepspeed_on_cpu()
    return TrainingArguments(
        output_dir=config.output,
        per_device_train_batch_size=config.batch_size_per_gpu,
        gradient_accumulation_steps=config.accumulation(world_size),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        optim="adamw_torch",
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        bf16=config.bf16,
        logging_steps=config.log_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        seed=config.seed,
        report_to=list(config.report_to) or "none",
        deepspeed=deepspeed,
        use_cpu=cpu,
        disable_tqdm=True,
    )


def _deepspeed_on_cpu() -> None:
    """Gloo instead of a shared-memory extension that would be compiled first."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
