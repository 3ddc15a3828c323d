from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynfocus_connector import density_peaks
from tests.comparing import assert_close, assert_same_centers
from tests.reference.density_peaks import density_peaks as reference


def assert_agrees(points, num_clusters, num_neighbors, mask=None, distance_scale=1.0):
    peaks = density_peaks(points, num_clusters, num_neighbors, mask=mask, distance_scale=distance_scale)
    for b in range(len(points)):
        row_mask = None if mask is None else mask[b].numpy()
        expected = reference(
            points[b].double().numpy(), num_clusters, num_neighbors, mask=row_mask, distance_scale=distance_scale
        )
        assert_close(peaks.log_density[b], expected.log_density, 1e-6, 1e-9)
        assert_close(peaks.separation[b], expected.separation, 1e-6, 1e-9)
        assert_close(peaks.log_importance[b], expected.log_importance, 1e-6, 1e-6)
        count = len(expected.centers)
        assert_same_centers(peaks.centers[b, :count], expected.centers, expected.log_importance)
        assert (peaks.centers[b, count:] == -1).all()
        assert peaks.assignment[b].tolist() == expected.assignment.tolist()


def test_by_hand():
    """Three points 0, 1, 5 with k = 2: m = 1/2, 1/2, 8; the tie goes to index 0."""
    peaks = density_peaks(torch.tensor([[[0.0], [1.0], [5.0]]]), 2, 2)
    assert_close(peaks.log_density, [[-0.5, -0.5, -8.0]], 1e-6)
    assert_close(peaks.separation, [[5.0, 1.0, 4.0]], 1e-6)
    assert_close(peaks.log_importance, [[math.log(5) - 0.5, -0.5, math.log(4) - 8]], 1e-6)
    assert peaks.centers.tolist() == [[0, 1]]
    assert peaks.assignment.tolist() == [[0, 1, 1]]


def test_distance_is_divided_by_the_root_of_the_width():
    narrow = density_peaks(torch.tensor([[[0.0], [3.0]]]), 1, 1)
    wide = density_peaks(torch.tensor([[[0.0] * 9, [3.0] * 9]]), 1, 1)
    assert_close(narrow.separation, [[3.0, 3.0]], 1e-6)
    assert_close(wide.separation, narrow.separation, 1e-6)


def test_densest_point_has_its_own_largest_distance():
    """The authors give it the largest of all pairs, here 10."""
    peaks = density_peaks(torch.tensor([[[-5.0], [0.0], [0.1], [5.0]]]), 1, 2)
    densest = int(peaks.log_density.argmax())
    assert densest == 1
    assert_close(peaks.separation[0, densest], 5.0, 1e-6)


@pytest.mark.parametrize("distance_scale", [1.0, 2.5, "max"])
@pytest.mark.parametrize(("n", "clusters", "neighbors"), [(12, 4, 3), (12, 12, 5), (5, 9, 40), (1, 1, 1), (2, 1, 8)])
def test_oracle(n, clusters, neighbors, distance_scale):
    generator = torch.Generator().manual_seed(n)
    points = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
    assert_agrees(points, clusters, neighbors, distance_scale=distance_scale)


@pytest.mark.parametrize("distance_scale", [1.0, "max"])
def test_oracle_with_mask_duplicates_and_damage(distance_scale):
    points = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = torch.ones(4, 10, dtype=torch.bool)
    mask[0, [0, 4, 9]] = False
    points[1, 3:7] = points[1, 2]
    points[2, 1] = torch.nan
    points[2, 5, 0] = torch.inf
    mask[3] = False
    assert_agrees(points, 4, 3, mask, distance_scale)


def test_masked_out_everywhere():
    peaks = density_peaks(torch.randn(1, 3, 2), 2, 2, mask=torch.zeros(1, 3, dtype=torch.bool))
    assert peaks.centers.tolist() == [[-1, -1]]
    assert peaks.assignment.tolist() == [[-1, -1, -1]]


def test_fewer_points_than_clusters():
    mask = torch.tensor([[True, False, True, False]])
    peaks = density_peaks(torch.randn(1, 4, 2), 4, 2, mask=mask)
    assert sorted(peaks.centers[0, :2].tolist()) == [0, 2]
    assert peaks.centers[0, 2:].tolist() == [-1, -1]


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_points_give_the_first_indices(value):
    peaks = density_peaks(torch.full((1, 6, 3), value), 3, 4)
    assert peaks.centers.tolist() == [[0, 1, 2]]
    assert peaks.assignment.tolist() == [[0, 1, 2, 0, 0, 0]]
    assert (peaks.log_density == 0).all()
    assert (peaks.separation == 0).all()


def test_large_norms_do_not_underflow():
    """rho = exp(-1e6) is 0 in any float; the order of the frames survives in the logarithm."""
    points = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0)) * 1e3
    peaks = density_peaks(points, 5, 4)
    assert peaks.log_importance.isfinite().all()
    assert peaks.log_importance.unique().numel() == 20


def test_near_duplicates_far_from_the_origin():
    """A float32 Gram matrix has no digit of these distances right."""
    offsets = torch.tensor([0.0, 1e-3, 3e-3, 0.5])[:, None]
    points = (100 + offsets.double()).expand(4, 8)[None]
    expected = reference(points[0].numpy(), 2, 2)
    peaks = density_peaks(points, 2, 2)
    assert peaks.centers[0].tolist() == expected.centers.tolist()
    assert_close(peaks.separation[0], expected.separation, 1e-6)


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
def test_a_damaged_point_changes_nothing_else(damage):
    points = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(1))
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    damaged = points.clone()
    damaged[0, 4, 1] = damage
    without, with_it = density_peaks(points[:, others], 3, 3), density_peaks(damaged, 3, 3)
    assert_close(with_it.log_importance[:, others], without.log_importance)
    assert with_it.centers.tolist() == [[others[i] for i in without.centers[0]]]
    assert with_it.log_importance[0, 4] == -math.inf


def test_damaged_points_are_the_last_choice_but_a_choice():
    points = torch.tensor([[[math.nan], [0.0], [0.0]]])
    assert density_peaks(points, 3, 2).centers.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype):
    points = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    peaks = density_peaks(points, 3, 3)
    exact = density_peaks(points.double(), 3, 3)
    assert peaks.log_importance.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(peaks.centers, exact.centers)
    assert torch.equal(peaks.assignment, exact.assignment)


def scenes(noise, size=160, dim=300):
    """Scenes of twenty frames in any order."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(size // 20, dim, generator=generator).repeat_interleave(20, 0)
    frames = places + noise * torch.randn(size, dim, generator=generator)
    return frames[torch.randperm(size, generator=generator)]


def slow_pan(size=160, dim=300):
    """Neighbouring frames nearly equal, the ends far apart."""
    generator = torch.Generator().manual_seed(1)
    start, end, grain = torch.randn(3, size, dim, generator=generator)
    angle = torch.linspace(0, 1.5, size)[:, None]
    return start[:1] * angle.cos() + end[:1] * angle.sin() + 1e-4 * grain


FOOTAGE = {f"noise {noise}": scenes(noise) for noise in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)}
FOOTAGE |= {"pan": slow_pan(), "pan among scenes": torch.cat([slow_pan(80), scenes(1e-2, 80)])}


@pytest.mark.parametrize("longest", [2048, 50])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("footage", FOOTAGE)
def test_near_static_video_and_slow_pans_have_the_centers_of_float64(monkeypatch, footage, scale, longest):
    """Wide float32 features, where Gram matrices are computed in float32; with a matrix and in tiles."""
    monkeypatch.setattr("dynfocus_connector.peaks.LONGEST_MATRIX", longest)
    points = (FOOTAGE[footage] * scale).float()
    ours, expected = density_peaks(points[None], 8, 5), reference(points.double().numpy(), 8, 5)
    assert_same_centers(ours.centers[0], expected.centers, expected.log_importance)
    assert ours.assignment[0].tolist() == expected.assignment.tolist()
    assert_close(ours.log_importance[0], expected.log_importance, 1e-4, 1e-5)


def test_no_gradient():
    assert not density_peaks(torch.randn(1, 4, 2, requires_grad=True), 2, 2).log_importance.requires_grad


def test_given_centers():
    points = torch.tensor([[[0.0], [1.0], [5.0], [6.0]]])
    peaks = density_peaks(points, 2, 2, centers=torch.tensor([[3, 1]]))
    assert peaks.centers.tolist() == [[3, 1]]
    assert peaks.assignment.tolist() == [[1, 1, 0, 0]]


def test_reference_is_what_it_says():
    """The oracle itself, by hand: d = |x_i - x_j|, k = 1 counts only the point itself."""
    peaks = reference(np.array([[0.0], [2.0]]), 1, 1)
    assert peaks.log_density.tolist() == [0.0, 0.0]
    assert peaks.separation.tolist() == [2.0, 2.0]
    assert peaks.centers.tolist() == [0]
