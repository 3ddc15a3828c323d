"""Answers right in every rotation, and how often the evidence was in focus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dynfocus_connector import CompressedVideo
from dynfocus_reference.config import IGNORED_LABEL
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.arms import Arm, compress
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.questions import Kind, Question, ask, rotations
from dynfocus_reference.planted.samples import Batch, collate, sample
from dynfocus_reference.planted.training import prompt
from dynfocus_reference.processing import ReferenceProcessor

AT_ONCE = 25


class Score(NamedTuple):
    """One kind of question, over all stories."""

    accuracy: float
    """share of questions answered right in every rotation"""
    recall: float | None
    """share of questions with a frame of their evidence in focus; None for kinds without such frames or arms without
    frames in focus"""
    precision: float | None
    """mean share of the frames in focus that show the evidence"""
    tokens: float
    """per story"""


@torch.no_grad()
def evaluate(
    arm: Arm,
    model: ReferenceModel,
    memory: Memory,
    processor: ReferenceProcessor,
    kinds: Sequence[Kind],
    *,
    shift: int = 0,
) -> dict[Kind, Score]:
    """Ask one question of each kind about every story.

    Args:
        arm: Installed in `model`.
        shift: Show the story so many places further on instead: 0 is the right one.
    """
    model.eval()
    scores = {}
    for kind in dict.fromkeys(kinds):
        right, seen, share, tokens = [], [], [], []
        for start in range(0, len(memory), AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, len(memory)))
            questions = [ask(memory.stories[number], kind, number) for number in numbers]
            shown = [(number + shift) % len(memory) for number in numbers]
            video = None
            if arm.watches == "video":
                heads = collate([sample(n, q, q.text, processor) for n, q in zip(shown, questions, strict=True)])
                video = compress(arm, model, memory, heads, np.random.default_rng(0))
                tokens += video.offsets.diff().tolist()
                found = _evidence(video, questions) if arm.chooses else []
                seen += [any(row) for row in found]
                share += [float(np.mean(row)) for row in found]
            right += _right(arm, model, questions, shown, processor, video)
        scores[kind] = Score(float(np.mean(right)), _mean(seen), _mean(share), _mean(tokens) or 0.0)
    return scores


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _evidence(video: CompressedVideo, questions: Sequence[Question]) -> list[list[bool]]:
    """For every question with evidence: does each frame in focus show it."""
    assert video.selection is not None
    rows = video.selection.focus_index.tolist()
    return [
        [question.evidence[0] <= frame < question.evidence[1] for frame in row if frame >= 0]
        for question, row in zip(questions, rows, strict=True)
        if question.evidence is not None
    ]


def _right(
    arm: Arm,
    model: ReferenceModel,
    questions: Sequence[Question],
    shown: Sequence[int],
    processor: ReferenceProcessor,
    video: CompressedVideo | None,
) -> list[bool]:
    """Right in every rotation; questions of a kind have equally many."""
    verdict = np.ones(len(questions), dtype=bool)
    for turn in range(len(rotations(questions[0]))):
        batch = collate([sample(n, q, rotations(q)[turn], processor) for n, q in zip(shown, questions, strict=True)])
        verdict &= greedy_is_right(arm, model, batch, video)
    return verdict.tolist()


def greedy_is_right(arm: Arm, model: ReferenceModel, batch: Batch, video: CompressedVideo | None) -> np.ndarray:
    """Whether greedy decoding would write the answer and end: every token of it is the likeliest after the last."""
    asked = prompt(arm, model, batch)
    spliced = model.embed_prompt(asked["input_ids"], asked["attention_mask"], labels=batch.labels, video=video)
    logits = model.language_model(
        inputs_embeds=spliced.inputs_embeds,
        attention_mask=spliced.attention_mask.long(),
        position_ids=spliced.position_ids,
        use_cache=False,
    ).logits
    assert spliced.labels is not None
    target = spliced.labels[:, 1:]
    return ((logits[:, :-1].argmax(-1) == target) | (target == IGNORED_LABEL)).all(1).cpu().numpy()
