"""S-DPC of many frames in one kernel: a program works on one frame at a time, its distances in a scratch of its own."""

from __future__ import annotations

from typing import get_args

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from dynfocus_connector.choices import DistanceScale, MergeWeights
from dynfocus_connector.peaks import DensityPeaks

RESOLUTION = 1e-6
"""Squared distances below this share of ‖x_i‖² + ‖x_j‖² are copies, which the plain code's float64 tells apart."""


def frame_peaks(
    frames: Float[Tensor, "frames patches dim"],
    num_clusters: int,
    num_neighbors: int,
    *,
    distance_scale: DistanceScale = 1.0,
    merge_weights: MergeWeights = "importance",
) -> tuple[DensityPeaks, Float[Tensor, "frames patches"], Float[Tensor, "frames clusters dim"]]:
    """`density_peaks` of frames of at most 256 patches, in bfloat16, float16 or float32; in the same pass the weight of
    every patch as `member_weights` has it, and the prototypes in float32.

    Sums are float32, so that squared distances are off by about 1e-7 of the patches' squared norms (around their
    mean): importances that differ by less may change places with those of `density_peaks`.
    """
    count, patches, dim = frames.shape
    frames = frames.contiguous()
    clusters, neighbors = min(num_clusters, patches), min(num_neighbors, patches)
    programs = min(count, _processors(frames.device))
    width = max(triton.next_power_of_2(patches), 16)
    squared = frames.new_empty(programs, width, width, dtype=torch.float32)
    per_patch = frames.new_empty(5, count, patches, dtype=torch.float32)
    merged = frames.new_empty(count, clusters, dim, dtype=torch.float32)
    label = frames.new_empty(count, patches, dtype=torch.int32)
    center = frames.new_empty(count, clusters, dtype=torch.int32)
    largest = distance_scale == "max"
    unit = 1.0 if largest else dim * float(distance_scale) ** 2
    if count:
        with torch.cuda.device_of(frames):  # Triton starts kernels on the current device, wherever their tensors lie
            _frame_peaks[(programs,)](
                frames, squared, per_patch, label, center, merged, count, dim, 1.0 / unit, RESOLUTION,
                PATCHES=patches, WIDTH=width, NEIGHBORS=neighbors, CLUSTERS=clusters, LARGEST=largest,
                LEADERS=max(triton.next_power_of_2(clusters), 16), WEIGHTS=get_args(MergeWeights).index(merge_weights),
                ROWS=min(width, 32), FEATURES=32, num_warps=8,
            )  # fmt: skip
    _, mean_distance, separation, importance, weight = per_patch
    peaks = DensityPeaks(-mean_distance, separation.sqrt(), importance, center.long(), label.long())
    return peaks, weight, merged


def _processors(device: torch.device) -> int:
    """Frames that are worked on at the same time."""
    return torch.cuda.get_device_properties(device).multi_processor_count * 2 if device.type == "cuda" else 2


@triton.jit
def _frame_peaks(  # type: ignore[no-untyped-def]
    frames, squared, per_patch, labels, centers, merged, count, dim, scale, resolution,
    PATCHES: tl.constexpr, WIDTH: tl.constexpr, NEIGHBORS: tl.constexpr, CLUSTERS: tl.constexpr,
    LARGEST: tl.constexpr, LEADERS: tl.constexpr, WEIGHTS: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    d2 = squared + program.to(tl.int64) * WIDTH * WIDTH
    j = tl.arange(0, WIDTH)
    f = tl.arange(0, FEATURES)
    real = j < PATCHES
    inf = float("inf")
    for frame in range(program, count, tl.num_programs(0)):
        at = tl.cast(frame, tl.int64) * PATCHES
        x = frames + at * dim
        raw = per_patch + at
        mean = raw + tl.cast(count, tl.int64) * PATCHES
        separation = mean + tl.cast(count, tl.int64) * PATCHES
        importance = separation + tl.cast(count, tl.int64) * PATCHES
        weights = importance + tl.cast(count, tl.int64) * PATCHES

        total = tl.zeros((WIDTH,), tl.float32)
        for c in range(0, dim, FEATURES):
            inside = real[:, None] & (c + f < dim)[None, :]
            total += tl.sum(tl.load(x + j[:, None] * dim + c + f[None, :], mask=inside, other=0.0).to(tl.float32), 1)
        finite = real & (tl.abs(total) < inf)
        number = tl.maximum(tl.sum(finite.to(tl.float32), 0), 1.0)

        # Eq. 1, a block of rows at a time: distances to all patches, then the mean of the k smallest.
        farthest = 0.0
        for r in range(WIDTH // ROWS):
            i = r * ROWS + tl.arange(0, ROWS)
            mine = tl.sum(tl.where((i[:, None] == j[None, :]) & finite[None, :], 1, 0), 1) > 0
            dot = tl.zeros((ROWS, WIDTH), tl.float32)
            norm = tl.zeros((WIDTH,), tl.float32)
            own = tl.zeros((ROWS,), tl.float32)
            for c in range(0, dim, FEATURES):
                cut = (c + f < dim)[None, :]
                b = tl.load(x + j[:, None] * dim + c + f[None, :], mask=finite[:, None] & cut, other=0.0)
                a = tl.load(x + i[:, None] * dim + c + f[None, :], mask=mine[:, None] & cut, other=0.0)
                middle = tl.sum(b.to(tl.float32), 0) / number
                b = tl.where(finite[:, None], b.to(tl.float32) - middle[None, :], 0.0)
                a = tl.where(mine[:, None], a.to(tl.float32) - middle[None, :], 0.0)
                norm += tl.sum(b * b, 1)
                own += tl.sum(a * a, 1)
                dot += tl.dot(a, tl.trans(b), input_precision="ieee")
            both = own[:, None] + norm[None, :]
            d = both - 2 * dot
            d = tl.where(d <= resolution * both, 0.0, d)
            d = tl.where(mine[:, None] & finite[None, :], d, inf)
            d = tl.where(i[:, None] == j[None, :], 0.0, d)
            tl.store(d2 + i[:, None] * WIDTH + j[None, :], d)
            farthest = tl.maximum(farthest, tl.max(tl.max(tl.where(d < inf, d, 0.0), 1), 0))
            found = tl.zeros((ROWS,), tl.int32)
            near = tl.zeros((ROWS,), tl.float32)
            for _ in range(NEIGHBORS):  # the next smallest value, however often it occurs
                least = tl.min(d, 1)
                equal = d == least[:, None]
                times = tl.minimum(tl.sum(equal.to(tl.int32), 1), NEIGHBORS - found)
                times = tl.where(least < inf, times, 0)
                near += tl.where(times > 0, least, 0.0) * times
                found += times
                d = tl.where(equal, inf, d)
            near = tl.where(mine, near / tl.maximum(found, 1), inf)
            tl.store(raw + i, near, mask=i < PATCHES)
        unit = scale
        if LARGEST:
            unit = 1.0 / tl.where(farthest > 0, farthest, 1.0)
        tl.debug_barrier()

        # Copies share the smallest mean among them.
        m = tl.load(raw + j, mask=real, other=inf) * unit
        for r in range(WIDTH // ROWS):
            i = r * ROWS + tl.arange(0, ROWS)
            d = tl.load(d2 + i[:, None] * WIDTH + j[None, :])
            tl.store(mean + i, tl.min(tl.where(d == 0, m[None, :], inf), 1), mask=i < PATCHES)
        tl.debug_barrier()

        # Eq. 2–4: the nearest that is denser, ties by index; for the densest its farthest.
        m = tl.load(mean + j, mask=real, other=inf)
        for r in range(WIDTH // ROWS):
            i = r * ROWS + tl.arange(0, ROWS)
            own = tl.load(mean + i, mask=i < PATCHES, other=inf)
            d = tl.load(d2 + i[:, None] * WIDTH + j[None, :])
            denser = (m[None, :] < own[:, None]) | ((m[None, :] == own[:, None]) & (j[None, :] < i[:, None]))
            denser = denser & real[None, :]
            first = tl.sum(denser.to(tl.int32), 1) == 0
            nearest = tl.min(tl.where(denser, d, inf), 1)
            delta = tl.where(first, tl.max(tl.where(d < inf, d, 0.0), 1), nearest) * unit
            delta = tl.where(own < inf, delta, 0.0)
            gamma = tl.where(delta > 0, 0.5 * tl.log(tl.where(delta > 0, delta, 1.0)) - own, -inf)
            tl.store(separation + i, delta, mask=i < PATCHES)
            tl.store(importance + i, gamma, mask=i < PATCHES)
        tl.debug_barrier()

        # The most important are centres, damaged patches last; every patch joins the nearest.
        gamma = tl.load(importance + j, mask=real, other=-inf)
        key = tl.where(finite, tl.maximum(gamma, -3e38), -inf)
        free = real
        best = tl.full((WIDTH,), inf, tl.float32)
        label = tl.zeros((WIDTH,), tl.int32)
        leads = tl.full((WIDTH,), -1, tl.int32)
        for rank in range(CLUSTERS):
            top = tl.max(tl.where(free, key, -inf), 0)
            center = tl.min(tl.where(free & (key == top), j, WIDTH), 0)
            free = free & (j != center)
            leads = tl.where(j == center, rank, leads)
            d = tl.load(d2 + center * WIDTH + j)
            label = tl.where(d < best, rank, label)
            best = tl.minimum(d, best)
            tl.store(centers + tl.cast(frame, tl.int64) * CLUSTERS + rank, center)
        label = tl.where(leads >= 0, leads, label)
        tl.store(labels + at + j, label, mask=real)

        # Eq. 5: the weight of every patch within its cluster, and the prototypes.
        weight = tl.zeros((WIDTH,), tl.float32)
        for rank in range(CLUSTERS):
            member = finite & (label == rank)
            share = tl.where(member, 1.0, 0.0)
            if WEIGHTS == 0:
                largest = tl.max(tl.where(member, gamma, -inf), 0)
                relative = tl.where(largest > -inf, gamma, 0.0) - tl.where(largest > -inf, largest, 0.0)
                share = tl.where(member, tl.exp(tl.where(member, relative, 0.0)), 0.0)
            if WEIGHTS == 2:
                share = tl.where(member & (leads >= 0), 1.0, 0.0)
            sum_of_shares = tl.sum(share, 0)
            weight += share / tl.where(sum_of_shares > 0, sum_of_shares, 1.0)
        tl.store(weights + j, weight, mask=real)
        lead = tl.arange(0, LEADERS)
        matrix = tl.where(lead[:, None] == label[None, :], weight[None, :], 0.0)
        rows = merged + tl.cast(frame, tl.int64) * CLUSTERS * dim
        for c in range(0, dim, FEATURES):
            cut = (c + f < dim)[None, :]
            b = tl.load(x + j[:, None] * dim + c + f[None, :], mask=finite[:, None] & cut, other=0.0).to(tl.float32)
            prototype = tl.dot(matrix, b, input_precision="ieee")
            tl.store(rows + lead[:, None] * dim + c + f[None, :], prototype, mask=(lead < CLUSTERS)[:, None] & cut)
        tl.debug_barrier()
