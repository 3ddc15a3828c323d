"""Which object prototype each patch of a focus frame joined (the paper's Fig. 9), packed for a page."""

from __future__ import annotations

import base64
from typing import NamedTuple

import torch

from dynfocus_connector import FrameSelection
from dynfocus_connector.merging import SpatialMerging

# Beyond this many painted frames a page becomes slow to load.
_MOST_FRAMES = 600


class RegionLabels(NamedTuple):
    """Prototypes per level, and per painted frame one base64 string of bytes [levels patches]."""

    levels: list[int]
    of_frame: dict[int, str]


def region_labels(spatial: SpatialMerging | None, selection: FrameSelection, grid: tuple[int, int]) -> RegionLabels:
    """Labels of the focus frames, counted from 0 within each level; none where nothing was merged."""
    patches = grid[0] * grid[1]
    if spatial is None or spatial.row.shape[2] == 0 or spatial.row.shape[-1] != patches:
        return RegionLabels([], {})
    focus = selection.is_focus[0].nonzero()[:, 0].cpu()[:_MOST_FRAMES]
    rows = spatial.row[0].cpu()[focus]
    # Rows may be numbered through all levels, or grouped; only which patches share one matters here.
    packed = [torch.stack([level.unique(return_inverse=True)[1] for level in frame]) for frame in rows]
    if not packed:
        return RegionLabels([], {})
    levels = (torch.stack(packed).amax(dim=(0, 2)) + 1).tolist()
    of_frame = {
        frame: base64.b64encode(labels.to(torch.uint8).numpy().tobytes()).decode()
        for frame, labels in zip(focus.tolist(), packed, strict=True)
    }
    return RegionLabels(levels, of_frame)
