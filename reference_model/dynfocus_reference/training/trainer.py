"""The Trainer of transformers, taught about bad samples, complete checkpoints and what is worth saving."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback

from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.sampler import GroupedSampler
from dynfocus_reference.training.checkpoint import (
    TRAINED_NAME,
    belongs,
    checkpoints,
    ensure_room,
    gather,
    mark_complete,
    rotate,
    write_state,
)

logger = logging.getLogger(__name__)
BYTES_PER_TRAINABLE = 16


class TooManyBadSamplesError(RuntimeError):
    """More samples than allowed cannot be used; the message lists them."""


class RestoreRotary(TrainerCallback):
    """DeepSpeed casts a model's buffers when it wraps it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """After wrapping, before the first step."""
        getattr(model, "module", model).restore_rotary()


class ReferenceTrainer(Trainer):
    """Trains a `ReferenceModel`.

    Args:
        max_bad_share: Of this rank's samples; above it training stops.
        keep_checkpoints: Complete ones that stay.
        facts: Written into each complete checkpoint and compared on resume.
    """

    def __init__(self, *args: Any, max_bad_share: float, keep_checkpoints: int, facts: dict[str, Any], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.keep_checkpoints = keep_checkpoints
        self.facts = facts
        self.bad: list[str] = []
        planned = self.args.max_steps * self.args.train_batch_size * self.args.gradient_accumulation_steps
        share = len(self.train_dataset) / self.args.world_size * max(self.args.num_train_epochs, 1)
        self.allowed_bad = max_bad_share * (planned if self.args.max_steps > 0 else share)
        self.add_callback(RestoreRotary())
        self._reset_meters()

    def _reset_meters(self) -> None:
        self._tokens, self._frames, self._waited, self._since = 0, 0, 0.0, time.monotonic()

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedSampler:
        data: ConversationDataset = train_dataset or self.train_dataset
        per_step = self.args.train_batch_size * self.args.world_size
        return GroupedSampler(*data.sketch(), per_step, seed=self.args.seed)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class; measures how long training waits for data."""
        start = time.monotonic()
        result = super().get_batch_samples(*args, **kwargs)
        self._waited += time.monotonic() - start
        return result

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(inputs)
        self._note_bad(inputs.pop("skipped", []))
        self._tokens += inputs["input_ids"].numel()
        self._frames += len(inputs["frames"]) if "frames" in inputs else 0
        return super()._prepare_inputs(inputs)

    def _note_bad(self, messages: list[str]) -> None:
        for message in messages:
            logger.warning("skipped %s", message)
        self.bad += messages
        if len(self.bad) > self.allowed_bad:
            listed = "\n".join(self.bad[-50:])
            raise TooManyBadSamplesError(
                f"ReferenceTrainer: expected at most {self.allowed_bad:.1f} bad samples per process, got "
                f"{len(self.bad)}. Run `dynfocus check-data`, or raise max_bad_share:\n{listed}"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens and frames per second of this process, skipped samples and the share of time spent waiting."""
        if "loss" in logs:
            elapsed = max(time.monotonic() - self._since, 1e-9)
            logs["text_tokens_per_second"] = round(self._tokens / elapsed, 1)
            logs["frames_per_second"] = round(self._frames / elapsed, 1)
            logs["data_wait_share"] = round(self._waited / elapsed, 3)
            logs["skipped_samples"] = len(self.bad)
            self._reset_meters()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole connector and whatever else trains, as one safetensors file; none of the big frozen parts."""
        folder = Path(output_dir or str(self.args.output_dir))
        state = gather(self.model, belongs)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            write_state(state, folder / TRAINED_NAME)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        engine = self.model_wrapped
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            del engine.save_checkpoint

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        trainable = sum(getattr(p, "ds_numel", p.numel()) for p in self.model.parameters() if p.requires_grad)
        ensure_room(str(self.args.output_dir), BYTES_PER_TRAINABLE * trainable)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = os.path.join(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
            mark_complete(folder, {**self.facts, "step": self.state.global_step})
            rotate(str(self.args.output_dir), self.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(os.path.join(resume_from_checkpoint, TRAINED_NAME))
        own = dict((model or self.model).named_parameters())
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)


@contextmanager
def frozen_parts_stay_outside() -> Iterator[None]:
    """DeepSpeed checkpoints without the frozen parameters are loaded without them."""
    try:
        from deepspeed import DeepSpeedEngine
    except ImportError:
        yield
        return
    whole = DeepSpeedEngine.load_checkpoint

    @functools.wraps(whole)
    def load(engine: Any, folder: str, *args: Any, **kwargs: Any) -> Any:
        return whole(engine, folder, *args, **{**kwargs, "load_module_strict": False})

    DeepSpeedEngine.load_checkpoint = load
    try:
        yield
    finally:
        DeepSpeedEngine.load_checkpoint = whole


def drop_half_written(folder: str | os.PathLike[str]) -> list[str]:
    """Move checkpoints without their marker out of the way; their names."""
    names = []
    for path in checkpoints(folder, complete=False):
        path.rename(path.with_name(f"half-written-{path.name}-{time.time_ns()}"))
        names.append(path.name)
    return names
