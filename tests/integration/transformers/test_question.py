"""Which tokens the connector takes for the question, and what the report says."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch

from dynfocus_transformers import Settings, attach
from dynfocus_transformers.adapters import adapter_for
from dynfocus_transformers.question import question_ids
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.tiny import CLOSE, END, HOSTS, IMAGE, VIDEO, Picture, Tiny, Video, text

SYSTEM, FIRST, ANSWER, SECOND, PROMPT = [11, 12], [21, 22, 23], [31, 32], [41, 42, 43, 44], [51]


def asked(name: str, batch: dict[str, Any], **settings: Any) -> list[int]:
    adapter = adapter_for(HOSTS[name].model())
    places = (batch["input_ids"][0] == adapter.placeholder).nonzero()[:, 0]
    return question_ids(adapter, batch, Settings(**settings), 0, (int(places[0]), int(places[-1]))).tolist()


def chat(name: str, *tail: list[int], labels: list[int] | None = None) -> dict[str, Any]:
    batch = HOSTS[name].batch([[*SYSTEM, END], Video(2), list(chain.from_iterable(tail))])
    if labels is not None:
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        batch["labels"][0, -len(labels) :] = torch.tensor(labels)
    return batch


def test_turns_closed_by_end_tokens() -> None:
    one = chat("qwen2_5_vl", [*FIRST, END], PROMPT)
    two = chat("qwen2_5_vl", [*FIRST, END], [*ANSWER, END], [*SECOND, END], PROMPT)
    assert asked("qwen2_5_vl", one) == [CLOSE, *FIRST]
    assert asked("qwen2_5_vl", one, question="first") == [CLOSE, *FIRST]
    assert asked("qwen2_5_vl", two) == SECOND
    assert asked("qwen2_5_vl", two, question="first") == [CLOSE, *FIRST]
    assert asked("qwen2_5_vl", two, question="none") == []


def test_answers_closed_by_end_tokens() -> None:
    assert asked("video_llava", chat("video_llava", FIRST)) == [CLOSE, *FIRST]
    two = chat("video_llava", FIRST, [*ANSWER, END], SECOND)
    assert asked("video_llava", two) == SECOND


@pytest.mark.parametrize("name", ["qwen2_5_vl", "video_llava"])
def test_labels_hide_answers(name: str) -> None:
    ignore = [-100] * len(SECOND)
    answers = [*ANSWER, *ignore, *ANSWER]
    two = chat(name, FIRST, ANSWER, SECOND, ANSWER, labels=answers)
    assert asked(name, two) == SECOND
    assert asked(name, two, question="first") == [CLOSE, *FIRST]


@pytest.mark.parametrize("name", HOSTS)
def test_question_before_the_video(name: str) -> None:
    """Nothing but a marker follows the video in its turn; the answer's turn is not taken for the question."""
    batch = HOSTS[name].batch([[*SYSTEM, END], FIRST, Video(2), [END, *PROMPT]])
    if HOSTS[name].model().config.model_type in ("video_llava", "llava_next_video"):
        batch["input_ids"][batch["input_ids"] == END] = 60
    found = asked(name, batch)
    assert set(FIRST) < set(found)
    assert adapter_for(HOSTS[name].model()).placeholder not in found
    labelled = HOSTS[name].batch([FIRST, Video(2), ANSWER], labels=True)
    assert asked(name, labelled)[: len(FIRST)] == FIRST
    assert not set(ANSWER) & set(asked(name, labelled))


def test_padding_and_placeholders_are_no_question() -> None:
    tiny = HOSTS["qwen2_5_vl"]
    rows = [Video(2), FIRST, Picture(), SECOND], [Video(2), text(1, 30)]
    ids = asked("qwen2_5_vl", tiny.batch(*rows, left=False))
    assert not {VIDEO, IMAGE, 0} & set(ids)
    assert set(FIRST) | set(SECOND) <= set(ids)


def test_mask_decides() -> None:
    batch = chat("qwen2_5_vl", [*FIRST, END], PROMPT)
    assert asked("qwen2_5_vl", batch, question_mask=batch["input_ids"] == 22) == [22]


@pytest.mark.proves("report per video")
@torch.no_grad()
def test_report(tiny: Tiny, host: Any) -> None:
    attach(host, training_free(), ratio=0.4)
    batch = tiny.batch([text(1, 3), Video(6, 1), text(2, 30), Video(6, 2), text(3, 9)])
    host(**batch)
    assert len(host.dynfocus_report) == 2
    for report in host.dynfocus_report:
        focus = report.focus_frames
        assert (report.sampled_frames, report.tokens_before) == (6, 96)
        assert report.tokens_after == 10 * len(focus) + 2 * (6 - len(focus))
        assert set(focus) < set(range(6))
        assert report.seconds > 0
        assert report.question == "rods"
        assert str(report).startswith(f"6 frames, {len(focus)} in focus [")
    host.generate(**tiny.batch([Video(6, 1), text(3, 9)]), max_new_tokens=1)
    assert len(host.dynfocus_report) == 1
    host(**batch, dynfocus={"question": "none"})
    assert host.dynfocus_report[0].question is None


@torch.no_grad()
def test_report_of_a_question_scorer() -> None:
    host = attach(HOSTS["llava_onevision"].model(), trained(scorer="question"), ratio=0.4)
    host(**HOSTS["llava_onevision"].batch([Video(6, 1), text(3, 9)]))
    assert host.dynfocus_report[0].question == "selection and rods"


@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
@torch.no_grad()
def test_frames_among_pictures(name: str) -> None:
    tiny = HOSTS[name]
    host = attach(tiny.model(), training_free(), ratio=0.4)
    row = [Picture(1), Picture(2), text(1, 40), Video(6, 1), text(2, 40), Video(4, 2), text(3, 6)]
    host(**tiny.batch(row))
    assert [report.sampled_frames for report in host.dynfocus_report] == [6, 4]
    host(**tiny.batch(row), dynfocus={"videos": [-1, -1, 0, 0, 0, -1, -1, -1, 1, 1, 1, 1]})
    assert [report.sampled_frames for report in host.dynfocus_report] == [3, 4]
    with pytest.raises(ValueError, match="for 12 pictures, got 2"):
        host(**tiny.batch(row), dynfocus={"videos": [0, 0]})


@torch.no_grad()
def test_video_llama_pruner_must_be_off() -> None:
    tiny = HOSTS["video_llama_3"]
    host = attach(tiny.model(), training_free(), ratio=0.4)
    batch = tiny.batch([Video(6, 1), text(3, 9)])
    mask = torch.ones(96, dtype=torch.bool)
    host(**batch, video_compression_mask=mask)
    mask[5:8] = False
    with pytest.raises(ValueError, match=r"expected all 96 tokens.*drops 3"):
        host(**batch, video_compression_mask=mask)
