"""Skewed footage, cut together from real clips: a minute of one static shot with three short inserts of other shots."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynfocus_video.clips import demo_clip

BIKES_CUTS = (30, 76, 137, 187, 242)
_HEIGHT, _WIDTH, _FPS = 144, 176, Fraction(30000, 1001)
# (clip, first frame) of shots that look unlike the static one; the shots of bikes.mp4 begin at 0 and at its cuts.
_SHOTS = (*(("bikes.mp4", start + 5) for start in (0, *BIKES_CUTS[:4])), ("bigbuckbunny.mp4", 60))


class SkewedFootage(NamedTuple):
    """The file and where the inserts lie."""

    path: Path
    inserts: tuple[tuple[float, float], ...]  # (start, end) in seconds, ascending
    shots: tuple[tuple[str, int], ...]  # (clip, first frame) of each insert


def write_skewed_footage(
    path: Path, seed: int, *, seconds: float = 60.0, inserts: int = 3, insert_seconds: float = 0.4
) -> SkewedFootage:
    """Write `seconds` of carphone_pristine.mp4, looped, in which `inserts` stretches are replaced by other shots.

    Positions and shots are seeded; the inserts lie at least four seconds apart and away from the ends.
    """
    import av

    random = np.random.default_rng(seed)
    total, length = round(seconds * _FPS), round(insert_seconds * _FPS)
    starts = _spread_starts(random, total, length, inserts)
    shots = [_SHOTS[i] for i in random.choice(len(_SHOTS), size=inserts, replace=False)]
    static = _pictures("carphone_pristine.mp4", 0, 120)
    cut_in = {start: _pictures(clip, first, length) for start, (clip, first) in zip(starts, shots, strict=True)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for t in range(total):
            start = next((start for start in starts if start <= t < start + length), None)
            picture = static[t % len(static)] if start is None else cut_in[start][t - start]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    times = tuple((float(start / _FPS), float((start + length) / _FPS)) for start in starts)
    return SkewedFootage(path, times, tuple(shots))


def _spread_starts(random: np.random.Generator, total: int, length: int, count: int) -> list[int]:
    gap = min(round(4 * _FPS), total // (2 * count + 2))
    free = total - 2 * gap - count * length - (count - 1) * gap
    return [
        int(offset) + gap + i * (gap + length) for i, offset in enumerate(np.sort(random.integers(0, free, size=count)))
    ]


def _pictures(clip: str, first: int, count: int) -> list[np.ndarray]:
    """`count` frames of a clip from `first` on, at the footage's size."""
    import av

    pictures = []
    with av.open(str(demo_clip(clip))) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index >= first + count:
                break
            if index >= first:
                pictures.append(frame.reformat(width=_WIDTH, height=_HEIGHT, format="rgb24").to_ndarray())
    return pictures
