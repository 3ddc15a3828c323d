from __future__ import annotations

import math

import pytest
import torch

from dynfocus_connector import DensityPeaks, density_peaks, merge_prototypes
from dynfocus_connector.prototypes import member_weights
from tests.comparing import assert_close
from tests.reference import prototypes as reference

WEIGHTS = ["importance", "uniform", "centers"]


def peaks_of(log_importance, centers, assignment):
    return DensityPeaks(None, None, torch.tensor([log_importance]), torch.tensor([centers]), torch.tensor([assignment]))


@pytest.mark.parametrize(
    ("weights", "expected"), [("importance", [[2.5], [9.0]]), ("uniform", [[2.0], [8.0]]), ("centers", [[3.0], [9.0]])]
)
def test_by_hand(weights, expected):
    """Cluster 0 holds 1 and 3 with gamma 1 : 3, cluster 1 holds 9 and a copy of gamma 0 at 7."""
    points = torch.tensor([[[1.0], [3.0], [9.0], [7.0]]])
    peaks = peaks_of([0.0, math.log(3), 0.0, -math.inf], [1, 2], [0, 0, 1, 1])
    assert_close(merge_prototypes(points, peaks, weights=weights)[0], expected, 1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("clusters", [1, 3, 12])
def test_oracle(weights, clusters):
    points = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, [0, 7]] = False
    points[0, 3] = torch.nan
    points[1, 4:6] = points[1, 3]
    peaks = density_peaks(points, clusters, 3, mask=mask)
    merged = merge_prototypes(points, peaks, weights=weights)
    for b in range(2):
        label = peaks.assignment[b].numpy()
        usable = points[b].isfinite().all(-1).numpy()
        share = reference.member_weights(
            peaks.log_importance[b].numpy(), label, peaks.centers[b].numpy(), usable & (label >= 0), weights
        )
        assert_close(merged[b], reference.merge(points[b].numpy(), label, share, clusters))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_gradient(weights):
    points = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    peaks = density_peaks(points, 2, 3)
    assert torch.autograd.gradcheck(lambda x: merge_prototypes(x, peaks, weights=weights), points)


def test_copies_count_alike():
    """All gamma are 0: equal weights."""
    points = torch.tensor([[[1.0], [2.0]]])
    peaks = peaks_of([-math.inf, -math.inf], [0], [0, 0])
    assert_close(merge_prototypes(points, peaks), [[[1.5]]])


def test_no_scale_underflows():
    """gamma = exp(-1000) and exp(-1001) still weigh e : 1."""
    points = torch.tensor([[[1.0], [0.0]]])
    peaks = peaks_of([-1000.0, -1001.0], [0], [0, 0])
    assert_close(merge_prototypes(points, peaks), [[[math.e / (math.e + 1)]]], 1e-6)


def test_missing_cluster_is_zero():
    peaks = peaks_of([0.0, 0.0], [0, -1], [0, -1])
    assert merge_prototypes(torch.ones(1, 2, 1), peaks).tolist() == [[[1.0], [0.0]]]


@pytest.mark.parametrize("damage", [math.nan, math.inf])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_damage_stays_where_it_is(damage, weights):
    points = torch.tensor([[[1.0], [3.0], [damage]]])
    peaks = peaks_of([0.0, 0.0, 0.0], [0], [0, 0, 0])
    assert merge_prototypes(points, peaks, weights=weights).isfinite().all()


def test_shares_sum_to_one():
    points = torch.randn(2, 9, 4)
    peaks = density_peaks(points, 3, 3)
    for weights in WEIGHTS:
        share = member_weights(
            peaks.log_importance, peaks.assignment, peaks.centers, points.isfinite().all(-1), weights
        )
        assert_close(torch.zeros(2, 3).scatter_add(1, peaks.assignment, share), torch.ones(2, 3), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_in_is_dtype_out(dtype):
    points = torch.randn(1, 5, 2).to(dtype)
    assert merge_prototypes(points, density_peaks(points, 2, 2)).dtype == dtype


def test_bfloat16_sums_do_not_stall():
    """A thousand equal frames have their own value as mean; a running sum in bfloat16 would stop short of it."""
    points = torch.full((1, 1000, 4), 3.0, dtype=torch.bfloat16)
    peaks = density_peaks(points, 1, 3)
    assert_close(merge_prototypes(points, peaks, weights="uniform"), torch.full((1, 1, 4), 3.0), 1e-2)
