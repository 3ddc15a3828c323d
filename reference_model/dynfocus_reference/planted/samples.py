"""Questions about stories as batches of training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynfocus_reference.config import IGNORED_LABEL
from dynfocus_reference.data.conversation import Place, encode
from dynfocus_reference.data.records import Turn
from dynfocus_reference.planted.questions import Kind, Question, ask, rotations
from dynfocus_reference.planted.world import Story
from dynfocus_reference.processing import ReferenceProcessor


class Sample(NamedTuple):
    """One question about one story."""

    story: int
    question: Question
    input_ids: Int[Tensor, " length"]
    labels: Int[Tensor, " length"]
    asked: Int[Tensor, " words"]
    """for the Q-Former"""


class Batch(NamedTuple):
    """Samples, padded at the end."""

    story: Int[Tensor, " batch"]
    questions: tuple[Question, ...]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Int[Tensor, "batch length"]
    labels: Int[Tensor, "batch length"]
    asked: Int[Tensor, "batch words"]
    asked_mask: Bool[Tensor, "batch words"]


def sample(
    story: int, question: Question, prompt: str, processor: ReferenceProcessor, place: Place = "front"
) -> Sample:
    """A question with its answer, as `ConversationDataset` encodes it."""
    text = encode([Turn(prompt, question.answer, True)], processor.tokenizer, places=[place])
    return Sample(story, question, text.input_ids, text.labels, processor.question(prompt))


def conversation(
    story: int,
    questions: Sequence[Question],
    processor: ReferenceProcessor,
    random: np.random.Generator,
) -> Sample:
    """Several questions about one story, the video in front of or behind the first; options in any rotation."""
    turns = [Turn(str(random.choice(rotations(question))), question.answer, True) for question in questions]
    place: Place = "front" if random.random() < 0.5 else "end"
    text = encode(turns, processor.tokenizer, places=[place, *([None] * (len(turns) - 1))])
    return Sample(story, questions[0], text.input_ids, text.labels, processor.question(turns[0].question))


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch on the default device; the padding token has number 0 in both vocabularies."""

    def padded(rows: list[Tensor], value: int = 0) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value).to(torch.get_default_device())

    ids, asked = [s.input_ids for s in samples], [s.asked for s in samples]
    return Batch(
        torch.tensor([s.story for s in samples]),
        tuple(s.question for s in samples),
        padded(ids),
        padded([torch.ones_like(row) for row in ids]),
        padded([s.labels for s in samples], IGNORED_LABEL),
        padded(asked),
        padded([torch.ones_like(row, dtype=torch.bool) for row in asked]),
    )


def training_pool(
    stories: Sequence[Story], processor: ReferenceProcessor, kinds: Sequence[Kind], count: int, seed: int
) -> list[Sample]:
    """Samples of kinds in turn about stories drawn at random.

    Rotation and place of the video (front or end, as Sec. 3.4 says) are drawn too.
    """
    random = np.random.default_rng(seed)
    pool = []
    for number in range(count):
        story = int(random.integers(len(stories)))
        question = ask(stories[story], kinds[number % len(kinds)], int(random.integers(2**31)))
        prompt = str(random.choice(rotations(question)))
        place: Place = "front" if random.random() < 0.5 else "end"
        pool.append(sample(story, question, prompt, processor, place))
    return pool


def training_batch(pool: Sequence[Sample], size: int, random: np.random.Generator) -> Batch:
    """Some of the pool, drawn without replacement."""
    return collate([pool[i] for i in random.choice(len(pool), size, replace=False)])
