"""A video file becomes patch features, timestamps and thumbnails, a few frames at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynfocus_video.encoders import Encoder
from dynfocus_video.reader import FrameStream
from dynfocus_video.resizing import FrameSize, resize_frames
from dynfocus_video.thumbnails import held_width, thumbnail

CHUNK = 16
"""Frames encoded at a time."""


def seen_share(size: FrameSize, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of what an encoder of this size sees, as shares of a `height × width` picture.

    Example:
        >>> seen_share(FrameSize(224, 224), 100, 200)
        (0.25, 0.0, 0.5, 1.0)
    """
    tall, wide = size.scaled(height, width)
    left, top = round((wide - size.width) / 2), round((tall - size.height) / 2)
    return left / wide, top / tall, size.width / wide, size.height / tall


class EncodedVideo(NamedTuple):
    """Everything that is kept of the pictures."""

    features: Float[Tensor, "frames patches dim"]
    timestamps: Float[Tensor, " frames"]
    """seconds"""
    thumbnails: list[bytes | None]


class Stopwatch:
    """Seconds per stage, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def wait_for(result: Tensor) -> None:
    """Return when the GPU that `result` lies on, if it does, has done its work: a stage ends no earlier."""
    if result.is_cuda:
        torch.cuda.synchronize(result.device)


def encode_stream(
    stream: FrameStream,
    encoder: Encoder,
    *,
    keep: Sequence[int] | None = None,
    thumbnails: bool = True,
    progress: Callable[[int, int], object] | None = None,
    watch: Stopwatch | None = None,
) -> EncodedVideo:
    """Decode and encode the frames of `stream`; at most one full-size picture is held at a time.

    Args:
        stream: Made with `size=None`, so that thumbnails keep the shape of the picture.
        encoder: What turns pictures into features.
        keep: Which of the sampled frames take part, ascending; None for all.
        thumbnails: Whether to keep small pictures.
        progress: Called with (frames done, frames planned).
        watch: Where the seconds of "decode" and "encode" are added.
    """
    watch = watch or Stopwatch()
    planned = stream.planned if keep is None else len(keep)
    builder = _Builder(encoder, planned, watch)
    width = held_width(planned) if thumbnails else 0
    pictures = iter(stream)
    wanted = set(range(stream.planned) if keep is None else keep)
    for index in range(stream.planned):
        with watch.stage("decode"):
            timed = next(pictures, None)
        if timed is None:
            break
        if index in wanted:
            builder.add(timed.timestamp, timed.frame, width)
            if progress is not None:
                progress(len(builder.timestamps), planned)
    next(pictures, None)
    return builder.finish()


class _Builder:
    """Collects frames into chunks and features into one tensor that is allocated once."""

    def __init__(self, encoder: Encoder, planned: int, watch: Stopwatch) -> None:
        self.encoder, self.planned, self.watch = encoder, planned, watch
        self.timestamps: list[float] = []
        self.thumbnails: list[bytes | None] = []
        self._waiting: list[Tensor] = []
        self._features: Tensor | None = None
        self._done = 0

    def add(self, timestamp: float, frame: Tensor, width: int) -> None:
        with self.watch.stage("decode"):
            self.timestamps.append(timestamp)
            self.thumbnails.append(thumbnail(frame, width) if width else None)
            self._waiting.append(resize_frames(frame[None], self.encoder.frame_size)[0])
        if len(self._waiting) == CHUNK:
            self._encode()

    @torch.inference_mode()
    def _encode(self) -> None:
        with self.watch.stage("encode"):
            encoded = self.encoder.encode(torch.stack(self._waiting))
            if self._features is None:
                self._features = encoded.new_empty(self.planned, *encoded.shape[1:])
            self._features[self._done : self._done + len(encoded)] = encoded
            self._done += len(encoded)
            self._waiting.clear()
            wait_for(encoded)

    def finish(self) -> EncodedVideo:
        if self._waiting:
            self._encode()
        assert self._features is not None
        timestamps = torch.tensor(self.timestamps, device="cpu")
        return EncodedVideo(self._features[: self._done], timestamps, self.thumbnails)
