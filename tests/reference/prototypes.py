"""Local average pooling and Eq. 5, one video at a time, in NumPy float64."""

from __future__ import annotations

import math

import numpy as np


def pool_cells(frame: np.ndarray, grid: tuple[int, int], cells: int) -> np.ndarray:
    """The mean of each of cells x cells areas of a frame [patches dim]; uneven areas overlap."""
    height, width = grid
    picture = np.asarray(frame, dtype=np.float64).reshape(height, width, -1)
    areas = []
    for i in range(cells):
        for j in range(cells):
            top, bottom = i * height // cells, math.ceil((i + 1) * height / cells)
            left, right = j * width // cells, math.ceil((j + 1) * width / cells)
            areas.append(picture[top:bottom, left:right].mean((0, 1)))
    return np.stack(areas)


def member_weights(
    log_importance: np.ndarray, assignment: np.ndarray, centers: np.ndarray, usable: np.ndarray, weights: str
) -> np.ndarray:
    """w_t / sum of w_t over the members of a cluster."""
    share = np.zeros(len(assignment))
    for label, center in enumerate(centers):
        members = np.flatnonzero((assignment == label) & usable)
        if weights == "uniform":
            w = np.ones(len(members))
        elif weights == "centers":
            w = (members == center).astype(float)
        else:
            gamma = log_importance[members].astype(np.float64)
            w = np.exp(gamma - gamma.max()) if np.isfinite(gamma).any() else np.ones(len(members))
        if w.sum() > 0:
            share[members] = w / w.sum()
    return share


def merge(points: np.ndarray, assignment: np.ndarray, share: np.ndarray, count: int) -> np.ndarray:
    """m_l = sum of w_t f_t over the members of l."""
    merged = np.zeros((count, *points.shape[1:]))
    for t in np.flatnonzero(share > 0):
        merged[assignment[t]] += share[t] * points[t]
    return merged
