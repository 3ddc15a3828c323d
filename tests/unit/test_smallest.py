from __future__ import annotations

import pytest
import torch

from dynfocus_connector.smallest import smallest


@pytest.mark.parametrize("points", [1, 2, 7, 8, 9, 16, 17, 100, 256, 300])
@pytest.mark.parametrize("k", [1, 3, 8, 11])
def test_sorted_and_cut(points, k):
    k = min(k, points)
    values = torch.randint(0, 40, (3, points, 5), generator=torch.Generator().manual_seed(points)).float()
    values[0, points // 2 :] = torch.inf
    assert torch.equal(smallest(values, k), values.sort(dim=1).values[:, :k])


def test_every_order_of_zeros_and_ones():
    """A network that sorts all of these sorts everything (Knuth's zero-one principle)."""
    for points in (8, 13):
        columns = torch.arange(2**points)
        values = ((columns >> torch.arange(points)[:, None]) & 1)[None].float()
        assert torch.equal(smallest(values, 8), values.sort(dim=1).values[:, :8])
