"""Which tokens are the question, and that the answer is never among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynfocus_llava.question import end_ids, owners, question_ids, read_prompts
from tests.integration.llava.common import END, IGNORE
from tests.integration.llava.models import mixed, next_host, prepared
from tests.integration.llava.prompts import Answer, Picked, Picture, Video, batch
from tests.integration.transformers.connectors import trained

SYSTEM, FIRST, ANSWER, SECOND, PROMPT = [11, 12], [21, 22, 23], [31, 32], [41, 42, 43, 44], [51]


def asked(*parts: Any, number: int = 0, which: Any = "last", labels: bool = False) -> list[int]:
    inputs = batch([*parts], labels=labels)
    (prompt,) = read_prompts(inputs["input_ids"], inputs["attention_mask"], inputs.get("labels"))
    return question_ids(prompt, prompt.places[number], [END], which).tolist()


def test_one_turn() -> None:
    assert asked(SYSTEM, Video(), FIRST) == FIRST
    assert asked(SYSTEM, Video(), FIRST, which="none") == []
    assert asked(FIRST, Video()) == FIRST
    assert asked(Video()) == []


def test_turns_closed_by_end_tokens() -> None:
    """A system message that is closed tells that every turn is."""
    one = [[*SYSTEM, END], Video(), [*FIRST, END], PROMPT]
    two = [*one[:3], [*ANSWER, END], [*SECOND, END], PROMPT]
    assert asked(*one) == FIRST
    assert asked(*two) == SECOND
    assert asked(*two, which="first") == FIRST


def test_answers_closed_by_end_tokens() -> None:
    assert asked(SYSTEM, Video(), FIRST, [*ANSWER, END], SECOND) == SECOND


def test_labels_hide_answers() -> None:
    answer = Answer((*ANSWER, END))
    one = [SYSTEM, Video(), FIRST, answer]
    two = [*one, SECOND, answer]
    assert asked(*one, labels=True) == FIRST
    assert asked(*two, labels=True) == SECOND
    assert asked(*two, which="first", labels=True) == FIRST
    assert asked(*two, PROMPT, labels=True) == SECOND
    assert asked(SYSTEM, Video(), FIRST, labels=True) == FIRST


def test_text_between_placeholders() -> None:
    parts = [SYSTEM, Video(), FIRST, Picture(), SECOND]
    assert asked(*parts) == [*FIRST, *SECOND]
    assert asked(*parts, number=1) == SECOND


def test_padding_is_no_question() -> None:
    for left in (True, False):
        inputs = batch([Video(), FIRST, Picture(), SECOND], [FIRST], [Video(), SECOND], left=left)
        prompts = read_prompts(inputs["input_ids"], inputs["attention_mask"], None)
        assert owners(prompts) == [(0, 0), (0, 4), (1, -1), (2, 0)]
        assert question_ids(prompts[2], 0, [END], "last").tolist() == SECOND


@torch.no_grad()
def test_the_connector_sees_the_embedded_question() -> None:
    model = mixed(next_host(), Picked())
    rows = [Video(3), FIRST, Video(3), SECOND, Answer((7, 8))], [FIRST, Answer((7,))], [Video(3), PROMPT, Answer((9,))]
    model(**batch(*rows, labels=True))
    questions = [[*FIRST, *SECOND], SECOND, PROMPT]
    for text, expected in zip(model.dynfocus_connector.texts, questions, strict=True):
        assert torch.equal(text, model.model.embed_tokens(torch.tensor([expected])))
    model.use_connector(Picked(), question="none")
    model(**batch(*rows, labels=True))
    assert model.dynfocus_connector.texts == [None] * 3


@torch.no_grad()
def test_answers_change_no_token() -> None:
    model = mixed(next_host(), trained(), ratio=0.4)

    def tokens(question: list[int], answer: tuple[int, ...]) -> torch.Tensor:
        inputs = batch([Video(6), question, Answer(answer)], labels=True)
        return prepared(model, inputs)[4][0, :36]

    expected = tokens(FIRST, (7, 8))
    assert torch.equal(tokens(FIRST, (9, 10)), expected)
    assert not torch.equal(tokens([21, 22, 24], (7, 8)), expected)


def test_end_ids() -> None:
    model: Any = next_host()
    model.generation_config.eos_token_id = [5, 6]
    assert end_ids(model) == [5, 6]
    model.generation_config.eos_token_id = None
    assert end_ids(model) == [END]
    model.config.eos_token_id = None
    assert end_ids(model) == []


@torch.no_grad()
def test_cached_steps_pass() -> None:
    model = mixed(next_host(), trained(), ratio=0.4)
    inputs = batch([Video(6), FIRST])
    model(**inputs)
    report = model.dynfocus_report
    step = {**inputs, "input_ids": torch.tensor([[7]]), "attention_mask": None}
    ids, *_, embeds, _ = prepared(model, step)
    assert ids.tolist() == [[7]]
    assert embeds is None
    assert model.dynfocus_report is report


@pytest.mark.parametrize("labels", [True, False])
def test_all_labels_ignored_are_no_labels(labels: bool) -> None:
    inputs = batch([[*SYSTEM, END], Video(), [*FIRST, END], PROMPT])
    ignored = torch.full_like(inputs["input_ids"], IGNORE)
    (prompt,) = read_prompts(inputs["input_ids"], inputs["attention_mask"], ignored if labels else None)
    assert question_ids(prompt, 3, [END], "last").tolist() == FIRST
