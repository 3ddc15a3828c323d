"""Stage 1 of the study, one for all arms: the language model learns to read visual tokens.

First single frames, then three frames, then short stories, then stories of full length, always with given frames in
focus; in between, stories are shown as every rival shows them, so that no arm begins with tokens it has never seen.
Every sample is a conversation of several questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynfocus_connector.pooled_baselines import PooledBaseline
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.arms import ARMS, Arm, compress, install
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.questions import Question, about_board, ask
from dynfocus_reference.planted.samples import Sample, collate, conversation
from dynfocus_reference.planted.training import Schedule, loss_of, optimise
from dynfocus_reference.planted.world import Story, write_story
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_reference.trainable import STAGES, patterns_of

ORACLE = ARMS["oracle frames"]
RIVALS = ("rods alone", "mean pooling", "token merging", "event merging", "q-former queries")
EVERY = 3
"""of so many steps on full stories one shows a rival's tokens"""
SHORT = 12
"""frames of the short stories"""


class Plan(NamedTuple):
    """The four parts of stage 1."""

    one_frame: Schedule = Schedule(400, 32, 3e-3)
    three_frames: Schedule = Schedule(700, 24, 3e-3)
    short_stories: Schedule = Schedule(400, 16, 2e-3)
    stories: Schedule = Schedule(800, 16, 2e-3)


class Shown(NamedTuple):
    """A conversation, and the frames in focus of which it speaks."""

    frames: list[int]
    sample: Sample


def about_frames(
    memory: Memory, processor: ReferenceProcessor, count: int, items: int, seed: int, whole: bool
) -> list[Shown]:
    """Conversations about boards in `count` frames and, where the whole story is shown, about the story."""
    random = np.random.default_rng(seed)
    pool = []
    for _ in range(items):
        number = int(random.integers(len(memory)))
        story = memory.stories[number]
        names = [str(name) for name in random.permutation(sorted(story.boards))[:count]]
        frames = [int(random.integers(story.boards[name].start, story.boards[name].stop)) for name in names]
        while len(frames) < count:
            frame = int(random.integers(story.length))
            frames += [frame] if frame not in frames else []
        questions = _about(story, names, random, whole)
        order = sorted if whole else list
        pool.append(Shown(order(frames), conversation(number, questions, processor, random)))
    return pool


def _about(story: Story, names: Sequence[str], random: np.random.Generator, whole: bool) -> list[Question]:
    questions = [about_board(story, "salience", name, random) for name in names]
    questions.append(about_board(story, "detail", str(random.choice(list(names))), random))
    if whole:
        draws = random.integers(2**31, size=4)
        kinds = ("order", "order", "count", "motion")
        questions += [ask(story, kind, int(draw)) for kind, draw in zip(kinds, draws, strict=True)]  # type: ignore
    return [questions[i] for i in random.permutation(len(questions))]


def read(
    model: ReferenceModel,
    memory: Memory,
    pool: list[Shown],
    schedule: Schedule,
    seed: int,
    *,
    whole: bool,
    rivals: bool,
) -> list[float]:
    """One part of stage 1: the frames of which a conversation speaks alone, or the whole story with them in focus."""
    order, beside = np.random.default_rng([seed, 4]), np.random.default_rng([seed, 5])
    own = model.connector
    others = [(ARMS[name], _sharing(ARMS[name], model, seed)) for name in RIVALS] if rivals else []

    def step(number: int) -> Tensor:
        drawn = [pool[i] for i in order.choice(len(pool), schedule.batch, replace=False)]
        batch, index = collate([each.sample for each in drawn]), torch.tensor([each.frames for each in drawn])
        if not whole:
            return loss_of(ORACLE, model, batch, _alone(model, memory, batch, index))
        arm = ORACLE
        if others and number % EVERY == 0:
            arm, model.connector = others[number // EVERY % len(others)]
        try:
            return loss_of(arm, model, batch, compress(arm, model, memory, batch, beside, index))
        finally:
            model.connector = own

    return optimise(model, ((lambda number=number: step(number)) for number in range(schedule.steps)), schedule)


def _alone(model: ReferenceModel, memory: Memory, batch, index: Tensor):  # type: ignore[no-untyped-def]
    """A few frames, all in focus."""
    count = index.shape[1]
    tokens = memory.tokens[batch.story[:, None], index].float()
    asked, mask = (value.repeat_interleave(count, 0) for value in (batch.asked, batch.asked_mask))
    text = model.ask(tokens.flatten(0, 1), asked, mask).unflatten(0, (-1, count))
    everyone = torch.arange(count).expand(len(tokens), -1)
    return model.connector(tokens[:, :, memory.first_patch :], text, focus_index=everyone)


def _sharing(arm: Arm, model: ReferenceModel, seed: int) -> nn.Module:
    """The arm's connector with the very modules of the model's own, as far as it has them."""
    own = model.connector
    rival = install(arm, model, seed)
    model.connector = own
    if isinstance(rival, PooledBaseline):
        rival.projector = own.encoder.projector.content
    elif hasattr(rival, "connector"):
        rival.connector = own
    return rival


def warm_up(
    model: ReferenceModel, memory: Memory, short: Memory, processor: ReferenceProcessor, plan: Plan, seed: int
) -> dict[str, list[float]]:
    """All of stage 1; the losses of its parts. The Q-Former is frozen before the last."""
    model.set_trainable(patterns_of(STAGES["stage2-with-qformer"]))
    model.train()
    losses = {}
    for number, (name, stories, count) in enumerate(
        (("one_frame", memory, 1), ("three_frames", memory, 3), ("short_stories", short, 3))
    ):
        whole = stories is short
        pool = about_frames(stories, processor, count, 4000, seed + number, whole)
        losses[name] = read(model, stories, pool, getattr(plan, name), seed, whole=whole, rivals=False)
        print(f"{name}: loss {np.mean(losses[name][-20:]):.3f}", flush=True)
    model.set_trainable(patterns_of(STAGES["stage2"]))
    memory.forget()
    pool = about_frames(memory, processor, 3, 4000, seed + 3, True)
    losses["stories"] = read(model, memory, pool, plan.stories, seed, whole=True, rivals=True)
    print(f"stories: loss {np.mean(losses['stories'][-20:]):.3f}", flush=True)
    return losses


def short_memory(model: ReferenceModel, count: int, seed: int) -> Memory:
    """Stories of a few frames, one coloured board and the sign."""
    return Memory(model, [write_story(seed + number, SHORT, boards=2, longs=2) for number in range(count)])
