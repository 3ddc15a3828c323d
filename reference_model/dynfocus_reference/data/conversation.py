"""Turns to token ids, segment by segment, so that what is supervised is right by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dynfocus_reference.config import IGNORED_LABEL, PLACEHOLDER_ID
from dynfocus_reference.data.records import Turn

Template = Literal["plain", "vicuna_v1"]
Place = Literal["front", "end"]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATES: tuple[Template, ...] = ("plain", "vicuna_v1")


class Segment(NamedTuple):
    """A stretch of text, or one token, that is supervised as a whole or not at all."""

    text: str | int
    supervised: bool = False


class Encoded(NamedTuple):
    """A conversation as the model takes it."""

    input_ids: Int[Tensor, " length"]
    labels: Int[Tensor, " length"]
    questions: list[str]
    """for the connector: one per placeholder, in order"""
    turns: int
    """how many turns are in it"""


def encode(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "vicuna_v1",
    places: Sequence[Place | None],
    max_length: int | None = None,
) -> Encoded:
    """Token ids and labels of a conversation.

    **Source**: Sec. 3.4; `plain` and `vicuna_v1` of LLaVA. Answers and the end token are supervised, nothing else; in
    `plain` the instruction goes to the connector only, and the caption and a newline are supervised.

    Args:
        turns: Questions and answers; the last answer may be None, for generation.
        tokenizer: Of the language model.
        template: As above.
        places: For each turn, where its visual input stands in the question: "front", "end" or None.
        max_length: Later turns are left out where the whole would be longer.

    Raises:
        ValueError: an unknown template, or not even the first turn fits.
    """
    if template not in TEMPLATES:
        raise ValueError(f"encode: expected a template among {TEMPLATES}, got {template!r}.")
    if template == "plain":
        turns, places = turns[:1], places[:1]
    ids, labels, questions, used = _start(tokenizer, template), [], [], 0
    labels = [IGNORED_LABEL] * len(ids)
    for turn, place in zip(turns, places, strict=True):
        segments = _plain(turn, place) if template == "plain" else _vicuna(turn, place, used, tokenizer)
        more = [(piece, segment.supervised) for segment in segments for piece in _pieces(segment, tokenizer)]
        if max_length is not None and len(ids) + len(more) > max_length:
            break
        ids += [piece for piece, _ in more]
        labels += [piece if supervised else IGNORED_LABEL for piece, supervised in more]
        questions += [turn.question] if place else []
        used += 1
    if not used:
        raise ValueError(f"encode: expected a first turn of at most {max_length} tokens, got {len(ids) + len(more)}.")
    return Encoded(torch.tensor(ids, device="cpu"), torch.tensor(labels, device="cpu"), questions, used)


def _start(tokenizer: PreTrainedTokenizerBase, template: Template) -> list[int]:
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return begin + (_pieces(Segment(SYSTEM), tokenizer) if template == "vicuna_v1" else [])


def _plain(turn: Turn, place: Place | None) -> list[Segment]:
    shown = [Segment(PLACEHOLDER_ID)] if place else []
    return [*shown, Segment(f"{turn.answer}\n", supervised=True)]


def _vicuna(turn: Turn, place: Place | None, number: int, tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    before = " USER: " if number == 0 else "USER: "
    asked = {
        None: [Segment(f"{before}{turn.question} ASSISTANT:")],
        "front": [Segment(before.rstrip()), Segment(PLACEHOLDER_ID), Segment(f"\n{turn.question} ASSISTANT:")],
        "end": [Segment(f"{before}{turn.question}\n"), Segment(PLACEHOLDER_ID), Segment(" ASSISTANT:")],
    }[place]
    if turn.answer is None:
        return asked
    end = Segment(int(tokenizer.eos_token_id), supervised=True)
    return [*asked, Segment(f" {turn.answer}", supervised=True), end]


def _pieces(segment: Segment, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of one segment. SentencePiece begins every text with a space of its own: the written one is left out."""
    if isinstance(segment.text, int):
        return [segment.text]
    text = segment.text
    if text.startswith(" ") and begins_with_space(tokenizer):
        text = text[1:]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def begins_with_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts a space in front of every text, as SentencePiece does."""
    first = tokenizer.tokenize("a")
    return bool(first) and first[0].startswith("▁")
