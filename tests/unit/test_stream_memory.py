from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from dynfocus_connector import stream_memory
from dynfocus_connector.stream_memory import HeldFrames, StreamMemory
from dynfocus_connector.stream_peaks import direct_distances
from tests.comparing import assert_close


def frames(values):
    """Frames of one pooled cell; the content row is the number of the frame in the list."""
    pooled = values.double()[:, None]
    count = len(values)
    return HeldFrames(
        patches=pooled,
        pooled=pooled,
        objects=pooled,
        center=torch.zeros(count, 1, dtype=torch.long),
        log_density=torch.zeros(count, 1).double(),
        content=torch.arange(count).double()[:, None].expand(-1, values.shape[1]),
        undamaged=torch.ones(count).double(),
    )


def part(held, rows):
    return HeldFrames(*(values[rows] for values in held))


def memory(values, bound=16, neighbors=3):
    """A memory that has seen frames of these features."""
    remembered = StreamMemory(bound, neighbors)
    everything, start = frames(values), 0
    while start < len(values):
        end = start + remembered.make_room()
        remembered.append(part(everything, slice(start, end)))
        start = end
    return remembered


def noise(count, dim=4, *, seed=0, scale=1.0):
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 20, 21, 200])
def test_bound_and_stretches(count):
    remembered = memory(noise(count))
    held = remembered.num_held
    assert remembered.num_seen == count
    assert held == (count if count <= 16 else 12 + (count - 17) % 4 + 1)
    assert remembered.is_whole == (count <= 16)
    first, last = remembered.spans().unbind(1)
    assert first[0] == 0
    assert last[-1] == count - 1
    assert torch.equal(first[1:], last[:-1] + 1)
    index = remembered.index[:held]
    assert ((first <= index) & (index <= last)).all()
    assert remembered.stands_for().sum() == count
    assert torch.equal(remembered.held().pooled[:, 0], noise(count)[index])


def test_bytes_do_not_grow():
    """4 tensors of width 4; density, count, 3 neighbours, 16 distances; 3 integers of each frame; and one scalar."""
    sizes = {memory(noise(count)).num_bytes for count in (1, 16, 17, 500)}
    assert sizes == {16 * 8 * (4 * 4 + 1 + 1 + 3 + 16 + 3) + 8}


def test_neighbours_that_left_are_not_forgotten():
    """Of a frame that saw every other one, all distances count; of later ones those that could still be seen."""
    values = noise(200, scale=0.1)
    values += 4 * noise(8, seed=1)[torch.arange(200) % 8]
    remembered = memory(values)
    remembered.most_separate(1)
    every = direct_distances(values, values).sort(1).values[:, :3]
    index = remembered.index[: remembered.num_held]
    early = index < 16
    assert early.sum() >= 2
    assert not early.all()
    assert_close(remembered.neighbors[: len(index)][early], every[index[early]], 1e-12)
    held_alone = direct_distances(values[index], values[index]).sort(1).values[:, :3]
    assert (remembered.neighbors[: len(index), 2] < held_alone[:, 2])[early].all()


def test_largest_distance_ever_is_remembered():
    values = noise(100, scale=0.01)
    values[3] += 5
    values[40] -= 5
    remembered = memory(values)
    remembered.most_separate(1)
    assert_close(remembered.largest, direct_distances(values, values).max(), 1e-12)


def test_distances_are_those_of_the_frames_held():
    values = noise(77)
    remembered = memory(values)
    remembered.most_separate(1)
    held = remembered.held().pooled.flatten(1)
    size = len(held)
    assert_close(remembered.distance[:size, :size], direct_distances(held, held), 1e-12)


def test_comparisons_are_spread_over_the_pushes(monkeypatch):
    """No push of one frame compares more than 16 new ones, and 16 share one reading of the frames held."""
    compared = []

    def record(points, others):
        compared.append(len(others))
        return direct_distances(points, others)

    monkeypatch.setattr(stream_memory, "direct_distances", record)
    remembered, everything = StreamMemory(64, 3), frames(noise(300))
    for row in range(300):
        remembered.make_room()
        remembered.append(part(everything, slice(row, row + 1)))
    assert set(compared) == {16}
    assert sum(compared) == 288


def test_single_frames_far_from_everything_stay():
    values = noise(300, scale=0.05)
    for place in (2, 50, 51, 180, 299):
        values[place] += noise(1, seed=place)[0] * 4
    index = memory(values).index[:16].tolist()
    assert {2, 50, 51, 180, 299} <= set(index)


def test_the_content_of_a_stretch_is_the_mean_of_its_frames():
    remembered = memory(noise(90))
    expected = remembered.spans().double().mean(1)
    assert_close(remembered.held().mean_content()[:, 0], expected, 1e-12)


def test_damaged_frames_leave_first():
    values = noise(60)
    values[::3] = math.nan
    remembered = memory(values)
    kept = remembered.index[:12]
    assert (kept % 3 != 0).all()
    assert remembered.neighbors[:12].isfinite().all()
    assert remembered.largest.isfinite()


def test_nothing_but_damaged_frames():
    remembered = memory(torch.full((50, 4), math.nan))
    assert remembered.spans()[-1, 1] == 49
    assert remembered.peaks(torch.arange(5), 3, "max").centers.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alone(copied):
    values = noise(120)
    original = memory(values[:70])
    other = copied(original)
    before = original.index.clone()
    later = frames(values[70:])
    start = 0
    while start < 50:
        end = start + other.make_room()
        other.append(part(later, slice(start, end)))
        start = end
    assert torch.equal(original.index, before)
    assert torch.equal(other.index[: other.num_held], memory(values).index[: other.num_held])
