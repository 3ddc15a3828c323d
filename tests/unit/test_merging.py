from __future__ import annotations

import torch

from dynfocus_connector.merging import (
    KnownSums,
    Merging,
    SpatialMerging,
    gather_rows,
    merge_members,
    take_frames,
    weighted_members,
)
from tests.comparing import assert_close


def test_merge_members_by_hand():
    points = torch.tensor([[1.0, 10.0], [3.0, 30.0], [torch.nan, 0.0]])
    merged = merge_members(points, torch.tensor([1, 1, 0]), torch.tensor([0.25, 0.75, 0.0]), 2)
    assert merged.tolist() == [[0.0, 0.0], [2.5, 25.0]]


def test_spatial_merging_by_hand():
    """Two levels over three patches: {0, 1}, {2}; then everything."""
    merging = SpatialMerging(
        row=torch.tensor([[[[0, 0, 1], [2, 2, 2]]]]),
        weight=torch.tensor([[[[0.5, 0.5, 1.0], [0.2, 0.2, 0.6]]]]),
        center=torch.tensor([[[0, 2, 2]]]),
        log_density=torch.zeros(1, 1, 3),
    )
    assert_close(merging.merge(torch.tensor([[[[1.0], [3.0], [5.0]]]]))[0, 0, :, 0], [2.0, 5.0, 3.8], 1e-6)
    assert merging.row_mask.all()


def test_gradient():
    row, weight = torch.randint(0, 3, (1, 2, 2, 5)), torch.rand(1, 2, 2, 5, dtype=torch.float64)
    merging = SpatialMerging(row, weight, torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 2, 3))
    frames = torch.randn(1, 2, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(merging.merge, frames)


def test_take_frames_and_padding():
    values = torch.arange(6).view(1, 3, 2)
    assert take_frames(values, torch.tensor([[2, -1]])).tolist() == [[[4, 5], [0, 0]]]


def test_gather_rows():
    cones, rods = torch.tensor([[[[1.0], [2.0]]]]), torch.tensor([[[[3.0]], [[4.0]]]])
    assert gather_rows(cones, rods, torch.tensor([3, 0, 2])).flatten().tolist() == [4.0, 1.0, 3.0]


def test_everything_is_the_patches():
    features = torch.randn(2, 3, 4, 5)
    merging = Merging.everything(2, 3, 4, features.device)
    assert torch.equal(merging.pool(features), features.flatten(0, 2))


def test_known_sums_have_the_gradient_of_the_sums():
    """Padding and damage included: where the weight is 0 nothing flows."""
    points = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    points[0, 2] = torch.nan
    assignment = torch.tensor([[0, 1, 1, 2, 0, 1, -1], [2, 2, 0, 1, 1, 0, 2]])
    weight = torch.rand(2, 7, generator=torch.Generator().manual_seed(1))
    weight[0, [2, 6]] = 0
    results = []
    for known in (True, False):
        points = points.detach().requires_grad_()
        sums = weighted_members(points, assignment, weight, 3)
        sums = KnownSums.apply(points, assignment, weight, sums.detach()) if known else sums
        (sums * torch.arange(3.0)).sum().backward()
        results.append((sums, points.grad))
    for one, other in zip(*results, strict=True):
        assert_close(one, other, 1e-6)
