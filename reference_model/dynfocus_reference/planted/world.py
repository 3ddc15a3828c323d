"""Videos with planted evidence: what happens in them, drawn from a seed, and their pixels."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dynfocus_reference.planted.sprites import BALL, BOARD_COLORS, CELL, COLORS, LAMP, SYMBOLS, bitmap, board_tile

GRID = 6
"""cells along a side"""
SIDE = GRID * CELL
BANDS = ((0, 1), (2, 3), (4, 5))
"""columns of a board's left, middle and right tile"""
BOARD_ROWS = range(1, GRID - 1)
"""the first row is the lamp's, the last the ball's"""
CLUTTER = 5
"""symbols that mean nothing, in every frame"""
INSERT_FRAMES = 2
SIGN = "sign"
BOARDS = (SIGN, *BOARD_COLORS)
"""what can be shown in passing: the sign, which looks unlike the rest, and coloured boards"""
Motion = Literal["right", "left"]


class Board(NamedTuple):
    """Three symbols, shown for a moment."""

    name: str
    """one of `BOARDS`"""
    symbols: tuple[str, str, str]
    """from left to right"""
    cells: tuple[tuple[int, int], ...]
    """(row, column) of each"""


class Scene(NamedTuple):
    """A stretch of frames with one background: a long one, or a short one with a board in it."""

    start: int
    stop: int
    color: str
    board: Board | None
    clutter: tuple[tuple[int, int, str], ...]
    """(row, column, symbol)"""


class Story(NamedTuple):
    """What happens in a video: the truth that questions are asked of."""

    seed: int
    length: int
    scenes: tuple[Scene, ...]
    lamps: tuple[tuple[int, int], ...]
    """(first frame, frame after the last) of each time the lamp shines"""
    motion: Motion
    """where the ball goes"""

    @property
    def long_scenes(self) -> tuple[Scene, ...]:
        """Those without a board."""
        return tuple(scene for scene in self.scenes if scene.board is None)

    @property
    def boards(self) -> dict[str, Scene]:
        """The scene of each board, by its name."""
        return {scene.board.name: scene for scene in self.scenes if scene.board is not None}

    @property
    def event(self) -> np.ndarray:
        """Int[length]: the number of each frame's scene."""
        return np.repeat(np.arange(len(self.scenes)), [scene.stop - scene.start for scene in self.scenes])


def write_story(seed: int, length: int = 32, *, boards: int = 5, longs: int = 4) -> Story:
    """Draw a story: long scenes of skewed lengths, and boards shown for two frames between and inside them.

    Args:
        seed: The same seed and sizes give the same story.
        length: Frames.
        boards: How many boards are shown, the sign among them.
        longs: Long scenes, all of different colour.

    Raises:
        ValueError: too few frames for the scenes, or more boards or scenes than there are names.
    """
    least = boards * INSERT_FRAMES + 2 * (longs + boards)
    if not (1 <= boards <= len(BOARDS) and 1 <= longs < len(COLORS)) or length < least:
        raise ValueError(
            f"write_story: expected 1 to {len(BOARDS)} boards, 1 to {len(COLORS) - 1} long scenes and at least {least} "
            f"frames for them, got {boards} boards, {longs} scenes and {length} frames."
        )
    random = np.random.default_rng([seed, length, boards, longs])
    pieces = _skewed(random, length - boards * INSERT_FRAMES, longs)
    shown = [SIGN, *random.permutation(BOARD_COLORS)[: boards - 1]]
    scenes = _cut(random, pieces, [str(name) for name in random.permutation(shown)])
    return Story(seed, length, scenes, _lamps(random, length), "right" if random.random() < 0.5 else "left")


def _skewed(random: np.random.Generator, total: int, count: int) -> np.ndarray:
    """Lengths that add up, at least 2, each about half of the one before, in random order."""
    share = 0.5 ** np.arange(count) * random.uniform(0.7, 1.3, count)
    lengths = np.maximum(2, np.floor(share / share.sum() * total)).astype(int)
    lengths[0] += total - lengths.sum()
    return random.permutation(lengths)


def _cut(random: np.random.Generator, pieces: np.ndarray, boards: list[str]) -> tuple[Scene, ...]:
    """Long scenes in a row, with boards put at random places, not one right behind another."""
    total = int(pieces.sum())
    places = np.sort(random.choice(np.arange(1, total), size=len(boards), replace=False))
    colors = [str(color) for color in random.permutation(list(COLORS))]
    looks = [_clutter(random) for _ in pieces]
    ends = np.cumsum(pieces)
    scenes: list[Scene] = []
    frame = before = 0
    for place, name in [*zip(places, boards, strict=True), (total, None)]:
        while before < place:
            number = int(np.searchsorted(ends, before, side="right"))
            step = min(int(ends[number]), int(place)) - before
            scenes.append(Scene(frame, frame + step, colors[number], None, looks[number]))
            frame, before = frame + step, before + step
        if name is not None:
            scenes.append(_insert(random, frame, name, str(random.choice(colors[len(pieces) :]))))
            frame += INSERT_FRAMES
    return tuple(scenes)


def _insert(random: np.random.Generator, frame: int, name: str, color: str) -> Scene:
    row = int(random.choice(BOARD_ROWS))
    cells = tuple((row, int(random.choice(band))) for band in BANDS)
    left, middle, right = (str(s) for s in random.choice(SYMBOLS, size=3, replace=False))
    return Scene(frame, frame + INSERT_FRAMES, color, Board(name, (left, middle, right), cells), _clutter(random, row))


def _clutter(random: np.random.Generator, free_row: int = -1) -> tuple[tuple[int, int, str], ...]:
    cells = [(r, c) for r in range(GRID - 1) for c in range(GRID) if r != free_row and (r, c) != (0, 0)]
    chosen = random.choice(len(cells), size=CLUTTER, replace=False)
    return tuple((*cells[i], str(random.choice(SYMBOLS))) for i in chosen)


def _lamps(random: np.random.Generator, length: int) -> tuple[tuple[int, int], ...]:
    """One to four times (fewer in very short videos), of two frames, apart from each other."""
    slots = length // 4
    count = int(random.integers(1, min(4, slots) + 1))
    starts = np.sort(random.choice(slots, size=count, replace=False)) * 4
    return tuple((int(start), int(start) + 2) for start in starts)


def render(story: Story, *, noise: float = 6.0) -> np.ndarray:
    """The pixels: UInt8[frames, 48, 48, 3]. Backgrounds drift, every frame has noise of its own."""
    random = np.random.default_rng([story.seed, story.length, 7])
    frames = np.concatenate([_background(random, scene) for scene in story.scenes])
    for scene in story.scenes:
        _furnish(frames, scene)
    lit = [frame for start, stop in story.lamps for frame in range(start, stop)]
    for frame in lit:
        _paste(frames[frame], 0, 0, *LAMP)
    for frame, column in enumerate(ball_columns(story)):
        _paste(frames[frame], GRID - 1, column, *BALL)
    frames += random.normal(0, noise, frames.shape)
    return frames.clip(0, 255).astype(np.uint8)


def ball_columns(story: Story) -> np.ndarray:
    """Int[frames]: the ball's column in every frame; it crosses the picture once."""
    columns = np.arange(story.length) * GRID // story.length
    return columns if story.motion == "right" else GRID - 1 - columns


def _background(random: np.random.Generator, scene: Scene) -> np.ndarray:
    """A colour with slow waves that move a little from frame to frame."""
    rows, columns = np.indices((SIDE, SIDE)) / SIDE
    frequency, phase = random.uniform(1, 3, 2), random.uniform(0, 6.28)
    drift = np.arange(scene.stop - scene.start)[:, None, None] * random.uniform(0.02, 0.08)
    wave = np.sin(6.28 * (frequency[0] * rows + frequency[1] * columns) + phase + drift)
    return np.array(COLORS[scene.color]) * (0.6 + 0.1 * wave[..., None])


def _furnish(frames: np.ndarray, scene: Scene) -> None:
    """Clutter and the board, in all frames of a scene."""
    for frame in frames[scene.start : scene.stop]:
        for row, column, symbol in scene.clutter:
            _paste(frame, row, column, np.array(COLORS[scene.color]) * 0.25, bitmap(symbol))
        if scene.board is not None:
            border = None if scene.board.name == SIGN else COLORS[scene.board.name]
            for (row, column), symbol in zip(scene.board.cells, scene.board.symbols, strict=True):
                _paste(frame, row, column, board_tile(symbol, border), np.ones((CELL, CELL), dtype=bool))


def _paste(frame: np.ndarray, row: int, column: int, picture: np.ndarray, where: np.ndarray) -> None:
    cell = frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    cell[where] = np.broadcast_to(picture, cell.shape)[where]
