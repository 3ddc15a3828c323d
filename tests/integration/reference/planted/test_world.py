"""The planted world: what is told of a video is what its pixels show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus_reference.planted.questions import KINDS, NUMBERS, ask, rotations
from dynfocus_reference.planted.sprites import CELL, COLORS, SYMBOLS, bitmap
from dynfocus_reference.planted.truth import SIZES, THINGS, truth
from dynfocus_reference.planted.vocabulary import word_tokenizer, words
from dynfocus_reference.planted.world import BANDS, BOARDS, GRID, SIDE, SIGN, render, write_story

LENGTHS = (32, 128, 512)


def cell(frame: np.ndarray, row: int, column: int) -> np.ndarray:
    return frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].astype(float)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.sampled_from(LENGTHS), boards=st.integers(1, 5), longs=st.integers(1, 4))
def test_scenes_fill_the_video_and_every_board_is_shown_once(seed, length, boards, longs):
    story = write_story(seed, length, boards=boards, longs=longs)
    assert [scene.start for scene in story.scenes[1:]] == [scene.stop for scene in story.scenes[:-1]]
    assert (story.scenes[0].start, story.scenes[-1].stop) == (0, length)
    assert all(scene.stop > scene.start for scene in story.scenes)
    assert len(story.boards) == boards
    assert SIGN in story.boards
    assert all(scene.stop - scene.start == 2 for scene in story.boards.values())
    assert len({scene.color for scene in story.long_scenes}) == longs
    assert not {s.color for s in story.long_scenes} & {s.color for s in story.boards.values()}
    assert np.bincount(story.event).tolist() == [scene.stop - scene.start for scene in story.scenes]


def test_same_seed_same_video_and_another_seed_another():
    assert write_story(5) == write_story(5)
    assert write_story(5) != write_story(6)
    assert np.array_equal(render(write_story(5)), render(write_story(5)))
    assert render(write_story(5)).shape == (32, SIDE, SIDE, 3)


def test_long_scenes_are_skewed():
    longest, shortest = [], []
    for seed in range(50):
        story = write_story(seed, 128)
        total = dict.fromkeys(COLORS, 0)
        for scene in story.long_scenes:
            total[scene.color] += scene.stop - scene.start
        lengths = sorted(n for n in total.values() if n)
        longest.append(lengths[-1])
        shortest.append(lengths[0])
    assert np.mean(longest) > 4 * np.mean(shortest)


def test_frames_of_a_scene_are_near_duplicates_and_cuts_are_not():
    story = write_story(8, 64)
    frames = render(story).astype(float)
    step = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    cut = np.diff(story.event) > 0
    assert step[cut].min() > 1.5 * np.median(step[~cut])


@pytest.mark.parametrize("seed", range(4))
def test_boards_lamp_and_ball_stand_where_the_story_says(seed):
    story = write_story(seed)
    frames = render(story, noise=0.0)
    for scene in story.boards.values():
        assert scene.board is not None
        for (row, column), symbol, band in zip(scene.board.cells, scene.board.symbols, BANDS, strict=True):
            assert column in band
            picture = cell(frames[scene.start], row, column)[1:-1, 1:-1].mean(-1)
            assert np.array_equal(picture < 128, bitmap(symbol)[1:-1, 1:-1])
    shining = [frame for frame in range(32) if cell(frames[frame], 0, 0)[4, 4].tolist() == [255, 255, 120]]
    assert shining == [frame for start, stop in story.lamps for frame in range(start, stop)]
    dark = [int(np.argmin([cell(frame, GRID - 1, c).mean() for c in range(GRID)])) for frame in frames]
    assert dark == sorted(dark, reverse=story.motion == "left")
    assert {dark[0], dark[-1]} == {0, GRID - 1}


def test_truth_names_every_cell():
    story = write_story(2)
    labels = truth(story)
    assert all(values.shape == (32, GRID * GRID) for values in labels)
    assert all(int(values.max()) < size for values, size in zip(labels, SIZES, strict=True))
    scene = story.boards[SIGN]
    assert scene.board is not None
    shown = {THINGS[labels.thing[scene.start, row * GRID + column]] for row, column in scene.board.cells}
    assert shown == {f"framed {symbol}" for symbol in scene.board.symbols}
    named = {labels.board[scene.start, row * GRID + column] for row, column in scene.board.cells}
    assert named == {1 + BOARDS.index(SIGN)}
    assert (labels.board[labels.thing == THINGS.index("nothing")] == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_answers_follow_from_the_story(seed):
    story = write_story(seed)
    tile = ask(story, "by_question", seed)
    name = next(name for name in story.boards if f"the {name} board" in tile.text)
    board = story.boards[name].board
    assert board is not None
    assert tile.answer == board.symbols[0]
    assert set(board.symbols) < {tile.answer, *tile.wrong}
    assert tile.evidence == (story.boards[name].start, story.boards[name].stop)
    assert ask(story, "detail", seed).answer.split() == list(story.boards[SIGN].board.symbols)  # type: ignore[union-attr]
    assert ask(story, "count", seed).answer == NUMBERS[len(story.lamps) - 1]
    assert ask(story, "motion", seed).answer == story.motion
    ends = {story.long_scenes[0].color, story.long_scenes[-1].color}
    assert ask(story, "order", seed).answer in ends


def test_order_questions_ask_for_the_first_and_the_last_scene():
    story = write_story(1)
    answers = {question.text: question.answer for question in (ask(story, "order", seed) for seed in range(20))}
    assert answers == {
        "Which color comes first?": story.long_scenes[0].color,
        "Which color comes last?": story.long_scenes[-1].color,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_rotation_holds_every_option_and_every_place_once(kind):
    question = ask(write_story(3), kind, 0)
    prompts = rotations(question)
    options = {question.answer, *question.wrong}
    if not question.wrong:
        assert prompts == [question.text]
        return
    rows = [prompt.removeprefix(question.text).strip().split(" or ") for prompt in prompts]
    assert all(set(row) == options for row in rows)
    assert [row.index(question.answer) for row in rows] == list(range(len(options)))


def test_no_answer_is_favoured():
    answers = [ask(write_story(seed), "salience", seed).answer for seed in range(400)]
    counts = np.array([answers.count(symbol) for symbol in SYMBOLS])
    assert counts.min() > 25
    places = [rotations(ask(write_story(seed), "salience", seed)) for seed in range(5)]
    assert all(len(prompts) == 4 for prompts in places)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_knows_every_word(kind):
    tokenizer = word_tokenizer()
    for seed in range(20):
        question = ask(write_story(seed), kind, seed)
        for text in (*rotations(question), question.answer):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids).replace(" ?", "?") == text
    assert len(set(words())) == len(words())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"length": 27}, "at least 28 frames for them, got 5 boards, 4 scenes and 27 frames"),
        ({"boards": 6}, "1 to 5 boards.*got 6 boards"),
        ({"longs": 8}, "1 to 7 long scenes.*8 scenes"),
    ],
)
def test_stories_that_cannot_be_written(sizes, message):
    with pytest.raises(ValueError, match=f"write_story: expected .*{message}"):
        write_story(0, **sizes)


def test_questions_that_cannot_be_asked():
    with pytest.raises(ValueError, match=r"ask: expected a kind among .*got 'colour'"):
        ask(write_story(0), "colour", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shows 'any coloured board' for kind 'by_question', got \\['sign'\\]"):
        ask(write_story(0, 16, boards=1, longs=2), "by_question", 0)
