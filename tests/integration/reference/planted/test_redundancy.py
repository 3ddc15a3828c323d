"""Appendix A's ratios: words and frames in one space, and shares that are the truth where the space is perfect."""

from __future__ import annotations

import json

import pytest
import torch

from dynfocus_reference.planted.questions import ask
from dynfocus_reference.planted.redundancy import (
    Asked,
    _irrelevant,
    _nearest,
    measure,
    redundancy_table,
    write_redundancy,
)
from dynfocus_reference.planted.shared_space import captions, share_space, text_features
from dynfocus_reference.planted.world import SIGN, write_story


def test_captions_name_what_stands_out():
    story = write_story(3)
    told = captions(story)
    assert len(told) == 32
    for name, scene in story.boards.items():
        for frame in range(32):
            shown = scene.start <= frame < scene.stop
            word = "sign" if name == SIGN else name
            assert shown <= (word in told[frame])
            assert shown <= set(scene.board.symbols).issubset(told[frame])
        assert ("board" in told[scene.start]) == (name != SIGN)
    assert sum("sign" in words for words in told) == 2
    assert sum("lamp" in words for words in told) == 2 * len(story.lamps)


def test_a_space_learned_from_captions_puts_a_word_near_the_frames_that_show_it(few):
    space = share_space(few, steps=200)
    for number, story in enumerate(few.stories):
        frames = space.frames(few.patches(torch.tensor([number]))[0])
        cosine = torch.cosine_similarity(frames, text_features(space, "sign"), dim=-1)
        assert int(cosine.argmax()) in range(story.boards[SIGN].start, story.boards[SIGN].stop)
    again = share_space(few, steps=200)
    assert torch.equal(again.word.weight, space.word.weight)


def test_in_a_perfect_space_the_ratio_is_the_truth():
    question = ask(write_story(0), "salience", 0)
    frames = torch.eye(4)[[1] * 32]
    frames[slice(*question.evidence)] = torch.eye(4)[0]
    asked = Asked(frames, torch.eye(4)[[0, 3]], question)
    assert _irrelevant([asked], 0.5, "max") == _irrelevant([asked], 0.5, "mean") == 30 / 32
    assert _nearest(asked, "max") == _nearest(asked, "mean") == question.evidence[0]


def test_the_page_says_what_was_measured(few, tmp_path):
    assert "Not run yet" in redundancy_table(tmp_path)
    write_redundancy(few, few, tmp_path)
    found = json.loads((tmp_path / "redundancy.json").read_text())
    assert found == measure(few, few)
    assert found["questions"] == 18
    assert found["without evidence"] == pytest.approx(30 / 32)
    for ratios in (found["temporal"], *found["irrelevant"].values()):
        assert list(ratios) == ["0.3", "0.5", "0.7", "0.9"]
        assert all(0 < value < 1 for value in ratios.values())
    assert sorted(found["temporal"].values(), reverse=True) == list(found["temporal"].values())
    for how in ("max", "mean"):
        assert sorted(found["irrelevant"][how].values()) == list(found["irrelevant"][how].values())
    assert f"| truth | {found['same scene']:.2f} | 0.94 | 0.94 |" in redundancy_table(tmp_path)
