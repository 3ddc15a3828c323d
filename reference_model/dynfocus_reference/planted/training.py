"""A lean loop, the same for every arm: AdamW, warm-up, cosine, plain cross-entropy on the answers.

It has no checkpoints, no resume and no processes of `ReferenceTrainer`: a run takes a minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.arms import Arm, compress
from dynfocus_reference.planted.samples import Batch, training_batch
from dynfocus_reference.planted.sources import Source

WARMUP = 0.05


class Schedule(NamedTuple):
    """How long and how fast."""

    steps: int
    batch: int
    rate: float
    score_rate: float | None = None
    """of the score network, which begins from nothing; `rate` where not given"""

    def times(self, effort: tuple[float, float]) -> Schedule:
        """Fewer steps, smaller batches."""
        return self._replace(steps=round(self.steps * effort[0]), batch=round(self.batch * effort[1]))


def loss_of(arm: Arm, model: ReferenceModel, batch: Batch, video: CompressedVideo | None) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    return model(**prompt(arm, model, batch), labels=batch.labels, video=video).loss


def prompt(arm: Arm, model: ReferenceModel, batch: Batch) -> dict[str, Tensor]:
    """Prompts; an arm that watches nothing has an unknown word in the video's place."""
    ids = batch.input_ids
    if arm.watches == "nothing":
        ids = ids.masked_fill(ids == model.config.placeholder_id, UNKNOWN)
    return {"input_ids": ids, "attention_mask": batch.attention_mask}


UNKNOWN = 3


def optimise(model: ReferenceModel, losses: Iterable[Callable[[], Tensor]], schedule: Schedule) -> list[float]:
    """One step per loss; the losses."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[".score." in name].append(parameter)
    rates = {False: schedule.rate, True: schedule.score_rate or schedule.rate}
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rates[is_score]} for is_score, group in groups.items() if group],
        weight_decay=0.01,
        betas=(0.9, 0.98),
    )
    rule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_then_cosine(step, schedule.steps))
    history = []
    for loss_of_step in losses:
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups.values() for p in group], 1.0)
        optimizer.step()
        rule.step()
        history.append(loss.item())
    return history


def warm_then_cosine(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step."""
    return min(1.0, (step + 1) / max(WARMUP * steps, 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train_arm(arm: Arm, model: ReferenceModel, sources: Sequence[Source], schedule: Schedule, seed: int) -> float:
    """Stage 2: DPE, CCE, projector and language model learn from the answers; seconds it took.

    Every arm sees the same samples in the same order, but for the sources that are its own.
    """
    schedule = schedule.times(arm.effort)
    trained = ["language_model"] if arm.watches == "nothing" else list(arm.trains)
    model.set_trainable(rf"{part}\." for part in trained)
    for name, parameter in model.named_parameters():
        if arm.frozen_scorer and ".score." in name:
            parameter.requires_grad_(False)
    model.train()
    order, beside = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    torch.manual_seed(seed)
    sizes = np.array([len(source.pool) for source in sources], float)

    def step() -> Tensor:
        source = sources[order.choice(len(sources), p=sizes / sizes.sum())] if len(sources) > 1 else sources[0]
        batch = training_batch(source.pool, schedule.batch, order)
        video = compress(arm, model, source.memory, batch, beside) if arm.watches == "video" else None
        return loss_of(arm, model, batch, video)

    started = time.monotonic()
    optimise(model, (step for _ in range(schedule.steps)), schedule)
    return time.monotonic() - started
