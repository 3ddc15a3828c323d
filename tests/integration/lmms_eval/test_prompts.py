"""What a request asks, and what of a task's wishes is followed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from dynfocus_lmms_eval.prompts import DecodeError, build_prompt, cut, generation_of, until_of
from dynfocus_lmms_eval.rounds import play_rounds
from dynfocus_video.resizing import FrameSize
from dynfocus_video.sampling import Sampling
from tests.integration.video.writing import write_video

SIZE = FrameSize(16, 16)


@pytest.fixture
def clip(tmp_path):
    return str(write_video(tmp_path / "a.mp4", 30))


def test_settings_of_other_models_are_dropped():
    wanted = {"until": ["ASSISTANT:"], "image_aspect_ratio": "original", "max_new_tokens": 64, "num_beams": 1}
    greedy = generation_of({**wanted, "temperature": 0, "top_p": 1.0, "do_sample": False})
    assert greedy == {"max_new_tokens": 64, "num_beams": 1, "do_sample": False}
    assert generation_of({}) == {"max_new_tokens": 128, "do_sample": False}
    assert generation_of({"do_sample": True, "temperature": 0}) == {"max_new_tokens": 128, "do_sample": False}
    assert generation_of({"do_sample": True}) == {"do_sample": True, "max_new_tokens": 128}
    sampled = generation_of({"temperature": 0.7, "top_p": 0.9})
    assert sampled == {"max_new_tokens": 128, "temperature": 0.7, "top_p": 0.9, "do_sample": True}


def test_answers_end_where_the_task_says():
    assert until_of({}) == until_of({"until": ["\n\n"]}) == []
    assert until_of({"until": "ASSISTANT:"}) == ["ASSISTANT:"]
    assert cut("two dogs\n\nASSISTANT: more", ["ASSISTANT:"]) == "two dogs"


def test_visuals_stand_before_the_text(clip):
    picture = Image.fromarray(np.full((20, 30, 3), 7, np.uint8))
    video, still, text = build_prompt("what?", [clip, picture], Sampling(fps=1), SIZE, None)
    assert text == "what?"
    assert (tuple(video.frames.shape), tuple(still.frames.shape)) == ((3, 16, 16, 3), (1, 16, 16, 3))
    assert still.source_size == (20, 30)
    assert int(still.frames.float().mean()) == 7


def test_or_in_the_places_of_as_many_marks(clip):
    kinds = [
        type(part).__name__ for part in build_prompt("a <image> b <image>", [clip, clip], Sampling(fps=1), SIZE, 2)
    ]
    assert kinds == ["str", "VideoFrames", "str", "VideoFrames"]
    kinds = [type(part).__name__ for part in build_prompt("a <image> b", [clip, clip], Sampling(fps=1), SIZE, 2)]
    assert kinds == ["VideoFrames", "VideoFrames", "str"]
    assert build_prompt("only text", [], Sampling(fps=1), SIZE, None) == ["only text"]


def test_frames_are_a_cap_where_fps_is_given(clip):
    video, _ = build_prompt("what?", [clip], Sampling(fps=10), SIZE, 4)
    assert len(video.frames) == 4
    video, _ = build_prompt("what?", [clip], Sampling(fps=1), SIZE, 4)
    assert len(video.frames) == 3


@pytest.mark.parametrize(
    ("visual", "said"),
    [("missing.mp4", "expected an existing file"), ({"array": 1}, "expected a path or a PIL image, got dict")],
)
def test_what_cannot_be_read_is_a_decode_error(visual, said):
    with pytest.raises(DecodeError, match=said):
        build_prompt("what?", [visual], Sampling(fps=1), SIZE, None)


def test_the_task_leads_through_its_rounds():
    seen = []

    def next_round(document, previous_output, round_idx, previous_round_info):
        seen.append((round_idx, previous_output, previous_round_info))
        return [f"picture {round_idx}"], f"question {round_idx}", round_idx == 2, previous_output, f"info {round_idx}"

    answers = play_rounds({}, "question 0", [], next_round, lambda visuals, text: f"{text} about {visuals}")
    assert answers == ["question 0 about []", "question 1 about ['picture 1']"]
    assert seen == [(1, answers[:1], None), (2, answers, "info 1")]


def test_a_task_without_end_is_stopped():
    with pytest.raises(RuntimeError, match="ends within 64 rounds"):
        play_rounds({}, "", [], lambda *a, previous_output, **k: ([], "", False, previous_output, None), lambda *a: "")
