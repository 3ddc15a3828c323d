"""Appendix A on this world: how much repeats, as `estimate_redundancy` sees it and as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dynfocus_connector import estimate_redundancy
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.tables import rows
from dynfocus_video.atomic import replace_together

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
FILE = "redundancy.json"


def measure(memory: Memory) -> dict[str, Any]:
    """Temporal ratios of the tower's mean patch at several thresholds, and the truth.

    The truth is the share of frames, all but the last, whose next frame belongs to the same scene.
    """
    frames = memory.tokens[:, :, memory.first_patch :].float().mean(2)
    measured = {
        str(threshold): float(np.mean([estimate_redundancy(f, temporal_threshold=threshold).temporal for f in frames]))
        for threshold in THRESHOLDS
    }
    truth = float(np.mean([(np.diff(story.event) == 0).mean() for story in memory.stories]))
    return {"stories": len(memory), "length": memory.length, "measured": measured, "truth": truth}


def write_redundancy(memory: Memory, folder: Path) -> None:
    """Into the folder of results."""
    text = json.dumps(measure(memory), indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    replace_together({folder / FILE: lambda part: part.write_text(text, encoding="utf-8")})


def redundancy_table(folder: Path) -> str:
    """What the file says."""
    path = folder / FILE
    head = "## Redundancy (Appendix A)\n\n"
    if not path.is_file():
        return head + "Not run yet.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    body = [[threshold, f"{value:.2f}"] for threshold, value in found["measured"].items()]
    told = f"""Share of frames that look like the next one, in {found["stories"]} stories of {found["length"]} frames,
by the tower's mean patch. The truth, frames followed by one of the same scene, is **{found["truth"]:.2f}**; lamp and
ball change within scenes.

"""
    rest = f"""
The answer-irrelevant ratio needs text and frames in one space, which this model's tower does not have; the truth is
{1 - 2 / found["length"]:.2f} for questions about a board.
"""
    return head + told + rows(("threshold", "temporal ratio"), body) + rest
