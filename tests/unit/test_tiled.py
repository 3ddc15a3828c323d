"""Sets without a matrix of all distances give what sets with one give."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dynfocus_connector import density_peaks, peaks
from dynfocus_connector import tiled as tiled_module
from dynfocus_connector.tiled import Neighbors, TiledDistances, tiled_separation
from tests.comparing import assert_close

SHAPES = [(700, 4, torch.float64), (700, 4, torch.float32), (700, 300, torch.float32), (700, 300, torch.bfloat16)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def footage(size, dim, dtype, *, noise=0.2):
    """Scenes of ten frames in time order."""
    return (normal(1, size // 10, dim).repeat_interleave(10, 1) + noise * normal(1, size, dim, seed=1)).to(dtype)


def mask_of(points):
    return torch.ones(points.shape[:2], dtype=torch.bool)


def both(monkeypatch, points, *arguments, **options):
    dense = density_peaks(points, *arguments, **options)
    monkeypatch.setattr(peaks, "LONGEST_MATRIX", 2)
    monkeypatch.setattr(tiled_module, "NUMBERS_PER_BLOCK", 1)
    assert TiledDistances(points[0], mask_of(points)[0]).step == 256
    tiled = density_peaks(points, *arguments, **options)
    monkeypatch.undo()
    return dense, tiled


def assert_same_peaks(dense, tiled):
    assert torch.equal(dense.centers, tiled.centers)
    assert torch.equal(dense.assignment, tiled.assignment)
    for one, other in zip(dense[:3], tiled[:3], strict=True):
        assert one.dtype == other.dtype
        assert_close(one, other, 1e-5, 1e-6)


@pytest.mark.parametrize(("size", "dim", "dtype"), SHAPES)
@pytest.mark.parametrize("scale", [1.0, "max"])
def test_same_as_dense(monkeypatch, size, dim, dtype, scale):
    points = footage(size, dim, dtype)
    assert_same_peaks(*both(monkeypatch, points, 40, 5, distance_scale=scale))


@pytest.mark.parametrize(("size", "dim", "dtype"), SHAPES)
def test_with_damage_padding_and_copies(monkeypatch, size, dim, dtype):
    points, mask = footage(size, dim, dtype).repeat(2, 1, 1), torch.ones(2, size, dtype=torch.bool)
    points[0, 3, 1] = torch.nan
    points[0, 650:] = points[0, 20]
    points[1, 100:120] = points[1, 500:520]
    mask[1, 300:310], mask[1, -5:] = False, False
    assert_same_peaks(*both(monkeypatch, points, 30, 4, mask=mask, distance_scale="max"))


@pytest.mark.parametrize("size", [1, 3, 257])
def test_small_constant_and_empty_sets(monkeypatch, size):
    for points in (torch.ones(1, size, 5), torch.zeros(1, size, 300)):
        for mask in (torch.ones(1, size, dtype=torch.bool), torch.zeros(1, size, dtype=torch.bool)):
            assert_same_peaks(*both(monkeypatch, points, 4, 3, mask=mask))


def test_given_centers(monkeypatch):
    centers = torch.tensor([[600, 3, 77, -1]])
    assert_same_peaks(*both(monkeypatch, footage(700, 300, torch.float32), 4, 5, centers=centers))


def test_near_static_video(monkeypatch):
    points = footage(600, 300, torch.float32, noise=1e-3)
    dense, tiled = both(monkeypatch, points, 60, 5)
    assert_same_peaks(dense, tiled)
    assert torch.equal(dense.centers, density_peaks(points.double(), 60, 5).centers)


def test_most_points_need_no_look_at_the_others():
    """Only local peaks are compared with all points of higher rank: few in a video of scenes."""
    points = footage(900, 300, torch.float32)[0]
    tiles = TiledDistances(points, torch.ones(900, dtype=torch.bool))
    neighbors = Neighbors(tiles, 5)
    rank = neighbors.mean(torch.ones(900, dtype=torch.bool)).argsort().argsort()
    asked, tile = [], tiles.tile
    tiles.tile = lambda a, b: asked.append(len(a.ids) * len(b.ids)) or tile(a, b)
    tiled_separation(tiles, neighbors, rank)
    assert 0 < sum(asked) < 900 * 900 / 4


MEMORY = """
import resource, torch
from dynfocus_connector import density_peaks
torch.set_num_threads(1)
points = torch.empty(1, {frames}, {dim}).normal_(generator=torch.Generator().manual_seed(0))
density_peaks(points[:, :{warm}], 20, 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
density_peaks(points, 20, 5)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def extra_memory(frames, dim, warm):
    """Mebibytes that a fresh process takes beyond the features and a warm-up."""
    code = MEMORY.format(frames=frames, dim=dim, warm=warm)
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_memory_is_linear():
    """A matrix of all distances would take 256 MiB."""
    assert extra_memory(8192, 64, 500) < 60


@pytest.mark.slow
def test_a_hundred_thousand_frames():
    """A matrix of all distances would take 38 GiB."""
    assert extra_memory(100_000, 64, 500) < 300
