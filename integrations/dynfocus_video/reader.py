"""Video files to sampled, resized frames, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dynfocus_video.decord_reader import decode_with_decord
from dynfocus_video.errors import DecoderUnavailableError, NoFramesError, TruncatedVideoError, UnreadableVideoError
from dynfocus_video.pyav_reader import decode_with_pyav
from dynfocus_video.resizing import DEFAULT_SIZE, FrameSize, resize_frames
from dynfocus_video.sampling import Sampling
from dynfocus_video.scan import scan_video

DECODERS = {"pyav": decode_with_pyav, "decord": decode_with_decord}
Progress = Callable[[int, int], object]


class TimedFrame(NamedTuple):
    """One sampled picture and the second at which it appears."""

    timestamp: float
    frame: UInt8[Tensor, "height width 3"]


class VideoFrames(NamedTuple):
    """The sampled frames of one video. Seconds count from its first frame."""

    frames: UInt8[Tensor, "frames height width 3"]
    timestamps: Float[Tensor, " frames"]  # seconds at which each frame appears, ascending
    duration: float  # seconds that can be read
    source_fps: float  # average frames per second of the file
    source_size: tuple[int, int]  # height and width of the file's pictures, upright
    decoded_share: float  # 1 when nothing is lost
    truncated: str | None  # what is lost, in a sentence


class FrameStream:
    """The sampled frames of one file, decoded while they are iterated over; at most one is held.

    Attributes:
        planned: how many frames sampling takes. Fewer come when some cannot be decoded.
        duration, source_fps, decoded_share, truncated: as in `VideoFrames`; the last two may worsen while iterating.
        source_size: height and width of the file's pictures, known after the first frame.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sampling: Sampling | None = None,
        *,
        decoder: str = "pyav",
        size: FrameSize | None = DEFAULT_SIZE,
        strict: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if decoder not in DECODERS:
            raise DecoderUnavailableError(f"read_video: expected decoder {' or '.join(DECODERS)}, got {decoder!r}.")
        self._scan = scan_video(path)
        self._decoder, self._size, self._strict, self._progress = decoder, size, strict, progress
        self._indices = (
            (sampling or Sampling())
            .checked()
            .indices(self._scan.times, duration=self._scan.duration, average_fps=self._scan.average_fps)
        )
        self.planned = len(self._indices)
        self.duration, self.source_fps = self._scan.duration, self._scan.average_fps
        self.decoded_share, self.truncated = self._scan.readable_share, self._scan.loss
        self.source_size = (0, 0)
        self._refuse_losses()
        if self.planned == 0:
            raise NoFramesError(
                f"read_video: expected at least one sampled frame, got 0 of {str(path)!r}. Raise fps or frames."
            )

    def __len__(self) -> int:
        return self.planned

    def __iter__(self) -> Iterator[TimedFrame]:
        done = 0
        for index, picture in DECODERS[self._decoder](self._scan, self._indices):
            self.source_size = picture.shape[:2]
            frame = torch.from_numpy(picture)
            if self._size is not None:
                frame = resize_frames(frame[None], self._size)[0]
            done += 1
            if self._progress is not None:
                self._progress(done, self.planned)
            yield TimedFrame(float(self._scan.times[index]), frame)
        self._account(done)

    def _account(self, done: int) -> None:
        if done == 0:
            raise UnreadableVideoError(
                f"read_video: expected frames that decode, got none of {self.planned} from {str(self._scan.path)!r}. "
                "The file is damaged; fetch it again."
            )
        if done < self.planned:
            self.decoded_share *= done / self.planned
            lost = f"damaged: {done} of {self.planned} sampled frames can be decoded"
            self.truncated = lost if self.truncated is None else f"{self.truncated}; {lost}"
            self._refuse_losses()

    def _refuse_losses(self) -> None:
        if self._strict and self.truncated is not None:
            raise TruncatedVideoError(
                f"read_video: expected a whole video (strict), got {str(self._scan.path)!r}, {self.truncated}. "
                "Fetch it again, or read what is there without strict (--strict)."
            )


def iter_frames(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    *,
    decoder: str = "pyav",
    size: FrameSize | None = DEFAULT_SIZE,
    strict: bool = False,
    progress: Progress | None = None,
) -> FrameStream:
    """Iterate over `(timestamp, frame)` without ever holding more than one; arguments as in `read_video`.

    Bad files are refused here, before the first frame.
    """
    return FrameStream(path, sampling, decoder=decoder, size=size, strict=strict, progress=progress)


def read_video(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    *,
    decoder: str = "pyav",
    size: FrameSize | None = DEFAULT_SIZE,
    strict: bool = False,
    progress: Progress | None = None,
) -> VideoFrames:
    """Sample, decode and resize a video or an image file; memory holds the sampled, resized frames and no others.

    Args:
        path: any container FFmpeg knows; an image counts as a video of one frame.
        sampling: which frames; one per second by default.
        decoder: "pyav", or "decord" (the same pictures; no AV1, no damaged files).
        size: the size of the result; `None` keeps the file's own.
        strict: refuse a file of which a part is lost, instead of keeping what decodes and saying so in `truncated`.
        progress: called with (frames done, frames planned) after each frame.

    Returns:
        The frames, in the order of their timestamps.

    Raises:
        VideoError: the subclass says why (see `dynfocus_video.errors`).

    Example:
        >>> from dynfocus_video.clips import demo_clip
        >>> video = read_video(demo_clip("bikes.mp4"), Sampling(fps=1.0), size=FrameSize(32, 32))
        >>> tuple(video.frames.shape), video.timestamps[:3].tolist()
        ((10, 32, 32, 3), [0.0, 1.0, 2.0])
    """
    stream = iter_frames(path, sampling, decoder=decoder, size=size, strict=strict, progress=progress)
    frames = torch.empty(0, dtype=torch.uint8, device="cpu")
    timestamps = np.zeros(stream.planned)
    done = 0
    for timestamp, frame in stream:
        if done == 0:
            frames = frame.new_empty(stream.planned, *frame.shape)
        frames[done], timestamps[done] = frame, timestamp
        done += 1
    return VideoFrames(
        frames=frames[:done],
        timestamps=torch.from_numpy(timestamps[:done]).float(),
        duration=stream.duration,
        source_fps=stream.source_fps,
        source_size=stream.source_size,
        decoded_share=stream.decoded_share,
        truncated=stream.truncated,
    )
