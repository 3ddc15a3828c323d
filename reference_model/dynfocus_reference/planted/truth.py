"""What is in every cell of every frame: labels for the vision tower, which is trained to see before it is frozen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynfocus_reference.planted.sprites import COLORS, SYMBOLS
from dynfocus_reference.planted.world import BOARDS, GRID, Story, ball_columns

THINGS = (
    "nothing",
    *(f"loose {symbol}" for symbol in SYMBOLS),
    *(f"framed {symbol}" for symbol in SYMBOLS),
    "lamp",
    "ball",
)


class Truth(NamedTuple):
    """Numbers of names, Int[frames, 36] each."""

    color: np.ndarray
    """the background's, in `COLORS`"""
    thing: np.ndarray
    """in `THINGS`"""
    board: np.ndarray
    """1 + the number in `BOARDS`, 0 where there is none"""
    row: np.ndarray
    column: np.ndarray


class Sizes(NamedTuple):
    """How many names each has."""

    color: int = len(COLORS)
    thing: int = len(THINGS)
    board: int = len(BOARDS) + 1
    row: int = GRID
    column: int = GRID


SIZES = Sizes()


def truth(story: Story) -> Truth:
    """The labels of a story's frames."""
    colors, shape = list(COLORS), (story.length, GRID, GRID)
    color, thing, board = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    for scene in story.scenes:
        part = slice(scene.start, scene.stop)
        color[part] = colors.index(scene.color)
        for row, column, symbol in scene.clutter:
            thing[part, row, column] = THINGS.index(f"loose {symbol}")
        if scene.board is not None:
            for (row, column), symbol in zip(scene.board.cells, scene.board.symbols, strict=True):
                thing[part, row, column] = THINGS.index(f"framed {symbol}")
                board[part, row, column] = 1 + BOARDS.index(scene.board.name)
    for start, stop in story.lamps:
        thing[start:stop, 0, 0] = THINGS.index("lamp")
    thing[np.arange(story.length), GRID - 1, ball_columns(story)] = THINGS.index("ball")
    axes = (np.broadcast_to(axis, shape) for axis in np.indices((GRID, GRID)))
    return Truth(*(values.reshape(story.length, -1) for values in (color, thing, board, *axes)))
