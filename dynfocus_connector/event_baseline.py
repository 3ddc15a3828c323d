"""A rival that merges over time and space: the frames of an event share a few tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynfocus_connector.peaks import density_peaks
from dynfocus_connector.pooled_baselines import PooledBaseline, in_order
from dynfocus_connector.prototypes import merge_prototypes


class EventMerging(PooledBaseline):
    """Frames cluster into events, the patches of an event into tokens: Chat-UniVi's idea, with one grain.

    Both clusterings are density peaks with the video's largest distance as scale; members merge with equal weights. The
    budget is shared out evenly; a token stands in the frame and slot at its peak. Without a budget every event has as
    many tokens as a frame has patches.

    Args:
        num_events: Events of a video; fewer where it has fewer frames or the budget fewer tokens.
        neighbors: k of both clusterings.
        options: As in `PooledBaseline`.
    """

    def __init__(self, *sizes: Any, num_events: int = 25, neighbors: int = 5, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.num_events = num_events
        self.neighbors = neighbors

    def _pool(self, video: Tensor, grid: tuple[int, int], limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        length, patches, dim = video.shape
        count = min(self.num_events, length)
        limit = count * patches if limit is None else limit
        count = min(count, limit)
        label = density_peaks(video.mean(1)[None], count, self.neighbors, distance_scale="max").assignment[0]
        rows, frame, anchor = [], [], []
        for event in range(count):
            members = (label == event).nonzero()[:, 0]
            points = video[members].reshape(1, -1, dim)
            share = min(limit // count, patches, points.shape[1])
            peaks = density_peaks(points, share, self.neighbors, distance_scale="max")
            rows.append(merge_prototypes(points, peaks, weights="uniform")[0])
            frame.append(members[peaks.centers[0] // patches])
            anchor.append(peaks.centers[0] % patches)
        return in_order(torch.cat(rows), torch.cat(frame), torch.cat(anchor), grid)
