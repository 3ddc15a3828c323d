from __future__ import annotations

import pytest
import torch

from dynfocus_connector.pooling import cell_weights, pool_cells, resolve_grid
from tests.comparing import assert_close
from tests.reference.prototypes import pool_cells as reference

SHAPES = [((4, 4), 2), ((16, 16), 4), ((5, 7), 2), ((3, 2), 4), ((1, 1), 1), ((6, 9), 3), ((2, 2), 1), ((7, 5), 4)]


def test_by_hand():
    frames = torch.arange(16.0).view(1, 1, 16, 1)
    assert pool_cells(frames, (4, 4), 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_cells(frames, (4, 4), 1).flatten().tolist() == [7.5]


@pytest.mark.parametrize(("grid", "cells"), SHAPES)
def test_oracle_and_matrix(grid, cells):
    frames = torch.randn(2, 3, grid[0] * grid[1], 4, dtype=torch.float64)
    pooled = pool_cells(frames, grid, cells)
    for b in range(2):
        for t in range(3):
            assert_close(pooled[b, t], reference(frames[b, t].numpy(), grid, cells))
    weights = cell_weights(grid, cells, dtype=torch.float64)
    assert_close(weights @ frames, pooled)
    assert_close(weights.sum(1), torch.ones(cells**2))


@pytest.mark.parametrize(("grid", "cells"), SHAPES)
def test_adaptive_pooling_of_torch(grid, cells):
    frames = torch.randn(1, 1, grid[0] * grid[1], 3, dtype=torch.float64)
    picture = frames[0, 0].T.reshape(1, 3, *grid)
    expected = torch.nn.functional.adaptive_avg_pool2d(picture, cells).flatten(2)[0].T
    assert_close(pool_cells(frames, grid, cells)[0, 0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("grid", [(4, 4), (2, 8), (3, 5)])
def test_dtype_in_is_dtype_out(dtype, grid):
    assert pool_cells(torch.randn(1, 1, grid[0] * grid[1], 2).to(dtype), grid, 2).dtype == dtype


@pytest.mark.parametrize(("grid", "cells"), [((4, 4), 2), ((3, 5), 2)])
def test_gradient(grid, cells):
    frames = torch.randn(1, 1, grid[0] * grid[1], 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pool_cells(x, grid, cells), frames)


def test_resolve_grid():
    assert resolve_grid(256, None) == (16, 16)
    assert resolve_grid(6, (2, 3)) == (2, 3)
