"""The Trainer of transformers, taught about bad samples, complete checkpoints and what is worth saving."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer

from dynfocus_connector.saving import replace_file
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.sampler import GroupedSampler
from dynfocus_reference.lora import ADAPTER, save_adapters
from dynfocus_reference.training.checkpoint import (
    TRAINED_NAME,
    begin,
    belongs,
    gather,
    mark_complete,
    rotate,
    write_state,
)
from dynfocus_reference.training.engine import RestoreRotary, saved_without_frozen_parts
from dynfocus_reference.training.meters import Meters
from dynfocus_reference.training.room import checkpoint_bytes, ensure_room, writing

logger = logging.getLogger(__name__)
ADAPTER_FOLDER = "adapter"


class TooManyBadSamplesError(RuntimeError):
    """More samples than allowed cannot be used; the message lists them."""


class ReferenceTrainer(Trainer):
    """Trains a `ReferenceModel`.

    Args:
        max_bad_share: Of this rank's samples; above it training stops.
        keep_checkpoints: Complete ones that stay.
        facts: Written into each complete checkpoint and compared on resume.
    """

    model: Any
    model_wrapped: Any
    train_dataset: Any

    def __init__(self, *args: Any, max_bad_share: float, keep_checkpoints: int, facts: dict[str, Any], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.keep_checkpoints = keep_checkpoints
        self.facts = facts
        self.bad: list[str] = []
        planned = self.args.max_steps * self.args.train_batch_size * self.args.gradient_accumulation_steps
        share = len(self.train_dataset) / self.args.world_size * max(self.args.num_train_epochs, 1)
        self.allowed_bad = max_bad_share * (planned if self.args.max_steps > 0 else share)
        self.add_callback(RestoreRotary())
        self.meters = Meters()

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedSampler:
        data: ConversationDataset = train_dataset or self.train_dataset
        per_step = self.args.train_batch_size * self.args.world_size
        self.sampler = GroupedSampler(*data.sketch(), per_step, seed=self.args.seed)
        return self.sampler

    def _run_epoch(self, **arguments: Any) -> None:  # type: ignore[override]
        """As in the base class. On resume with several processes it would leave the sampler in the first epoch, and
        with `max_steps` take one step more than a finished run has.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        self.sampler.set_epoch(arguments["epoch"])
        super()._run_epoch(**arguments)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class; measures how long training waits for data."""
        with self.meters.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(inputs)
        self._note_bad(inputs.pop("skipped", []))
        self.meters.count(inputs, self.model)
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

    def _bad_file(self, folder: str | os.PathLike[str]) -> Path:
        """Where a checkpoint keeps what this process has skipped so far."""
        return Path(folder) / f"skipped_{self.args.process_index}.json"

    def remember_bad(self, checkpoint: str | os.PathLike[str]) -> None:
        """Go on counting bad samples from those of a checkpoint; older ones do not say."""
        path = self._bad_file(checkpoint)
        self.bad = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what `Meters` says; called by every process."""
        if "loss" in logs:
            logs |= self.meters.line(len(self.bad), self._total)
        super().log(logs, start_time)

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values.to(self.args.device), "sum").cpu()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole connector and whatever else trains, as one safetensors file; none of the big frozen parts.

        Adapters lie beside it once more, as peft reads them.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        state = gather(self.model, belongs, keep=self.args.should_save)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            write_state(state, folder / TRAINED_NAME, self.model.connector.config)
            if any(ADAPTER in name for name in state):
                save_adapters(self.model.language_model, state, folder / ADAPTER_FOLDER)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        with saved_without_frozen_parts(self.model_wrapped):
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        ensure_room(folder.parent, checkpoint_bytes(self.model), folder.name)
        self.accelerator.wait_for_everyone()  # nobody writes before everybody has looked
        with writing(folder):
            if self.args.should_save:
                begin(folder)
            super()._save_checkpoint(model, trial)
            text = json.dumps(self.bad)
            replace_file(self._bad_file(folder), lambda file: Path(file).write_text(text, encoding="utf-8"))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(folder, {**self.facts, "step": self.state.global_step})
                rotate(folder.parent, self.keep_checkpoints)
            self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(os.path.join(resume_from_checkpoint, TRAINED_NAME))
        own = dict((model or self.model).named_parameters())
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)
