"""What can stand in a cell of a frame: symbols, boards, a lamp and a ball, as 8 × 8 pictures."""

from __future__ import annotations

import numpy as np

CELL = 8
"""pixels of a cell's side; the vision tower's patch"""

SYMBOLS = ("star", "moon", "tree", "fish", "key", "boat", "bell", "leaf")
COLORS = {
    "red": (200, 50, 50),
    "green": (50, 160, 60),
    "blue": (60, 80, 210),
    "yellow": (215, 200, 50),
    "purple": (150, 60, 190),
    "orange": (230, 130, 40),
    "cyan": (60, 190, 200),
    "pink": (235, 130, 180),
}
"""of scenes and of the borders of boards"""
BOARD_COLORS = ("red", "green", "blue", "yellow")

_BITMAPS = {
    "star": ("..##..", "..##..", "######", ".####.", ".####.", "#....#"),
    "moon": ("..###.", ".##...", "##....", "##....", ".##...", "..###."),
    "tree": ("..##..", ".####.", "######", "..##..", "..##..", "..##.."),
    "fish": ("......", ".###.#", "######", "######", ".###.#", "......"),
    "key": (".##...", "#..#..", ".##...", ".#....", ".##...", ".###.."),
    "boat": ("..#...", "..##..", "..###.", "......", "######", ".####."),
    "bell": ("..##..", ".#..#.", ".#..#.", ".#..#.", "######", "..##.."),
    "leaf": ("....##", "..####", ".#####", ".####.", "###...", "#....."),
}


def bitmap(symbol: str) -> np.ndarray:
    """The strokes of a symbol: bool[8, 8], with a margin of one pixel."""
    return np.pad(np.array([[c == "#" for c in row] for row in _BITMAPS[symbol]]), 1)


def board_tile(symbol: str, border: tuple[int, int, int] | None) -> np.ndarray:
    """A symbol on white: float[8, 8, 3]. The border has one colour, or black and white dashes: that is the sign."""
    tile = np.full((CELL, CELL, 3), 245.0)
    tile[bitmap(symbol)] = 20.0
    edge = np.ones((CELL, CELL), dtype=bool)
    edge[1:-1, 1:-1] = False
    if border is None:
        dashes = np.indices((CELL, CELL)).sum(0) % 2 == 0
        tile[edge] = np.where(dashes, 0.0, 255.0)[edge][:, None]
    else:
        tile[edge] = border
    return tile


def disc(color: tuple[int, int, int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A filled circle and where it covers the cell: float[8, 8, 3], bool[8, 8]."""
    rows, columns = np.indices((CELL, CELL)) - (CELL - 1) / 2
    return np.broadcast_to(np.array(color, dtype=float), (CELL, CELL, 3)), rows**2 + columns**2 <= radius**2


LAMP = disc((255, 255, 120), 3.6)
BALL = disc((30, 30, 30), 3.6)
