"""What happened to every video of a call."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConfig, FrameSelection, TokenKind
from dynfocus_connector.merging import Merging, SpatialMerging
from dynfocus_connector.pooling import Grid

READS_QUESTION = ("question",)


class Stopwatch:
    """Seconds of a block, on its device; asking for them waits for the device, measuring does not."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        if self.events:
            self.events[0].record(torch.cuda.current_stream(self.device))
        return self

    def __exit__(self, *error: object) -> None:
        self.stop = time.perf_counter()
        if self.events:
            self.events[1].record(torch.cuda.current_stream(self.device))

    @property
    def seconds(self) -> float:
        """Elapsed time."""
        if not self.events:
            return self.stop - self.start
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1000

    def __getstate__(self) -> dict[str, Any]:
        return {"device": self.device, "events": [], "start": 0.0, "stop": self.seconds}


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
    grid: Grid = (0, 0)
    """rows and columns of patches in a frame"""
    joined: int = 1
    """how many neighbouring pictures the host's encoder makes one frame of"""
    selection: FrameSelection | None = None
    """how the frames were chosen, without the event prototypes; None where the connector does not tell"""
    spatial: SpatialMerging | None = None
    """which patches became one object prototype, with `keep_merging`"""
    config: DynFocusConfig | None = None
    """the connector's"""
    trained: bool = False
    """whether the connector has parameters"""
    dropped: int = 0
    """how many placeholders left the prompt: of patches, and of class tokens"""

    @property
    def focus_frames(self) -> list[int]:
        """Frames that got cones."""
        return self.frame_index[self.kind == int(TokenKind.CONE)].unique().tolist()

    @property
    def seconds(self) -> float:
        """Time in selecting frames and making tokens, without the host's encoder."""
        return self.stopwatch.seconds

    def write_html(
        self,
        path: str | os.PathLike[str],
        *,
        frames: Sequence[Any] | None = None,
        timestamps: Sequence[float] | None = None,
        title: str = "video",
        question: str | None = None,
    ) -> Path:
        """Write the page of `dynfocus compress` about this video: one file, whole or not at all.

        Args:
            path: Where.
            frames: The pictures that the processor was given: PIL images, or unsigned bytes [height width 3] or
                [3 height width]. Without them the page has no pictures.
            timestamps: Seconds of each picture. Without them the clock of the page counts frames.
            title: The name of the video.
            question: Its words.

        Returns:
            The path.

        Raises:
            ValueError: a connector that chooses no frames; pictures or timestamps that do not fit the video.
            TypeError: pictures of another kind.
            OSError: the folder cannot be written.
        """
        from dynfocus_transformers.page import page_of
        from dynfocus_video.report import write_report

        return write_report(path, page_of(self, frames, timestamps, title, question))

    def __str__(self) -> str:
        return (
            f"{self.sampled_frames} frames, {len(self.focus_frames)} in focus {self.focus_frames}, "
            f"{self.tokens_before} -> {self.tokens_after} tokens in {self.seconds:.3f} s"
        )


def report_video(
    frames: Tensor,
    grid: Grid,
    joined: int,
    video: CompressedVideo,
    stopwatch: Stopwatch,
    connector: nn.Module,
    asked: bool,
) -> VideoReport:
    """The report of one video; it holds on to no graph and to nothing as wide as the features."""
    config = getattr(connector, "config", None)
    selects = getattr(config, "scorer", None) in READS_QUESTION or bool(getattr(config, "text_weight", 0.0))
    question = ("selection and rods" if selects else "rods") if asked else None
    merging = video.merging
    return VideoReport(
        sampled_frames=frames.shape[0],
        tokens_before=frames.shape[0] * frames.shape[1],
        tokens_after=len(video.tokens),
        frame_index=video.frame_index.detach(),
        kind=video.kind.detach(),
        stopwatch=stopwatch,
        question=question,
        grid=grid,
        joined=joined,
        selection=None if video.selection is None else without_prototypes(video.selection),
        spatial=SpatialMerging(*(part.detach() for part in merging.spatial)) if isinstance(merging, Merging) else None,
        config=config,
        trained=next(connector.parameters(), None) is not None,
    )


def without_prototypes(selection: FrameSelection) -> FrameSelection:
    """What the page needs of a selection."""
    small = selection._replace(prototypes=selection.prototypes.new_zeros(*selection.prototypes.shape[:2], 0, 0))
    return FrameSelection(*(value.detach() for value in small))
