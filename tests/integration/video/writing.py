"""Small videos whose pictures say which frame they are."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np


def picture(index: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A grey level that tells the frame (8 levels apart, in the left half), and a bright stripe at the right."""
    image = np.full((height, width, 3), 16 + 8 * (index % 27), dtype=np.uint8)
    image[:, width * 3 // 4 :] = 235
    return image


def frame_index(image: np.ndarray) -> int:
    """Which frame a decoded picture of `picture` shows, modulo 27."""
    return round((float(np.asarray(image)[:, : image.shape[1] // 2].mean()) - 16) / 8)


def write_video(
    path: Path,
    count: int = 25,
    *,
    fps: int = 10,
    codec: str = "libx264",
    times: Sequence[float] | None = None,
    faststart: bool = False,
    gop: int = 250,
    size: tuple[int, int] = (96, 128),
    rotation: int = 0,
    format: str | None = None,
    noise: bool = False,
    preset: str = "medium",
) -> Path:
    """Write `count` numbered frames at `fps`, or at `times` in seconds (variable frame rate, milliseconds)."""
    import av

    random = np.random.default_rng(0)
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", options=options, format=format) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": str(gop), "crf": "20", "preset": preset})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(count if times is None else len(times)):
            image = picture(index, *size)
            if noise:
                image = image // 2 + random.integers(0, 100, image.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, codec: str = "aac") -> Path:
    """One second of silence and no picture."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_off(source: Path, target: Path, share: float = 0.6) -> Path:
    """The first `share` of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
