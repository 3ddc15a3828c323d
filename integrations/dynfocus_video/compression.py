"""A compressed video, and how it came about."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from dynfocus_connector import CompressedVideo, DynFocusConfig


class Compression(NamedTuple):
    """A compressed video and how it came about. Frames are those that take part, in time order."""

    video: CompressedVideo
    """of batch size 1, with its selection and merging"""
    timestamps: Float[Tensor, " frames"]
    """seconds"""
    tokens_per_frame: Int[Tensor, " frames"]
    thumbnails: list[bytes | None]
    config: DynFocusConfig
    encoder: str
    grid: tuple[int, int]
    seen: tuple[float, float, float, float]
    """left, top, width, height of what the encoder saw, as shares of the picture"""
    duration: float
    """seconds"""
    sampled_frames: int
    """before a short budget resampled them"""
    truncated: str | None
    """what of the file is lost, in a sentence"""
    training_free: bool
    question: str | None
    text_encoder: str | None
    seconds: dict[str, float]
    """per stage"""

    @property
    def question_counts(self) -> bool:
        """Whether the question could influence the result."""
        return bool(self.question) and self.text_encoder is not None

    @property
    def focus_times(self) -> list[float]:
        """Seconds of the focus frames."""
        assert self.video.selection is not None
        times: list[float] = self.timestamps[self.video.selection.is_focus[0].cpu()].tolist()
        return times
