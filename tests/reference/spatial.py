"""S-DPC of one frame: patches, then the prototypes of the level before, in NumPy float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.reference.density_peaks import density_peaks
from tests.reference.prototypes import member_weights, merge


class Level(NamedTuple):
    prototypes: np.ndarray
    center: np.ndarray
    """the patch at the peak of each prototype"""
    log_density: np.ndarray
    parent: np.ndarray
    """which prototype each point of the level before joined"""


def spatial_prototypes(
    patches: np.ndarray,
    counts: tuple[int, ...],
    neighbors: tuple[int, ...],
    weights: str = "importance",
    distance_scale: float | str = 1.0,
) -> list[Level]:
    points, patch, levels = np.asarray(patches, dtype=np.float64), np.arange(len(patches)), []
    for i, count in enumerate(counts):
        usable = np.isfinite(points).all(-1)
        peaks = density_peaks(points, count, neighbors[min(i, len(neighbors) - 1)], distance_scale=distance_scale)
        share = member_weights(peaks.log_importance, peaks.assignment, peaks.centers, usable, weights)
        points = merge(points, peaks.assignment, share, len(peaks.centers))
        patch = patch[peaks.centers]
        levels.append(Level(points, patch, peaks.log_density[peaks.centers], peaks.assignment))
    return levels


def grouped_order(levels: list[Level]) -> list[tuple[str, int, int]]:
    """The authors' order: each coarse prototype, then its fine members: (level, row in level, group)."""
    order = []
    for group in range(len(levels[1].prototypes)):
        order.append(("coarse", group, group))
        order += [("fine", int(i), group) for i in np.flatnonzero(levels[1].parent == group)]
    return order


def spread_anchors(wanted: list[int], grid: tuple[int, int]) -> list[int]:
    """The slot each token wants, or the nearest free one (row-major first among equally near)."""
    taken: list[int] = []
    for slot in wanted:
        row, column = divmod(slot, grid[1])
        free = [s for s in range(grid[0] * grid[1]) if s not in taken]
        taken.append(min(free, key=lambda s: ((s // grid[1] - row) ** 2 + (s % grid[1] - column) ** 2, s)))
    return taken
