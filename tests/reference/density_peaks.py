"""Density peaks (Eq. 1-4) for one set of points, in NumPy float64, loops and all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Peaks(NamedTuple):
    log_density: np.ndarray
    separation: np.ndarray
    log_importance: np.ndarray
    centers: np.ndarray
    assignment: np.ndarray


def distances(points: np.ndarray, usable: np.ndarray, scale: float | str = 1.0) -> np.ndarray:
    """d_ij = ||x_i - x_j|| / sqrt(dim), inf to and from points that cannot be used."""
    x = np.where(usable[:, None], points, 0.0).astype(np.float64)
    d = np.sqrt(((x[:, None] - x[None]) ** 2).mean(-1))
    d[~usable] = d[:, ~usable] = np.inf
    np.fill_diagonal(d, 0.0)
    known = d[np.ix_(usable, usable)]
    largest = known.max() if known.size else 0.0
    return d / ((largest or 1.0) if scale == "max" else scale)


def density_peaks(
    points: np.ndarray,
    num_clusters: int,
    num_neighbors: int,
    *,
    mask: np.ndarray | None = None,
    distance_scale: float | str = 1.0,
) -> Peaks:
    n = len(points)
    mask = np.ones(n, dtype=bool) if mask is None else mask
    usable = mask & np.isfinite(points).all(-1)
    d = distances(points, usable, distance_scale)
    log_density, separation = np.full(n, -np.inf), np.zeros(n)
    for i in np.flatnonzero(usable):
        nearest = np.sort(d[i][usable])[:num_neighbors]
        log_density[i] = -np.mean(nearest**2)
    # Equal up to the resolution of float32 is a tie, and the lower index is the denser point.
    rank = [(-np.float32(log_density[i]), i) for i in range(n)]
    for i in np.flatnonzero(usable):
        denser = [d[i, j] for j in np.flatnonzero(usable) if rank[j] < rank[i]]
        separation[i] = min(denser) if denser else d[i][usable].max()
    with np.errstate(divide="ignore"):
        log_importance = np.where(usable, log_density + np.log(separation), -np.inf)
    order = sorted(np.flatnonzero(mask), key=lambda i: (not usable[i], -log_importance[i], i))
    centers = np.array(order[:num_clusters], dtype=np.int64)
    return Peaks(log_density, separation, log_importance, centers, assign(d, centers, mask))


def assign(d: np.ndarray, centers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Every point joins its nearest centre, of equally near ones the better; a centre leads its own cluster."""
    label = np.full(len(d), -1)
    for i in np.flatnonzero(mask):
        label[i] = np.argmin(d[i][centers])
    label[centers] = np.arange(len(centers))
    return label
