"""The report of one video as the page that `dynfocus compress` writes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dynfocus_connector import FrameSelection
from dynfocus_connector.contracts import renumber
from dynfocus_transformers.report import VideoReport
from dynfocus_video import report as html
from dynfocus_video.thumbnails import held_width, thumbnail


def page_of(
    report: VideoReport,
    frames: Sequence[Any] | None,
    timestamps: Sequence[float] | None,
    title: str,
    question: str | None,
) -> html.VideoReport:
    """What the page shows: the frames that take part, in time order. Arguments as in `VideoReport.write_html`."""
    if report.selection is None:
        raise ValueError(
            "write_html: expected the report of a connector that chooses frames, got one without a selection. "
            f"It made {report.tokens_after} tokens of {report.tokens_before}; there is nothing more to show."
        )
    count = report.sampled_frames
    tokens = report.frame_index.cpu().bincount(minlength=count)
    selection = FrameSelection(*(value.cpu() for value in report.selection))
    part = ((selection.event[0] >= 0) | (tokens > 0)).nonzero()[:, 0]
    pictures = None if frames is None else one_each(frames, report, "frames")
    times = [float(t) for t in (range(count) if timestamps is None else one_each(timestamps, report, "timestamps"))]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"write_html: expected ascending timestamps, got {times}.")
    spatial = report.spatial if report.spatial is not None and report.spatial.row.shape[1] == len(part) else None
    return html.VideoReport(
        title=title,
        timestamps=[times[t] for t in part.tolist()],
        thumbnails=[
            None if pictures is None else thumbnail(as_picture(pictures[t]), held_width(count)) for t in part.tolist()
        ],
        selection=among(selection, part),
        tokens_per_frame=tokens[part].tolist(),
        grid=report.grid,
        spatial=None if pictures is None else spatial,
        question=question,
        notes=notes_of(report, len(part), frames is not None, timestamps is not None),
        facts=facts_of(report),
        scored_by=scored_by(report),
    )


def one_each(values: Sequence[Any], report: VideoReport, name: str) -> list[Any]:
    """One value per frame of tokens: of neighbours that the host joins, the first; the last group may be short."""
    count, joined = report.sampled_frames, report.joined
    if len(values) == count:
        return list(values)
    if -(-len(values) // joined) != count:
        each = "" if joined == 1 else f" or up to {joined * count}, as the host joins {joined} neighbours"
        raise ValueError(f"write_html: expected {count} {name}{each}, got {len(values)}. Pass those the processor saw.")
    return list(values[::joined])


def as_picture(frame: Any) -> UInt8[Tensor, "height width 3"]:
    """A picture's pixels, channels last."""
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu()
    pixels = np.asarray(frame.convert("RGB") if hasattr(frame, "convert") else frame)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[2]):
        raise TypeError(
            "write_html: expected PIL images, or unsigned bytes [height width 3] or [3 height width], got "
            f"{type(frame).__name__} of {pixels.dtype} {list(pixels.shape)}. Pass the pictures that the processor was "
            "given, not its pixel values."
        )
    return torch.from_numpy(np.array(pixels if pixels.shape[2] == 3 else pixels.transpose(1, 2, 0)))


def among(selection: FrameSelection, part: Tensor) -> FrameSelection:
    """The selection told of the frames that take part alone: the inverse of `FrameSelection.in_video`."""
    place = torch.zeros_like(selection.event[0]).index_copy(0, part, torch.arange(len(part), device=part.device))
    return selection._replace(
        prototype_index=renumber(selection.prototype_index, place),
        event=selection.event[:, part],
        focus_index=renumber(selection.focus_index, place),
        is_focus=selection.is_focus[:, part],
        log_importance=selection.log_importance[:, part],
    )


def notes_of(report: VideoReport, taking_part: int, seen: bool, timed: bool) -> list[str]:
    """Sentences that nobody who reads the page must miss."""
    notes = []
    if not report.trained:
        notes.append("Training-free: no trained weights are used.")
    if report.question is None:
        notes.append("No question took part.")
    if taking_part < report.sampled_frames:
        notes.append(
            f"The token budget is too short for all {report.sampled_frames} frames: {taking_part} of them, evenly "
            "spread, take part."
        )
    if not timed:
        notes.append("No timestamps were given: the clock counts frames, one per second.")
    if not seen:
        notes.append("No pictures were given.")
    return notes


def facts_of(report: VideoReport) -> dict[str, str]:
    """How the result was made."""
    facts = {
        "Connector": "trained" if report.trained else "training-free",
        "Patches": "{}×{} per frame".format(*report.grid),
        "Question": "no part" if report.question is None else f"a part in {report.question}",
        "Seconds in selection": f"{report.seconds:.3f}",
    }
    if report.joined > 1:
        facts["Pictures per frame"] = str(report.joined)
    if report.config is not None:
        facts["Object prototypes"] = " + ".join(str(count) for count in report.config.spatial_prototypes)
    return facts


def scored_by(report: VideoReport) -> str:
    """Completes the sentence "An event ranks by …"."""
    if report.config is None or report.config.scorer != "importance":
        return "its learned score"
    typical = "how many frames resemble it and how far it lies from every other event"
    asked = report.question is not None and report.config.text_weight > 0
    return f"{typical}, and how well it matches the question" if asked else typical
