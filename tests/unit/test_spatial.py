from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynfocus_connector import DynFocusConfig, SpatialPrototypes, build_connector
from dynfocus_connector.spatial import DISTANCES_PER_CHUNK, FEWEST_COLUMNS
from tests.arms import SMALL
from tests.comparing import assert_close, assert_every_parameter_has_a_gradient
from tests.reference.networks import linear, softmax
from tests.reference.spatial import grouped_order
from tests.reference.spatial import spatial_prototypes as reference


def frames_of(batch=2, frames=3, patches=20, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, patches, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weights", ["importance", "uniform", "centers"])
@pytest.mark.parametrize("scale", [1.0, "max"])
@pytest.mark.parametrize("levels", [(5,), (6, 3), (8, 4, 2), (1,), (40, 3)])
def test_oracle(weights, scale, levels):
    frames = frames_of()
    frames[0, 0, 3] = math.nan
    frames[1, 2, 4:9] = frames[1, 2, 3]
    merging = SpatialPrototypes(levels, (4, 3), merge_weights=weights, distance_scale=scale)(frames)
    objects = merging.merge(frames)
    for b, t in np.ndindex(2, 3):
        expected = reference(frames[b, t].numpy(), levels, (4, 3), weights, scale)
        assert merging.center[b, t].tolist() == np.concatenate([level.center for level in expected]).tolist()
        assert_close(objects[b, t], np.concatenate([level.prototypes for level in expected]), 1e-5, 1e-7)
        assert_close(merging.log_density[b, t], np.concatenate([level.log_density for level in expected]), 1e-5, 1e-7)


@pytest.mark.parametrize("order", ["by_level", "grouped"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_clustering_gives_what_merging_gives(order, dtype):
    """G_t and its gradient, level from level or patch by patch, damage included."""
    results = []
    for at_once in (True, False):
        frames = frames_of().to(dtype)
        frames[0, 0, 3], frames[1, 1] = math.nan, math.nan
        frames.requires_grad_()
        module = SpatialPrototypes((6, 3), (4, 3), order=order, dtype=dtype)
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.1)
        merging, rows = module.cluster(frames)
        rows = rows if at_once else merging.merge(frames)
        (rows * torch.arange(9)[:, None]).sum().backward()
        results.append((rows, frames.grad))
    for one, other in zip(*results, strict=True):
        assert_close(one, other, 1e-9 if dtype == torch.float64 else 1e-2)
    assert results[0][0].isfinite().all()


def saved_bytes(frames):
    """What backward keeps of a training step of the connector, beyond its inputs."""
    connector = build_connector(DynFocusConfig(**SMALL)).train()
    features, kept = torch.randn(1, frames, 16, 6).requires_grad_(), {}

    def pack(saved):
        kept[saved.untyped_storage().data_ptr()] = saved
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        connector(features).tokens.sum().backward()
    return sum(saved.untyped_storage().nbytes() for saved in kept.values())


def test_backward_keeps_memory_linear_in_the_frames():
    """Twice the frames add what the first ones added: no matrix of frames by frames is kept."""
    first, second, third = (saved_bytes(count) for count in (200, 400, 800))
    assert third - second == pytest.approx(2 * (second - first), rel=0.02)


def test_weights_of_a_row_sum_to_one():
    merging = SpatialPrototypes((6, 3), (4, 3))(frames_of())
    total = torch.zeros(2, 3, 9, dtype=torch.float64)
    for row, weight in zip(merging.row.unbind(2), merging.weight.unbind(2), strict=True):
        total = total.scatter_add(2, row, weight.double())
    assert_close(total, torch.ones(2, 3, 9), 1e-6)


def test_chunks_are_invisible(monkeypatch):
    frames = frames_of(2, 5)
    whole = SpatialPrototypes((6, 3), (4, 3))(frames)
    monkeypatch.setitem(DISTANCES_PER_CHUNK, "cpu", 3 * frames.shape[2] * FEWEST_COLUMNS)
    parts = SpatialPrototypes((6, 3), (4, 3))(frames)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("patches", "rows"), [(256, 24), (16, 24), (10, 18), (1, 2), (8, 16)])
def test_number_of_rows(patches, rows):
    module = SpatialPrototypes((16, 8), (8, 3))
    assert module.num_rows(patches) == rows
    assert module(frames_of(1, 1, patches)).center.shape == (1, 1, rows)


def test_grouped_oracle():
    frames = frames_of(1, 4)
    module = SpatialPrototypes((6, 3), (4, 3), order="grouped", merge_weights="uniform", dtype=torch.float64)
    weights = {name.removeprefix("group_score."): value.numpy() for name, value in module.state_dict().items()}
    rows = module(frames).merge(frames)
    for t in range(4):
        levels = reference(frames[0, t].numpy(), (6, 3), (4, 3), "uniform")
        share = softmax(linear(levels[1].prototypes.mean(-1), {f"s.{k}": v for k, v in weights.items()}, "s"))
        which = {"coarse": levels[1].prototypes, "fine": levels[0].prototypes}
        expected = [share[group] * which[level][i] for level, i, group in grouped_order(levels)]
        assert_close(rows[0, t], np.stack(expected), 1e-6, 1e-9)


def test_grouped_weights_learn():
    module = SpatialPrototypes((6, 3), (4, 3), order="grouped", dtype=torch.float64)
    frames = frames_of()
    (module(frames).merge(frames) ** 2).sum().backward()
    assert_every_parameter_has_a_gradient(module)
    assert module.group_score.weight.grad.abs().max() > 0


@pytest.mark.parametrize("patches", [1, 2, 4, 5, 6, 9, 16])
def test_grouped_with_few_patches(patches):
    frames = frames_of(1, 2, patches)
    module = SpatialPrototypes((16, 6), (8, 3), order="grouped", merge_weights="uniform", dtype=torch.float64)
    rows = module(frames).merge(frames)
    assert rows.shape[2] == module.num_rows(patches)
    for t in range(2):
        levels = reference(frames[0, t].numpy(), (16, 6), (8, 3), "uniform")
        centers = [levels[{"fine": 0, "coarse": 1}[level]].center[i] for level, i, _ in grouped_order(levels)]
        assert module(frames).center[0, t].tolist() == centers


@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_a_damaged_frame_changes_no_other(damage):
    frames = frames_of()
    damaged = frames.clone()
    damaged[0, 1] = damage
    module = SpatialPrototypes((6, 3), (4, 3))
    rows, with_damage = module(frames).merge(frames), module(damaged).merge(damaged)
    assert torch.equal(rows[1], with_damage[1])
    assert torch.equal(rows[0, [0, 2]], with_damage[0, [0, 2]])
    assert with_damage.isfinite().all()


@pytest.mark.parametrize("order", ["by_level", "grouped"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_constant_frames_keep_their_value(order, dtype):
    """256 equal patches fall into one cluster; a running sum in bfloat16 would stop short of their mean."""
    frames = torch.full((1, 2, 256, 8), 3.0, dtype=dtype)
    module = SpatialPrototypes((16, 8), (8, 3), order=order, dtype=dtype)
    rows = module(frames).merge(frames)
    if order == "grouped":
        rows = rows / rows.flatten(2).amax(-1)[..., None, None] * 3
        assert rows.isfinite().all()
    else:
        assert_close(rows, torch.full((1, 2, 24, 8), 3.0), 1e-2)
    assert rows.dtype == dtype


def test_no_gradient_through_the_clustering_but_through_the_merging():
    frames = frames_of(1, 1).requires_grad_()
    merging = SpatialPrototypes((6, 3), (4, 3))(frames)
    assert not merging.weight.requires_grad
    merging.merge(frames).sum().backward()
    assert frames.grad.abs().max() > 0
