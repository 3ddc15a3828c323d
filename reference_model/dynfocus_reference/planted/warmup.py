"""Stage 1 of the study, one for all arms: the language model learns to read visual tokens.

First single frames, then three frames, then short stories, then stories of full length, always with given frames in
focus; in between, stories are shown as every rival shows them, so that no arm begins with tokens it has never seen, and
with event prototypes blended, as φ shows them while it learns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

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
EVERY = 4
"""of so many steps on full stories one shows a rival's tokens"""
SHORT = 12
"""frames of the short stories"""


class Part(NamedTuple):
    """One part of stage 1."""

    name: str
    stories: Literal["short", "long"]
    frames: int
    """in focus"""
    whole: bool
    """the rest of the story is shown too, as rods"""
    turns: int | None
    """questions of a conversation; all that can be asked where None"""
    schedule: Schedule


PLAN = (
    Part("one frame", "long", 1, False, None, Schedule(400, 32, 3e-3)),
    Part("three frames", "long", 3, False, None, Schedule(700, 24, 3e-3)),
    Part("short stories", "short", 3, True, None, Schedule(400, 16, 2e-3)),
    Part("three frames, one question", "long", 3, False, 1, Schedule(500, 48, 2e-3)),
    Part("short stories, one question", "short", 3, True, 1, Schedule(300, 32, 2e-3)),
    Part("stories, one question", "long", 3, True, 1, Schedule(1500, 32, 2e-3)),
)
"""Conversations of several questions first, then single questions, as they are asked later."""


class Shown(NamedTuple):
    """A conversation, and the frames in focus of which it speaks."""

    frames: list[int]
    sample: Sample


def about_frames(
    memory: Memory, processor: ReferenceProcessor, count: int, items: int, seed: int, whole: bool, turns: int | None = 1
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
        questions = _about(story, names, random, whole)[:turns]
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
    blended: bool = False,
) -> list[float]:
    """One part of stage 1: the frames of which a conversation speaks alone, or the whole story with them in focus.

    Args:
        rivals: Show a rival's tokens in one of four steps.
        blended: Show event prototypes blended with others in one of two.
    """
    order, beside, blend = (np.random.default_rng([seed, stream]) for stream in (4, 5, 10))
    own: nn.Module = model.connector
    others = [(ARMS[name], _sharing(ARMS[name], model, seed)) for name in RIVALS] if rivals else []

    def step(number: int) -> Tensor:
        drawn = [pool[i] for i in order.choice(len(pool), schedule.batch, replace=False)]
        batch, index = collate([each.sample for each in drawn]), torch.tensor([each.frames for each in drawn])
        if not whole:
            return loss_of(ORACLE, model, batch, _alone(model, memory, batch, index))
        arm = ORACLE
        if others and number % EVERY == 0:
            arm, cast(Any, model).connector = others[number // EVERY % len(others)]
        try:
            unsure = blend if blended and number % 2 else None
            return loss_of(arm, model, batch, compress(arm, model, memory, batch, beside, index, unsure))
        finally:
            cast(Any, model).connector = own

    return optimise(model, (functools.partial(step, number) for number in range(schedule.steps)), schedule)


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
    own: Any = model.connector
    rival = install(arm, model, seed)
    model.connector = own
    if isinstance(rival, PooledBaseline):
        rival.projector = own.encoder.projector.content
    elif hasattr(rival, "connector"):
        rival.connector = own
    return rival


def warm_up(
    model: ReferenceModel,
    memory: Memory,
    short: Memory,
    processor: ReferenceProcessor,
    plan: Sequence[Part] = PLAN,
    seed: int = 0,
    items: int = 4000,
) -> dict[str, list[float]]:
    """All of stage 1; the losses of its parts. Tower and Q-Former are frozen."""
    losses = {}
    model.set_trainable(patterns_of(STAGES["stage2"]))
    model.train()
    memory.forget()
    for number, part in enumerate(plan):
        stories = short if part.stories == "short" else memory
        long = part.whole and stories is memory
        pool = about_frames(stories, processor, part.frames, items, seed + number, part.whole, part.turns)
        options = {"whole": part.whole, "rivals": long, "blended": part.whole}
        losses[part.name] = read(model, stories, pool, part.schedule, seed + number, **options)
        print(f"{part.name}: loss {np.mean(losses[part.name][-20:]):.3f}", flush=True)
    return losses


def short_memory(model: ReferenceModel, count: int, seed: int) -> Memory:
    """Stories of a few frames, one coloured board and the sign."""
    return Memory(model, [write_story(seed + number, SHORT, boards=2, longs=2) for number in range(count)])
