from __future__ import annotations

import pytest
import torch

from dynfocus_connector.anchors import cell_centers, cone_anchors, rod_anchors, spread_anchors
from dynfocus_connector.merging import SpatialMerging
from tests.reference.spatial import spread_anchors as reference


def test_by_hand():
    assert spread_anchors(torch.tensor([4, 4, 4, 0]), (3, 3)).tolist() == [4, 1, 3, 0]


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (4, 4)])
def test_oracle(grid):
    wanted = torch.randint(0, grid[0] * grid[1], (6, 9), generator=torch.Generator().manual_seed(0))
    spread = spread_anchors(wanted, grid)
    for row, expected in zip(spread.tolist(), wanted.tolist(), strict=True):
        assert row == reference(expected, grid)


@pytest.mark.parametrize(
    ("grid", "cells", "expected"),
    [((4, 4), 2, [5, 7, 13, 15]), ((3, 3), 1, [4]), ((1, 1), 1, [0]), ((2, 2), 4, [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2)],
)
def test_cell_centers(grid, cells, expected):
    assert cell_centers(grid, cells, torch.device("cpu")).tolist() == expected


def test_cones_sit_in_their_cells_and_at_their_peaks():
    anchors = cone_anchors(torch.tensor([[[0, 10, 5]]]), (4, 4), 2, 7)
    assert anchors.tolist() == [[[5, 7, 13, 15, 0, 10, 1]]]


def test_rods_sit_in_the_middle_and_at_the_densest_patch():
    spatial = SpatialMerging(
        torch.zeros(1, 1, 1, 9, dtype=torch.long),
        torch.zeros(1, 1, 1, 9),
        center=torch.tensor([[[8, 2]]]),
        log_density=torch.tensor([[[-3.0, -1.0]]]),
    )
    assert rod_anchors(spatial, (3, 3), 2).tolist() == [[[4, 2]]]


def test_rows_beyond_the_patches_are_padded():
    assert cone_anchors(torch.tensor([[[0, 1]]]), (1, 2), 1, 3).shape == (1, 1, 3)
