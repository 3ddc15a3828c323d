from __future__ import annotations

import itertools
import math

import pytest
import torch

from dynfocus_connector import density_peaks
from dynfocus_connector.stream_peaks import direct_distances, heirs, k_smallest, peaks_of_held
from tests.comparing import assert_close


def points(n=12, *, seed=0, dim=5):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peaks_of(x, clusters=4, neighbors=3, scale=1.0):
    """Everything held, everything compared at once."""
    distance = direct_distances(x, x)
    near = k_smallest(distance, neighbors)
    largest = distance.masked_fill(distance.isinf(), 0).amax()
    return peaks_of_held(distance, near, largest, clusters, scale, torch.float64)


def test_distances_are_those_of_the_differences():
    x, y = points(130), points(7, seed=1)
    expected = (x[:, None] - y[None]).square().sum(-1) / 5
    assert_close(direct_distances(x, y), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_copies_far_from_the_origin_are_copies(dtype):
    x = (points(6) + 300).to(dtype)
    distance = direct_distances(x, x)
    assert distance.dtype == torch.float64
    assert (distance.diagonal() == 0).all()
    assert_close(distance, direct_distances(x.double(), x.double()), 0, 0)


def test_damaged_points_are_infinitely_far():
    x = points(4)
    x[1, 2], x[2, 0] = math.nan, math.inf
    distance = direct_distances(x, x)
    assert distance[1].isinf().all()
    assert distance[:, 2].isinf().all()
    assert distance[0, 3].isfinite()


@pytest.mark.parametrize("k", [1, 3, 8, 11])
def test_k_smallest_or_as_many_as_there_are(k):
    distance = torch.rand(5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    padded = torch.nn.functional.pad(distance.sort(1).values, (0, 3), value=torch.inf)
    assert_close(k_smallest(distance, k), padded[:, :k], 0, 0)


class TestEverythingHeld:
    """Where no frame has left, the stream's density peaks are those of `density_peaks`."""

    @pytest.mark.parametrize("scale", [1.0, 0.3, "max"])
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("kind", ["plain", "copies", "damaged", "constant", "one"])
    def test_same_peaks(self, kind, seed, scale):
        x = points(1 if kind == "one" else 12, seed=seed)
        if kind == "copies":
            x[4:7] = x[3]
        if kind == "damaged":
            x[seed], x[9, 1] = math.nan, math.inf
        if kind == "constant":
            x[:] = 0.1
        ours, expected = peaks_of(x, scale=scale), density_peaks(x[None], 4, 3, distance_scale=scale)
        assert torch.equal(ours.centers, expected.centers)
        assert torch.equal(ours.assignment, expected.assignment)
        assert_close(ours.log_importance, expected.log_importance, 1e-9)
        assert_close(ours.separation, expected.separation, 1e-9)


class TestHeirs:
    @staticmethod
    def brute_force(distance, keep):
        """Every way to cut every gap; the cheapest, of equals the one that gives the first kept frame least."""
        kept = keep.nonzero()[:, 0].tolist()
        heir = [0] * len(keep)
        for number, (a, b) in enumerate(itertools.pairwise([*kept, len(keep)])):
            heir[a:] = [number] * (len(keep) - a)
            if b == len(keep):
                break
            costs = [distance[a + 1 : cut, a].sum() + distance[cut:b, b].sum() for cut in range(a + 1, b + 1)]
            cut = a + 1 + int(torch.stack(costs).argmin())
            heir[cut:b] = [number + 1] * (b - cut)
        return heir

    @pytest.mark.parametrize("seed", range(20))
    def test_cheapest_cut(self, seed):
        generator = torch.Generator().manual_seed(seed)
        distance = torch.rand(15, 15, generator=generator, dtype=torch.float64)
        keep = torch.rand(15, generator=generator) < 0.4
        keep[seed % 15] = True
        assert heirs(distance, keep).tolist() == self.brute_force(distance, keep)

    def test_the_first_and_the_last_inherit_what_lies_beyond(self):
        keep = torch.tensor([False, False, True, False, True, False])
        assert heirs(torch.ones(6, 6).double(), keep).tolist() == [0, 0, 0, 1, 1, 1]

    def test_damaged_frames_spoil_no_later_cut(self):
        x = torch.tensor([0.0, math.nan, 1.0, 10.0, 10.3, 11.0, 15.0, 20.0], dtype=torch.float64)[:, None]
        keep = torch.tensor([True, False, False, True, False, False, False, True])
        damaged = heirs(direct_distances(x, x), keep)
        x[1] = 0.5
        assert damaged.tolist()[2:] == heirs(direct_distances(x, x), keep).tolist()[2:] == [0, 1, 1, 1, 2, 2]
