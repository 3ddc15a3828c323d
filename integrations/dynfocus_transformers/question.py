"""The question of a conversation, without its answer."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dynfocus_transformers.adapters import Batch, HostAdapter
from dynfocus_transformers.settings import Settings

MARKERS = 3
"""tokens that a chat format puts behind a video: the end of vision, line breaks"""


def question_ids(
    adapter: HostAdapter, batch: Batch, settings: Settings, row: int, video: tuple[int, int]
) -> Int[Tensor, " question"]:
    """The ids of the question that a video of one prompt is asked.

    Text behind the video, split into turns: by labels where there are any (tokens with a label are answers), else at
    the end-of-sequence tokens of the host's chat format. Where no more than a marker follows the video in its own
    turn, the question came before it.

    Args:
        adapter: The host.
        batch: Its inputs.
        settings: `question`, `question_mask`.
        row: The prompt.
        video: The places of the video's first and last placeholder.
    """
    ids = batch["input_ids"][row]
    if settings.question_mask is not None:
        return ids[settings.question_mask[row].bool()]
    if settings.question == "none":
        return ids[:0]
    labels = batch.get("labels")
    if labels is None:
        cut = torch.isin(ids, torch.tensor(end_ids(adapter.model), device=ids.device, dtype=ids.dtype))
    else:
        cut = labels[row] != -100
    step = 2 if labels is None and adapter.ends == "turns" else 1
    asked = find_questions(text_mask(adapter, batch, row).tolist(), cut.tolist(), video, step)
    if not asked:
        return ids[:0]
    return ids[torch.tensor(asked[-1 if settings.question == "last" else 0], device=ids.device)]


def find_questions(text: list[bool], cut: list[bool], video: tuple[int, int], step: int) -> list[list[int]]:
    """Places of the text of every question, from the video's own turn on.

    Args:
        text: Which tokens are text.
        cut: Which tokens end a turn, or are answers.
        video: The places of its first and last placeholder.
        step: 2 where questions and answers alternate.
    """
    turns = split_places(cut)
    own = next(number for number, turn in enumerate(turns) if video[1] in turn)
    first, *later = ([place for place in turn if text[place]] for turn in turns[own::step])
    behind = [place for place in first if place > video[1]]
    if len(behind) <= MARKERS:
        behind = [place for place in first if place < video[0]] + behind
    return [question for question in (behind, *later) if question]


def split_places(cut: list[bool]) -> list[list[int]]:
    """Runs of places that are not cut."""
    turns: list[list[int]] = []
    for place, stop in enumerate(cut):
        if stop:
            continue
        if place == 0 or cut[place - 1]:
            turns.append([])
        turns[-1].append(place)
    return turns


def text_mask(adapter: HostAdapter, batch: Batch, row: int) -> Bool[Tensor, " tokens"]:
    """Real tokens that stand for no picture and no video."""
    ids = batch["input_ids"][row]
    text = (ids != adapter.placeholder) & (ids != adapter.picture_placeholder)
    mask = batch.get("attention_mask")
    return text if mask is None else text & mask[row].bool()


def end_ids(model: Any) -> list[int]:
    """The end-of-sequence ids that generation stops at."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
