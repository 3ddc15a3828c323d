"""Gram matrices in mixed precision against direct differences in float64."""

from __future__ import annotations

import pytest
import torch

from dynfocus_connector.distances import CLOSE, NARROW, finite_points, needs_float64, squared_distances
from tests.comparing import assert_close

WIDE = NARROW + 44


def direct(points):
    x = points.double()
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def every(points):
    return torch.ones(points.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "dim"), [(1, WIDE), (3, WIDE), (70, WIDE), (300, WIDE), (40, 4)])
def test_relative_error(size, dim, dtype):
    points = normal(2, size, dim, dtype=dtype)
    distance = squared_distances(points, every(points))
    assert distance.dtype == (torch.float32 if dim == WIDE else torch.float64)
    assert_close(distance, direct(points), 2e-6, 0.0)


@pytest.mark.parametrize("noise", [1e-4, 1e-3, 1e-2, 3e-2, 1e-1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_near_duplicates_anywhere(noise, scale):
    """Pairs 2j, 2j + 1 nearly coincide, far from the mean: float32 alone is off by up to 100 %."""
    places = normal(1, 75, WIDE).repeat_interleave(2, 1)
    points = scale * (places + noise * normal(1, 150, WIDE, seed=1))[:, torch.randperm(150)]
    assert_close(squared_distances(points, every(points)), direct(points), 1e-4, 0.0)


def test_float32_alone_would_not_do():
    """The remedy is needed: without it the same distances have no digit."""
    points = (normal(1, 75, WIDE).repeat_interleave(2, 1) + 1e-4 * normal(1, 150, WIDE, seed=1)).float()
    norm = points.square().sum(-1)
    plain = norm[:, :, None] + norm[:, None] - 2 * points @ points.mT
    pair = torch.arange(0, 150, 2)
    exact = direct(points)[0, pair, pair + 1]
    assert (plain[0, pair, pair + 1] / exact - 1).abs().max() > 0.1
    assert (squared_distances(points, every(points))[0, pair, pair + 1] / exact - 1).abs().max() < 1e-5


def test_only_close_tiles_are_computed_again():
    """Tiles without a close pair keep their float32 numbers to the bit."""
    points = normal(1, 200, WIDE)
    plain = squared_distances(points, every(points))
    points[0, 199] = points[0, 198] * (1 + CLOSE / 2)
    again = squared_distances(points, every(points))
    assert again[0, 198, 199] > 0
    assert_close(again[0, 198, 199], direct(points)[0, 198, 199], 1e-5)
    assert_close(again[0, :100, :100], plain[0, :100, :100], 1e-5)


def test_exact_copies_are_at_distance_zero():
    points = normal(1, 90, WIDE).repeat(1, 3, 1)
    distance = squared_distances(points, every(points))[0]
    index = torch.arange(270)
    assert torch.equal(distance == 0, (index[:, None] - index) % 90 == 0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_points(value):
    points = torch.full((1, 130, WIDE), value)
    assert (squared_distances(points, every(points)) == 0).all()


@pytest.mark.parametrize("dim", [3, WIDE])
def test_what_is_not_finite_is_infinitely_far(dim):
    points, finite = normal(2, 80, dim), torch.ones(2, 80, dtype=torch.bool)
    points[0, 5], finite[0, 5] = torch.nan, False
    points[1, 9, 0], finite[1, 9] = torch.inf, False
    finite[1, 60:] = False
    distance = squared_distances(points, finite)
    expected = direct(points).masked_fill(~(finite[:, :, None] & finite[:, None]), torch.inf)
    expected.diagonal(dim1=1, dim2=2).zero_()
    assert_close(distance, expected, 1e-5, 0.0)


def test_finite_points():
    points = torch.tensor([[1.0, 2.0], [torch.inf, -torch.inf], [torch.nan, 0.0], [torch.inf, 1.0]])
    assert finite_points(points).tolist() == [True, False, False, False]
    assert finite_points(torch.full((1, 4), 60000.0, dtype=torch.float16)).all()


def test_where_float64_is_used():
    assert needs_float64(normal(1, 2, WIDE).double())
    assert needs_float64(normal(1, 2, NARROW - 1))
    assert not needs_float64(normal(1, 2, NARROW))
