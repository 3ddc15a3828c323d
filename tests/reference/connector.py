"""The whole paper for one video at inference: V and Q in, tokens of all frames out (Eq. 1-13), in NumPy float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tests.reference import networks
from tests.reference.density_peaks import density_peaks
from tests.reference.prototypes import member_weights, merge, pool_cells
from tests.reference.spatial import spatial_prototypes


class Tokens(NamedTuple):
    tokens: np.ndarray
    frame_index: np.ndarray
    kind: np.ndarray
    focus: np.ndarray


def part(weights: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def compress(
    frames: np.ndarray,
    text: np.ndarray | None,
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    grid: tuple[int, int],
) -> Tokens:
    """`config` has the names of the configuration; density peaks and hard Top-K only."""
    frames = np.asarray(frames, dtype=np.float64)
    length, patches, dim = frames.shape
    # Sec. 3.2: pool, cluster into events, merge, score, keep the best K in time order.
    pooled = np.stack([pool_cells(frame, grid, config["pool_grid"]) for frame in frames])
    points = pooled.reshape(length, -1)
    peaks = density_peaks(
        points, config["num_prototypes"], config["temporal_neighbors"], distance_scale=config["distance_scale"]
    )
    usable = np.isfinite(points).all(-1)
    share = member_weights(peaks.log_importance, peaks.assignment, peaks.centers, usable, config["merge_weights"])
    order = np.argsort(peaks.centers)
    events = merge(points, peaks.assignment, share, len(peaks.centers)).reshape(-1, pooled.shape[1], dim)[order]
    index = peaks.centers[order]
    if config["scorer"] == "importance":
        raw = peaks.log_importance[index]
    else:
        kind, shared = config["score_input"], config["score_shares_context"]
        raw = networks.phi(events, part(weights, "estimator.score."), kind, shared)
    focus_count = math.ceil(Fraction(str(config["focus_ratio"])) * len(index))
    chosen = sorted(sorted(range(len(index)), key=lambda i: (-raw[i], i))[:focus_count])
    event_of = {int(index[i]): events[i] for i in chosen}
    # Sec. 3.3: cones for the frames in focus, rods for the others.
    rows, frame_index, kinds = [], [], []
    projector = part(weights, "encoder.projector.")
    temperature = config["rod_temperature"] if config["rod_attention"] == "cosine" else None
    for t, frame in enumerate(frames):
        levels = spatial_prototypes(
            frame,
            config["spatial_prototypes"],
            config["spatial_neighbors"],
            config["merge_weights"],
            config["distance_scale"],
        )
        objects = np.concatenate([level.prototypes for level in levels])
        densest = int(np.argmax(levels[0].log_density))
        sources = objects if config["rod_input"] == "prototypes" else frame
        stand_in = densest if config["rod_input"] == "prototypes" else int(levels[0].center[densest])
        rod = networks.rod_rows(sources, text, part(weights, "encoder.rods."), stand_in, temperature)
        rod = networks.coarse(rod, projector)[:patches]  # never more tokens than patches
        if t not in event_of:
            tokens = rod[: config["rod_tokens"]]
        elif config["cones"] == "none":
            tokens = rod[:0]
        elif config["cones"] == "rods":
            tokens = rod
        else:
            fused = networks.cone_rows(
                event_of[t],
                [level.prototypes for level in levels],
                "multi_grained" if config["cones"] == "patches" else config["cones"],
                part(weights, "encoder.cones."),
            )
            keep = config["cones"] == "patches" or len(fused) >= patches
            tokens = networks.fine(frame if keep else fused, projector)
        rows.append(tokens)
        frame_index += [t] * len(tokens)
        kinds += [int(t in event_of)] * len(tokens)
    return Tokens(np.concatenate(rows), np.array(frame_index), np.array(kinds), np.array(sorted(event_of)))
