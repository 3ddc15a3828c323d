"""Stories as files: what is decoded shows what was drawn, and the set reads as the project's data."""

from __future__ import annotations

import numpy as np
import pytest

from dynfocus_reference.data.records import JsonLines, parse_record
from dynfocus_reference.planted.files import SET_NAME, write_set, write_video
from dynfocus_reference.planted.questions import KINDS
from dynfocus_reference.planted.sprites import CELL, bitmap
from dynfocus_reference.planted.world import SIGN, render, write_story
from dynfocus_video.reader import read_video
from dynfocus_video.resizing import FrameSize
from dynfocus_video.sampling import Sampling


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_decoded_video_shows_every_frame_and_legible_glyphs(tmp_path, decoder):
    story = write_story(3)
    write_video(story, tmp_path / "a.mp4")
    clip = read_video(tmp_path / "a.mp4", Sampling(fps=1.0, rule="index"), decoder=decoder, size=FrameSize(48, 48))
    assert clip.timestamps.tolist() == list(range(32))
    frames = clip.frames.numpy().astype(float)
    assert np.abs(frames - render(story)).mean() < 5
    scene = story.boards[SIGN]
    for (row, column), symbol in zip(scene.board.cells, scene.board.symbols, strict=True):
        tile = frames[scene.start, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].mean(-1)
        assert np.array_equal(tile[1:-1, 1:-1] < 128, bitmap(symbol)[1:-1, 1:-1])


def test_a_lossless_video_shows_the_pixels_of_its_story(tmp_path):
    story = write_story(3)
    write_video(story, tmp_path / "a.mp4", lossless=True)
    clip = read_video(tmp_path / "a.mp4", Sampling(fps=1.0), size=FrameSize(48, 48))
    assert np.array_equal(clip.frames, render(story))


def test_a_set_is_read_as_training_data(tmp_path):
    path = write_set(tmp_path / "set", 2, seed=7, kinds=("salience", "detail"))
    assert path == tmp_path / "set" / SET_NAME
    lines = list(JsonLines(path))
    assert [line["kind"] for line in lines] == ["salience", "detail"] * 2
    for line in lines:
        record = parse_record(line, line["id"])
        assert record.modality == "video"
        assert record.seconds == 32
        assert (tmp_path / "set" / record.path).is_file()
        assert record.turns[0].answer == line["answer"]
        assert record.turns[0].question == " ".join([line["question"], " or ".join(line["options"])]).strip()
    places = [line["options"].index(line["answer"]) for line in lines if line["options"]]
    assert len(set(places)) == 2, "the right option always stands in the same place"
    assert lines[1]["options"] == []
    assert write_set(tmp_path / "set", 2, seed=7, kinds=("salience", "detail")).read_text() == path.read_text()


def test_a_set_has_every_kind_where_none_is_named(tmp_path):
    assert [line["kind"] for line in JsonLines(write_set(tmp_path, 1, seed=0))] == list(KINDS)
