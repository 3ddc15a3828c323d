"""Questions about a story, their answers, and what can be chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from dynfocus_reference.planted.sprites import SYMBOLS
from dynfocus_reference.planted.world import SIGN, Story

Kind = Literal["salience", "by_question", "detail", "order", "count", "motion"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEMPORAL: tuple[Kind, ...] = ("order", "count", "motion")
NUMBERS = ("one", "two", "three", "four")


class Question(NamedTuple):
    """One question, its answer and, for multiple choice, the wrong options."""

    kind: Kind
    text: str
    answer: str
    wrong: tuple[str, ...] = ()
    """empty: an open answer, right when it matches exactly"""
    evidence: tuple[int, int] | None = None
    """(first frame, frame after the last) that show the answer; None: it takes many frames. Never a label."""


def ask(story: Story, kind: Kind, seed: int) -> Question:
    """A question of a kind, drawn from the seed.

    ``salience``: the left tile of the sign. ``by_question``: that of the coloured board that the question names.
    ``detail``: all symbols of the sign, in order. ``order``: the first or last scene, or the one behind another.
    ``count``: how often the lamp shines. ``motion``: where the ball goes.

    Raises:
        ValueError: an unknown kind, or a story without the board it asks about.
    """
    if kind not in KINDS:
        raise ValueError(f"ask: expected a kind among {KINDS}, got {kind!r}.")
    random = np.random.default_rng([story.seed, seed, KINDS.index(kind)])
    if kind == "motion":
        return Question(kind, "Where does the ball go?", story.motion, _others(random, ("left", "right"), story.motion))
    if kind == "count":
        answer = NUMBERS[len(story.lamps) - 1]
        return Question(kind, "How many times does the lamp shine?", answer, _others(random, NUMBERS, answer))
    if kind == "order":
        return _order(story, random)
    colored = sorted(name for name in story.boards if name != SIGN)
    name = SIGN if kind != "by_question" else str(random.choice(colored)) if colored else "any coloured board"
    if name not in story.boards:
        raise ValueError(f"ask: expected a story that shows {name!r} for kind {kind!r}, got {sorted(story.boards)}.")
    return about_board(story, kind, name, random)


def about_board(story: Story, kind: Kind, name: str, random: np.random.Generator) -> Question:
    """The left tile of a board, or all of it (`detail`)."""
    scene = story.boards[name]
    assert scene.board is not None
    symbols, evidence = scene.board.symbols, (scene.start, scene.stop)
    thing = "sign" if name == SIGN else f"{name} board"
    if kind == "detail":
        return Question(kind, f"What does the {thing} say?", " ".join(symbols), evidence=evidence)
    answer = symbols[0]
    near = [symbol for symbol in symbols if symbol != answer]
    far = str(random.choice([symbol for symbol in SYMBOLS if symbol not in symbols]))
    text = f"What is on the left of the {thing}?"
    return Question(kind, text, answer, tuple(str(s) for s in random.permutation([*near, far])), evidence)


def _order(story: Story, random: np.random.Generator) -> Question:
    colors = list(dict.fromkeys(scene.color for scene in story.long_scenes))
    which = int(random.integers(2))
    text = f"Which color comes {('first', 'last')[which]}?"
    answer = (colors[0], story.long_scenes[-1].color)[which]
    return Question("order", text, answer, _others(random, colors, answer))


def _others(random: np.random.Generator, options: Sequence[str], answer: str) -> tuple[str, ...]:
    return tuple(str(option) for option in random.permutation([o for o in options if o != answer]))


def rotations(question: Question) -> list[str]:
    """The prompt in every rotation of the options; the question alone where there are none.

    Example:
        >>> rotations(Question("motion", "Where?", "left", ("right",)))
        ['Where? left or right', 'Where? right or left']
    """
    if not question.wrong:
        return [question.text]
    options = [question.answer, *question.wrong]
    turned = [options[-shift:] + options[:-shift] if shift else options for shift in range(len(options))]
    return [f"{question.text} {' or '.join(row)}" for row in turned]
