"""`dynfocus train`: one stage, from a YAML file; the same command again goes on where a killed run stopped.

Also as a module: `deepspeed --module dynfocus_reference.train CONFIG`, `torchrun -m dynfocus_reference.train CONFIG`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from dynfocus_reference.config import preset
from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.memory import model_state_bytes
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.model_info import build_on_meta, resolve_config
from dynfocus_reference.processing import ReferenceProcessor, byte_tokenizer
from dynfocus_reference.trainable import count_parameters, patterns_of
from dynfocus_reference.training.checkpoint import carry_over, ensure_room, gather, newest_complete
from dynfocus_reference.training.config import CONFIG_FOLDER, TrainConfig, load_config
from dynfocus_reference.training.trainer import ReferenceTrainer, drop_half_written, frozen_parts_stay_outside

logger = logging.getLogger(__name__)
RANDOM_PRESETS = ("tiny", "small")


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
        TooManyBadSamplesError: more bad samples than allowed.
    """
    if not config.train:
        logger.warning("this stage trains nothing and is skipped")
        return None
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    ensure_room(config.output, 0)
    facts = {"world_size": world_size, "zero": config.zero, "train": list(config.train), "seed": config.seed,
             "global_batch_size": config.global_batch_size}  # fmt: skip
    newest = newest_complete(config.output, facts)
    model, processor = build(config)  # before the arguments: transformers would shard half of it under ZeRO-3
    arguments = training_arguments(config, world_size)
    trainer = ReferenceTrainer(
        model=model,
        args=arguments,
        train_dataset=ConversationDataset(config.sources, processor, config.data),
        data_collator=Collator(processor.tokenizer.pad_token_id, processor.qformer_tokenizer.pad_token_id),
        max_bad_share=config.max_bad_share,
        keep_checkpoints=config.keep_checkpoints,
        facts=facts,
    )
    with arguments.main_process_first(desc="sorting checkpoints"):
        if arguments.should_save and (dropped := drop_half_written(config.output)):
            logger.warning("set aside half-written %s", ", ".join(dropped))
    with frozen_parts_stay_outside():
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    trainer.save_model(config.output)
    if "language_model" in config.train:
        export(trainer, processor, Path(config.output) / "model")
    return trainer


def export(trainer: ReferenceTrainer, processor: ReferenceProcessor, folder: Path) -> None:
    """The whole model as a folder that `ReferenceModel.from_pretrained` loads."""
    model: ReferenceModel = trainer.model
    state = gather(model, lambda name, parameter: True)
    if trainer.args.should_save:
        model.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()


def plan(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """What a run would do, without building it."""
    model = build_on_meta(resolve_config(config.model))
    names = model.set_trainable(patterns_of(config.train))
    total, trainable = count_parameters(model), count_parameters(model, trainable_only=True)
    samples = sum(round(source.weight * _count(source.path)) for source in config.sources)
    steps = config.max_steps if config.max_steps > 0 else int(samples * config.epochs) // config.global_batch_size
    tokens = model.connector.num_tokens(config.data.max_frames or 200, model.vision.num_patches)
    return {
        "trains": list(config.train),
        "trainable parameters": trainable,
        "trainable tensors": len(names),
        "all parameters": total,
        "samples": samples,
        "steps": steps,
        "samples per step": config.global_batch_size,
        "forwards per step and GPU": config.accumulation(world_size),
        "visual tokens of the longest video": tokens,
        "visual tokens per step at most": tokens * config.global_batch_size,
        "GB of model states per GPU": round(model_state_bytes(total, trainable, config.zero, world_size) / 1e9, 1),
    }


def _count(path: str) -> int:
    from dynfocus_reference.data.records import JsonLines

    return len(JsonLines(path)) if os.path.isfile(path) else 0


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
    sys.exit(main())
