"""A compression as a person reads it: notes, a page, a table in the terminal, an object for machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dynfocus_connector.merging import Merging
from dynfocus_video.atomic import replace_together
from dynfocus_video.compression import Compression
from dynfocus_video.report import VideoReport, render_report
from dynfocus_video.report_frames import clock_for
from dynfocus_video.report_markup import share
from dynfocus_video.tokens_file import metadata_of, tensors_of

TOKENS_NAME, REPORT_NAME = "tokens.safetensors", "report.html"
_SHOWN_TIMES = 12


def write_results(result: Compression, folder: Path, title: str) -> tuple[Path, Path]:
    """Write tokens and page into `folder`, both or neither; returns their paths."""
    tokens, page = folder / TOKENS_NAME, folder / REPORT_NAME
    text = render_report(report_of(result, title))
    replace_together(
        {
            tokens: lambda path: save_file(tensors_of(result), path, metadata=metadata_of(result, title)),
            page: lambda path: path.write_text(text, encoding="utf-8"),
        }
    )
    return tokens, page


def notes_of(result: Compression) -> list[str]:
    """Sentences that nobody who reads the result must miss."""
    notes = []
    if result.training_free:
        notes.append(
            "Training-free: no trained weights are used. Frames rank by how typical and how distinct they are."
        )
    if not result.question_counts:
        notes.append(_why_question_is_mute(result))
    kept = len(result.timestamps)
    if kept < result.sampled_frames and result.truncated is None:
        notes.append(
            f"The token budget is too short for the gist of all {result.sampled_frames} sampled frames: "
            f"{kept} of them, evenly spread, take part."
        )
    elif result.truncated is not None:
        notes.append(f"The file is not whole, {result.truncated}; {kept} frames take part.")
    return notes


def _why_question_is_mute(result: Compression) -> str:
    if result.question:
        return "The question cannot influence this result: no text encoder was given (--text-encoder)."
    return "No question took part."


def facts_of(result: Compression) -> dict[str, str]:
    """How the result was made."""
    config = result.config
    width = result.video.tokens.shape[-1]
    return {
        "Length": clock_for(result.duration, 0.1)(result.duration),
        "Encoder": f"{result.encoder}, {result.grid[0]}×{result.grid[1]} patches",
        "Connector": "training-free" if result.training_free else "trained",
        "Events": f"{config.num_prototypes} at most",
        "Focus ratio": f"{config.focus_ratio:g}",
        "Object prototypes": " + ".join(str(count) for count in config.spatial_prototypes),
        "Token width": str(width),
    }


def report_of(result: Compression, title: str) -> VideoReport:
    """The page's content."""
    selection, merging = result.video.selection, result.video.merging
    assert selection is not None
    return VideoReport(
        title=title,
        timestamps=result.timestamps.tolist(),
        thumbnails=result.thumbnails,
        selection=selection,
        tokens_per_frame=result.tokens_per_frame.tolist(),
        grid=result.grid,
        spatial=merging.spatial if isinstance(merging, Merging) else None,
        question=result.question,
        notes=notes_of(result),
        facts=facts_of(result),
        seen=result.seen,
        scored_by=_scored_by(result),
        duration=result.duration,
    )


def _scored_by(result: Compression) -> str:
    if result.config.scorer != "importance":
        return "the trained score network"
    if result.question_counts:
        return "how typical and distinct its best frame is and, half and half, how well it matches the question"
    return "how typical its best frame is and how far that lies from every other event"


def summary_of(result: Compression) -> dict[str, Any]:
    """The result in numbers, for `--json`."""
    selection = result.video.selection
    assert selection is not None
    tokens, patches = len(result.video.tokens), result.grid[0] * result.grid[1] * len(result.timestamps)
    return {
        "frames": len(result.timestamps),
        "sampled_frames": result.sampled_frames,
        "duration": round(result.duration, 3),
        "events": int((selection.prototype_index[0] >= 0).sum()),
        "focus_frames": selection.is_focus[0].nonzero()[:, 0].tolist(),
        "focus_times": [round(time, 3) for time in result.focus_times],
        "tokens": tokens,
        "tokens_per_frame": result.tokens_per_frame.tolist(),
        "all_patches": patches,
        "ratio": tokens / patches,
        "width": result.video.tokens.shape[-1],
        "encoder": result.encoder,
        "training_free": result.training_free,
        "question": result.question,
        "question_counts": result.question_counts,
        "truncated": result.truncated,
        "notes": notes_of(result),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
    }


def table_of(result: Compression, title: str, outputs: Mapping[str, os.PathLike[str]]) -> str:
    """The short table for the terminal."""
    numbers = summary_of(result)
    step = result.duration / max(len(result.timestamps), 1)
    clock = clock_for(result.duration, step)
    times = [clock(time) for time in result.focus_times]
    more = f" … and {len(times) - _SHOWN_TIMES} more" if len(times) > _SHOWN_TIMES else ""
    rows = {
        "frames": f"{numbers['frames']:,}",
        "events": f"{numbers['events']:,}",
        "focus frames": f"{len(times):,}",
        "  at": " ".join(times[:_SHOWN_TIMES]) + more,
        "tokens": f"{numbers['tokens']:,} of width {numbers['width']}",
        "ratio": f"{share(numbers['tokens'], numbers['all_patches'])} of all {numbers['all_patches']:,} patches; "
        f"2 per frame would be {2 * numbers['frames']:,}",
        "seconds": " · ".join(f"{name} {value:.1f}" for name, value in result.seconds.items()),
    }
    lines = [title, "", *(f"  {name:<14}{value}" for name, value in rows.items()), ""]
    lines += [f"  {note}" for note in notes_of(result)] + [""]
    return "\n".join(lines + [f"  {name:<14}{os.fspath(path)}" for name, path in outputs.items()])
