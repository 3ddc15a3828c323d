"""What happened to every video of a call."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynfocus_connector import CompressedVideo, TokenKind

READS_QUESTION = ("question",)


class Stopwatch:
    """Seconds of a block, on its device; asking for them waits for the device, measuring does not."""

    def __init__(self, device: torch.device) -> None:
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        if self.events:
            self.events[0].record()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop = time.perf_counter()
        if self.events:
            self.events[1].record()

    @property
    def seconds(self) -> float:
        """Elapsed time."""
        if not self.events:
            return self.stop - self.start
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1000

    def __getstate__(self) -> dict[str, Any]:
        return {"events": [], "start": 0.0, "stop": self.seconds}


class VideoReport(NamedTuple):
    """One video of one call."""

    sampled_frames: int
    tokens_before: int
    """its patches; class and newline tokens are not counted"""
    tokens_after: int
    frame_index: Tensor
    """the frame of every token"""
    kind: Tensor
    """`TokenKind` of every token"""
    stopwatch: Stopwatch
    question: str | None
    """what of the outcome the question had a part in: ``"rods"``, ``"selection and rods"``, or nothing"""

    @property
    def focus_frames(self) -> list[int]:
        """Frames that got cones."""
        return self.frame_index[self.kind == int(TokenKind.CONE)].unique().tolist()

    @property
    def seconds(self) -> float:
        """Time in selecting frames and making tokens, without the host's encoder."""
        return self.stopwatch.seconds

    def __str__(self) -> str:
        return (
            f"{self.sampled_frames} frames, {len(self.focus_frames)} in focus {self.focus_frames}, "
            f"{self.tokens_before} -> {self.tokens_after} tokens in {self.seconds:.3f} s"
        )


def report_video(
    frames: Tensor, video: CompressedVideo, stopwatch: Stopwatch, connector: Any, asked: bool
) -> VideoReport:
    """The report of one video."""
    config = getattr(connector, "config", None)
    selects = getattr(config, "scorer", None) in READS_QUESTION or bool(getattr(config, "text_weight", 0.0))
    question = ("selection and rods" if selects else "rods") if asked else None
    count = frames.shape[0] * frames.shape[1]
    tensors = video.frame_index.detach(), video.kind.detach()
    return VideoReport(frames.shape[0], count, len(video.tokens), *tensors, stopwatch, question)
