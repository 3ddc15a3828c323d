"""Lloyd's k-means for one set of points from given seeds, in NumPy float64."""

from __future__ import annotations

import numpy as np


def farthest_seeds(points: np.ndarray, count: int) -> list[int]:
    """The point nearest the mean (least total squared distance), then always the one farthest from all seeds."""
    d = ((points[:, None] - points[None]) ** 2).sum(-1)
    seeds = [int(np.argmin(d.sum(1)))]
    while len(seeds) < count:
        nearest = d[:, seeds].min(1)
        nearest[seeds] = -1
        seeds.append(int(np.argmax(nearest)))
    return seeds


def lloyd(
    points: np.ndarray, seeds: list[int], iterations: int, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels by seed order, and the centroids of the last labels."""
    weight = np.ones(len(points)) if weight is None else weight
    centroid = points[seeds].astype(np.float64)
    label = ((points[:, None] - centroid[None]) ** 2).sum(-1).argmin(1)
    for _ in range(iterations):
        centroid = centroids(points, label, weight, centroid)
        label = ((points[:, None] - centroid[None]) ** 2).sum(-1).argmin(1)
    return label, centroids(points, label, weight, centroid)


def centroids(points: np.ndarray, label: np.ndarray, weight: np.ndarray, previous: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            np.average(points[label == k], axis=0, weights=weight[label == k]) if (label == k).any() else previous[k]
            for k in range(len(previous))
        ]
    )
