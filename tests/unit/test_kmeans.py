from __future__ import annotations

import math

import pytest
import torch

from dynfocus_connector import kmeans, weighted_kmeans
from dynfocus_connector.kmeans import Seeding
from tests.comparing import assert_close
from tests.reference.kmeans import farthest_seeds, lloyd

SEEDINGS: list[Seeding] = ["farthest", "k-means++", "random"]


def blobs(count=3, size=6, dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    middle = 20 * torch.randn(count, 1, dim, generator=generator, dtype=torch.float64)
    points = middle + torch.randn(count, size, dim, generator=generator, dtype=torch.float64)
    return points.flatten(0, 1)[torch.randperm(count * size, generator=generator)][None]


def partition(label) -> set[frozenset[int]]:
    return {frozenset(i for i, x in enumerate(label) if x == k) for k in set(label)}


def test_by_hand():
    clusters = kmeans(torch.tensor([[[0.0], [1.0], [2.0], [10.0]]]), 2)
    assert clusters.centers.tolist() == [[1, 3]]
    assert clusters.assignment.tolist() == [[0, 0, 0, 1]]
    assert clusters.log_density is None
    assert clusters.separation is None
    assert clusters.log_importance.tolist() == [[0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("seed", range(4))
def test_oracle(seed):
    points = torch.randn(1, 15, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    label, centroid = lloyd(points[0].numpy(), farthest_seeds(points[0].numpy(), 4), 10)
    clusters = kmeans(points, 4)
    assert partition(clusters.assignment[0].tolist()) == partition(label.tolist())
    for k, members in enumerate(clusters.assignment[0] == k for k in range(4)):
        ours = points[0][members].mean(0)
        nearest = torch.tensor(centroid).sub(ours).norm(dim=-1).min()
        assert nearest < 1e-9
        distance = (points[0] - ours).norm(dim=-1).masked_fill(~members, math.inf)
        assert clusters.centers[0, k] == distance.argmin()


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_blobs_are_found(seeding):
    points = blobs()
    clusters = kmeans(points, 3, seeding="farthest")
    label, _ = lloyd(points[0].numpy(), farthest_seeds(points[0].numpy(), 3), 10)
    assert partition(clusters.assignment[0].tolist()) == partition(label.tolist())
    again = kmeans(points, 3, seeding=seeding)
    assert torch.equal(again.assignment, kmeans(points, 3, seeding=seeding).assignment)


def test_larger_clusters_first():
    sizes = kmeans(blobs(4, 7), 4).assignment[0].bincount()
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_weights_of_samples():
    points = torch.tensor([[[0.0], [1.0], [10.0], [11.0]]])
    weight = torch.tensor([[1.0, 3.0, 3.0, 1.0]])
    clusters = weighted_kmeans(points, 2, weight)
    assert sorted(clusters.centers[0].tolist()) == [1, 2]
    assert_close(clusters.log_importance, weight.log(), 1e-6)


def test_weights_of_features():
    """With the second feature switched off only the first one separates."""
    points = torch.tensor([[[0.0, 0.0], [0.0, 99.0], [5.0, 0.0], [5.0, 99.0]]])
    clusters = weighted_kmeans(points, 2, feature_weight=torch.tensor([1.0, 0.0]))
    assert partition(clusters.assignment[0].tolist()) == {frozenset({0, 1}), frozenset({2, 3})}


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_equal_weights_change_nothing(seeding):
    points = torch.randn(2, 11, 3, dtype=torch.float64)
    plain = kmeans(points, 4, seeding=seeding)
    weighted = weighted_kmeans(points, 4, torch.full((2, 11), 2.0), seeding=seeding)
    assert torch.equal(plain.assignment, weighted.assignment)
    assert torch.equal(plain.centers, weighted.centers)


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_centers_lead_their_clusters(seeding):
    points = torch.randn(3, 20, 4, dtype=torch.float64)
    clusters = kmeans(points, 6, seeding=seeding, generator=torch.Generator().manual_seed(5))
    assert clusters.assignment.gather(1, clusters.centers).tolist() == [list(range(6))] * 3


def test_random_seeding_keeps_the_seed_frames():
    points = torch.randn(1, 12, 3)
    runs = [kmeans(points, 4, seeding="random", iterations=n).centers[0].tolist() for n in (0, 10)]
    assert sorted(runs[0]) == sorted(runs[1])


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_no_global_random_state(seeding):
    before = torch.random.get_rng_state()
    kmeans(torch.zeros(1, 5, 2), 3, seeding=seeding)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_degenerate_inputs(seeding):
    for points in (torch.zeros(1, 5, 2), torch.randn(1, 1, 2), torch.full((1, 4, 1), math.nan)):
        clusters = kmeans(points, 3, seeding=seeding)
        count = min(3, points.shape[1])
        assert clusters.centers.shape == (1, count)
        assert sorted(set(clusters.centers[0].tolist())) == sorted(clusters.centers[0].tolist())
        assert clusters.assignment.min() >= 0
    masked = kmeans(torch.randn(1, 3, 2), 2, mask=torch.zeros(1, 3, dtype=torch.bool), seeding=seeding)
    assert masked.centers.tolist() == [[-1, -1]]


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_a_damaged_point_changes_nothing_else(seeding):
    points = torch.randn(1, 9, 3, dtype=torch.float64)
    damaged = torch.cat([points, torch.full((1, 1, 3), math.nan, dtype=torch.float64)], dim=1)
    options = {"seeding": seeding, "generator": None}
    alone, beside = kmeans(points, 3, **options), kmeans(damaged, 3, **options)
    if seeding != "k-means++":  # whose draws depend on the number of points
        assert partition(beside.assignment[0, :9].tolist()) == partition(alone.assignment[0].tolist())
    assert beside.centers.max() < 9


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_padding_changes_nothing(seeding):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, 7, 3, generator=generator, dtype=torch.float64)
    padded = torch.cat([points, torch.zeros(1, 5, 3, dtype=torch.float64)], dim=1)
    mask = torch.arange(12)[None] < 7
    for seed in range(8):
        alone = kmeans(points, 3, seeding=seeding, generator=torch.Generator().manual_seed(seed), iterations=1)
        beside = kmeans(
            padded, 3, mask=mask, seeding=seeding, generator=torch.Generator().manual_seed(seed), iterations=1
        )
        assert beside.centers.tolist() == alone.centers.tolist()


def test_copies_never_lose_a_cluster():
    """L events are promised, and the connector counts its tokens on them."""
    points = torch.tensor([[[1, 1], [2, 1], [0, 2], [2, 1], [2, 1], [1, 2], [0, 2], [1, 0], [1, 0]]]).double()
    clusters = kmeans(points, 7, seeding="k-means++")
    assert (clusters.centers >= 0).all()
