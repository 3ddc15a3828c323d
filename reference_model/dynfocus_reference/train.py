"""`dynfocus train`: one stage, from a YAML file; the same command again goes on where a killed run stopped.

Also as a module: `deepspeed --module dynfocus_reference.train CONFIG`, `torchrun -m dynfocus_reference.train CONFIG`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from dynfocus_reference.config import preset
from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.fingerprint import agree
from dynfocus_reference.lora import add_adapters
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.processing import ReferenceProcessor, byte_tokenizer
from dynfocus_reference.trainable import patterns_of
from dynfocus_reference.training.arguments import expect_loggers, training_arguments
from dynfocus_reference.training.carry import carry_over
from dynfocus_reference.training.checkpoint import drop_half_written, newest_complete
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.engine import loaded_without_frozen_parts
from dynfocus_reference.training.export import export_model
from dynfocus_reference.training.leaving import leave
from dynfocus_reference.training.plan import plan
from dynfocus_reference.training.room import ensure_room, run_bytes, writing
from dynfocus_reference.training.settings import RANDOM_PRESETS, TrainConfig
from dynfocus_reference.training.trainer import ReferenceTrainer

logger = logging.getLogger(__name__)
FIXED = (
    "zero",
    "seed",
    "global_batch_size",
    "batch_size_per_gpu",
    "epochs",
    "max_steps",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "warmup",
)
"""Settings that a run keeps to its end."""


def build(config: TrainConfig) -> tuple[ReferenceModel, ReferenceProcessor]:
    """The model at the beginning of the stage, and its processor."""
    set_seed(config.seed)
    if config.model in RANDOM_PRESETS:
        model = ReferenceModel(preset(config.model))
        processor = ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), model.config)
    else:
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        model = ReferenceModel.from_pretrained(config.model, dtype=dtype)
        processor = ReferenceProcessor.from_pretrained(config.model)
    if config.init_from_stage1:
        logger.warning("%s", carry_over(model, config.init_from_stage1, config.carry, config.seed))
    if config.lora is not None:
        add_adapters(model.language_model, config.lora, config.seed)
    model.frames_per_chunk = config.frames_per_chunk
    if config.gradient_checkpointing:
        model.checkpoint_activations()
    model.set_trainable(patterns_of(config.train))
    return model, processor


def train(config: TrainConfig) -> ReferenceTrainer | None:
    """Run a stage, or go on with it; None where it trains nothing.

    Raises:
        ValueError: settings that do not fit together, or that changed since the last checkpoint.
        OSError: the output cannot be written.
        ImportError: a logger of `report_to` is not installed.
        TooManyBadSamplesError: more bad samples than allowed.
    """
    if not config.train:
        logger.warning("this stage trains nothing and is skipped")
        return None
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    expect_loggers(config.report_to)
    ensure_room(config.output, 0)
    facts = facts_of(config, world_size)
    newest = newest_complete(config.output, facts)
    unset_hf_deepspeed_config()  # of an earlier run in this process
    model, processor = build(config)  # before the arguments: under ZeRO-3 transformers would shard half of it
    data = ConversationDataset(config.sources, processor, config.data)
    agree(model, data)
    exports = bool({"language_model", "lora"} & set(config.train))
    arguments = training_arguments(config, world_size)
    trainer = ReferenceTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=Collator(processor.tokenizer.pad_token_id, processor.qformer_tokenizer.pad_token_id),
        max_bad_share=config.max_bad_share,
        keep_checkpoints=config.keep_checkpoints,
        facts=facts,
    )
    with arguments.main_process_first(local=False, desc="sorting checkpoints"):
        if arguments.should_save and (dropped := drop_half_written(config.output)):
            logger.warning("half-written, out of the way: %s", ", ".join(dropped))
    needed = run_bytes(model, config.output, config.keep_checkpoints, exports=exports)
    ensure_room(config.output, needed, f"a run with keep_checkpoints={config.keep_checkpoints}")
    if newest is not None:
        trainer.remember_bad(newest)
    with loaded_without_frozen_parts():
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    with writing(Path(config.output) / "model"):
        trainer.save_model(config.output)
        if exports:
            export_model(trainer, processor, Path(config.output) / "model", config.lora)
    return trainer


def facts_of(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """What must be the same when a run goes on: what decides the order, the samples and the steps.

    Files go by their names alone, so that data may move.
    """
    return {
        "world_size": world_size,
        "train": list(config.train),
        "lora": None if config.lora is None else str(config.lora),
        "sources": [[Path(source.path).name, source.weight] for source in config.sources],
        **{name: getattr(config, name) for name in FIXED},
        **{f"data.{name}": value for name, value in vars(config.data).items() if name != "features"},
    }


def run(arguments: argparse.Namespace) -> int:
    """Train, or say what would be trained."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = load_config(arguments.config, arguments.changes)
    if arguments.dry_run:
        for key, value in plan(config, arguments.gpus).items():
            print(f"{key:<36}{value if not isinstance(value, int) else format(value, ',')}")
        missing = [source.path for source in config.sources if not os.path.isfile(source.path)]
        print("\n".join(f"not found: {path}" for path in missing), end="\n" if missing else "")
        return 0
    train(config)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """For launchers, which may add --local_rank."""
    from dynfocus_reference.commands import train_arguments

    parser = train_arguments(argparse.ArgumentParser(prog="dynfocus_reference.train"))
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(leave(main()))
