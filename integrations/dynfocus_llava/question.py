"""The question of a video, without its answer, in prompts that hold -200 where a picture or a video goes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dynfocus_llava.settings import Question

PLACEHOLDER = -200
IGNORE = -100


class Prompt(NamedTuple):
    """One prompt without its padding."""

    ids: Int[Tensor, " tokens"]
    answers: Bool[Tensor, " tokens"] | None
    """tokens with a label; None without labels, or where no token has one"""

    @property
    def places(self) -> list[int]:
        """Where its pictures and videos go."""
        return (self.ids == PLACEHOLDER).nonzero()[:, 0].tolist()


def read_prompts(
    input_ids: Int[Tensor, "batch tokens"], attention_mask: Tensor | None, labels: Int[Tensor, "batch tokens"] | None
) -> list[Prompt]:
    """The prompts of a batch."""
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    prompts = []
    for row, (ids, real) in enumerate(zip(input_ids, mask, strict=True)):
        answers = None if labels is None else labels[row][real] != IGNORE
        prompts.append(Prompt(ids[real], None if answers is None or not answers.any() else answers))
    return prompts


def owners(prompts: list[Prompt]) -> list[tuple[int, int]]:
    """For every entry of `images`: its prompt, and its place there. A prompt without any has one entry, at -1: the
    code bases want a picture for it that goes nowhere."""
    return [(row, place) for row, prompt in enumerate(prompts) for place in prompt.places or [-1]]


def question_ids(prompt: Prompt, place: int, ends: list[int], which: Question) -> Int[Tensor, " question"]:
    """The ids of the question that a video is asked.

    Text behind the video, turn by turn. Answers are the tokens with a label. Without labels, tokens of `ends` close
    turns where one comes before the first placeholder (a system message was closed), else answers alone.

    Args:
        prompt: Of the video.
        place: The video's placeholder.
        ends: End-of-sequence ids of the chat format.
        which: Of several questions.
    """
    asked = [] if which == "none" else find_questions(prompt, place, ends)
    if not asked:
        return prompt.ids[:0]
    return prompt.ids[torch.tensor(asked[0 if which == "first" else -1], device=prompt.ids.device)]


def find_questions(prompt: Prompt, place: int, ends: list[int]) -> list[list[int]]:
    """Places of the text of every question, from the video's own turn on."""
    ids = prompt.ids.tolist()
    if prompt.answers is None:
        cut = [token in ends for token in ids]
        step = 2 if any(cut[: prompt.places[0]]) else 1
    else:
        cut, step = prompt.answers.tolist(), 1
        cut = cut[: len(cut) - cut[::-1].index(True)]
    spans = split_places(cut)
    own = next((number for number, span in enumerate(spans) if place in span), len(spans))
    texts = [[p for p in span if ids[p] != PLACEHOLDER] for span in spans[own::step]]
    behind = [[p for p in text if p > place] or text for text in texts]
    return [text for text in behind if text]


def split_places(cut: list[bool]) -> list[list[int]]:
    """Runs of places that are not cut."""
    spans: list[list[int]] = []
    for place, stop in enumerate(cut):
        if stop:
            continue
        if place == 0 or cut[place - 1]:
            spans.append([])
        spans[-1].append(place)
    return spans


def end_ids(model: Any) -> list[int]:
    """The end-of-sequence ids that generation stops at."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = getattr(model.config, "eos_token_id", None) if ids is None else ids
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
