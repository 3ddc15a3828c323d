"""One self-contained page that shows which frames of a video matter, why, and what they cost."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from dynfocus_connector import FrameSelection
from dynfocus_connector.merging import SpatialMerging
from dynfocus_video import report_markup as markup
from dynfocus_video.atomic import replace_together
from dynfocus_video.report_frames import describe_frames
from dynfocus_video.report_regions import region_labels
from dynfocus_video.report_timeline import timeline
from dynfocus_video.thumbnails import for_page


class VideoReport(NamedTuple):
    """What the page shows; plain data, so that any caller can make one."""

    title: str
    """the name of the video"""
    timestamps: Sequence[float]
    """seconds of each sampled frame, ascending"""
    thumbnails: Sequence[bytes | None]
    """a JPEG per frame, None where there is no picture"""
    selection: FrameSelection
    """of one video (batch size 1)"""
    tokens_per_frame: Sequence[int]
    grid: tuple[int, int]
    """rows and columns of patches in a frame"""
    spatial: SpatialMerging | None = None
    """`CompressedVideo.merging.spatial`, to paint object prototypes over focus frames"""
    question: str | None = None
    notes: Sequence[str] = ()
    """sentences a reader must not miss: training-free, resampled, truncated"""
    facts: Mapping[str, str] = {}
    """how the result was made, by label"""
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """left, top, width and height of what the encoder saw, as shares of the picture"""
    scored_by: str = "how many frames resemble it and how far it lies from every other event"
    """completes the sentence "An event ranks by …" """
    duration: float | None = None
    """seconds; one sampling step after the last timestamp where unknown"""


def write_report(path: str | os.PathLike[str], report: VideoReport) -> Path:
    """Write the page beside its final name, then rename it: a reader never meets half a page.

    Raises:
        ValueError: lengths that do not fit together, or a selection of several videos.
        OSError: the folder cannot be written.

    Example:
        >>> write_report("out/report.html", VideoReport("clip.mp4", ...))  # doctest: +SKIP
    """
    target = Path(path)
    text = render_report(report)
    replace_together({target: lambda temporary: temporary.write_text(text, encoding="utf-8")})
    return target


def render_report(report: VideoReport) -> str:
    """The page as a string of HTML: no address in it leads outside."""
    _check(report)
    frames = describe_frames(
        report.selection, report.timestamps, report.tokens_per_frame, report.scored_by, report.duration
    )
    labels = region_labels(report.spatial, report.selection, report.grid)
    pictures = for_page(report.thumbnails, [frame.is_focus for frame in frames])
    data = {
        "frames": [frame.for_script() | {"regions": labels.of_frame.get(frame.number)} for frame in frames],
        "levels": labels.levels,
        "grid": list(report.grid),
        "seen": list(report.seen),
        "end": frames[-1].until,
    }
    return Template(_asset("report.html")).substitute(
        title=html.escape(report.title),
        style=_asset("report.css"),
        script=_asset("report.js"),
        data=script_json(data),
        summary=markup.summary(report.title, report.question, report.notes, report.facts, frames),
        figures=markup.key_figures(frames, report.grid),
        timeline=timeline(frames),
        strip=markup.filmstrip(frames, pictures),
        levels=markup.level_switch(labels.levels),
        bill=markup.token_bill(frames, report.grid),
        table=markup.frame_table(frames),
    )


def script_json(data: object) -> str:
    """JSON that may stand inside a <script> element: no character in it can end the element or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return files("dynfocus_video").joinpath(name).read_text(encoding="utf-8")


def _check(report: VideoReport) -> None:
    count = len(report.timestamps)
    videos, length = report.selection.event.shape
    if count == 0:
        raise ValueError("write_report: expected at least 1 frame, got 0.")
    if videos != 1:
        raise ValueError(f"write_report: expected the selection of 1 video, got {videos}. Write a page for each.")
    for name, size in (
        ("thumbnails", len(report.thumbnails)),
        ("tokens_per_frame", len(report.tokens_per_frame)),
        ("selection", length),
    ):
        if size != count:
            raise ValueError(f"write_report: expected {name} of {count} frames (as many as timestamps), got {size}.")
