from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynfocus_connector import CompactCooperativeEncoder, DynFocusConfig, TokenKind, build_connector
from dynfocus_connector.packing import TokenCounts
from tests.arms import ARMS, PATCHES, SMALL, question, small, video
from tests.comparing import assert_close, assert_same_video
from tests.reference.connector import compress
from tests.reference.prototypes import pool_cells
from tests.reference.spatial import spatial_prototypes, spread_anchors

DENSITY_ARMS = [name for name, arm in ARMS.items() if "clustering" not in arm and arm.get("scorer") != "question"]


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("arm", DENSITY_ARMS)
def test_oracle(arm, asked):
    """The whole connector against the paper in NumPy, for every arm."""
    connector, frames = small(arm), video(2)
    text = question(connector, 2) if asked else None
    result = connector(frames, text)
    weights = {name: value.numpy() for name, value in connector.state_dict().items()}
    for b, part in enumerate(result.split()):
        q = text[b].numpy() if asked else None
        expected = compress(frames[b].numpy(), q, weights, {**connector.config.to_dict()}, (4, 4))
        assert part.frame_index.tolist() == expected.frame_index.tolist()
        assert part.kind.tolist() == expected.kind.tolist()
        assert result.selection.focus_index[b].tolist() == expected.focus.tolist()
        assert_close(part.tokens, expected.tokens, 1e-5, 1e-6)


@pytest.mark.parametrize("grid", [(4, 5), (3, 7), (1, 12), (2, 2), (1, 1)])
@pytest.mark.parametrize("arm", ["paper", "rods_see_patches", "three_levels", "cone_patches"])
def test_oracle_on_other_grids(arm, grid):
    connector, frames = small(arm, pool_grid=2), video(patches=grid[0] * grid[1])
    text = question(connector)
    result = connector(frames, text, grid=grid)
    weights = {name: value.numpy() for name, value in connector.state_dict().items()}
    expected = compress(frames[0].numpy(), text[0].numpy(), weights, connector.config.to_dict(), grid)
    assert result.frame_index.tolist() == expected.frame_index.tolist()
    assert_close(result.tokens, expected.tokens, 1e-5, 1e-6)


def test_parameters_of_the_paper():
    """Table 9: 30.31 M, the projection of the text not counted."""
    encoder = build_connector(DynFocusConfig.paper(), device="meta").encoder
    count = sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in encoder.rods.query.parameters())
    assert count == 30_307_712 == 22_552_576 + 5_771_264 + 1_983_872
    assert sum(p.numel() for p in encoder.rods.query.parameters()) == 768 * 1408 + 1408


@pytest.mark.parametrize(
    ("changes", "cone", "rod"),
    [
        ({}, 40, 2),
        ({"cones": "patches"}, 256, 2),
        ({"cones": "patches", "rod_tokens": 0}, 256, 0),
        ({"rod_tokens": 0}, 40, 0),
        ({"cones": "rods"}, 2, 2),
        ({"cones": "none"}, 0, 2),
        ({"cones": "cross_attention"}, 16, 2),
        ({"cones": "concatenation"}, 32, 2),
        ({"pool_grid": 1}, 25, 2),
        ({"spatial_prototypes": (16,)}, 32, 2),
        ({"spatial_prototypes": (16, 8, 4)}, 44, 2),
    ],
)
def test_tokens_of_the_ablations(changes, cone, rod):
    """Tables 6 and 12 and what lies around them."""
    encoder = build_connector(DynFocusConfig.paper(**changes), device="meta").encoder
    assert encoder.token_counts(256) == TokenCounts(cone, rod, 0)


def test_tokens_of_the_authors_code():
    encoder = build_connector(DynFocusConfig.authors_code(), device="meta").encoder
    assert encoder.token_counts(256) == TokenCounts(38, 2, 2)


@pytest.mark.parametrize("patches", [1, 4, 9, 10, 11, 16])
def test_a_frame_never_yields_more_tokens_than_patches(patches):
    connector = small()
    result = connector(video(patches=patches), question(connector), grid=(1, patches))
    assert result.tokens_per_frame()[0].max() <= patches
    if patches <= 10:
        cones = connector.encoder.projector.fine(video(patches=patches)[0, result.selection.focus_index[0]])
        assert_close(result.tokens[result.kind == TokenKind.CONE], cones.flatten(0, 1))


def test_rods_of_all_focus_leave_room():
    connector = small("authors_code")
    assert connector(video(frames=1, patches=9)).tokens_per_frame()[0].max() <= 9


@pytest.mark.parametrize("arm", ARMS)
def test_anchors_are_slots_of_their_own(arm):
    connector = small(arm, focus_ratio=1.0)
    for frames in (video(2), video(frames=1), torch.ones(1, 3, PATCHES, 6, dtype=torch.float64)):
        for part in connector(frames, question(connector, len(frames))).split():
            assert ((part.anchor >= 0) & (part.anchor < PATCHES)).all()
            slots = list(zip(part.frame_index.tolist(), part.anchor.tolist(), strict=True))
            assert len(set(slots)) == len(slots)


def test_anchors_of_the_paper():
    """Event rows in the middle of their cells, then the peaks of the prototypes, moved where taken."""
    connector, frames = small(), video()
    result = connector(frames)
    for t in result.selection.focus_index[0].tolist():
        levels = spatial_prototypes(frames[0, t].numpy(), (4, 2), (3, 2))
        wanted = [5, 7, 13, 15, *np.concatenate([level.center for level in levels]).tolist()]
        assert result.anchor[result.frame_index == t].tolist() == spread_anchors(wanted, (4, 4))


@pytest.mark.parametrize("neighbors", [(3, 2), (3, 1)])
def test_the_context_of_an_unasked_rod_sits_at_its_prototype(neighbors):
    """The second rod token is the densest first-level prototype, and its anchor that prototype's peak."""
    changes = {"projector": None, "rod_attention": "cosine", "dim_text": None, "spatial_neighbors": neighbors}
    connector, frames = small("importance", **changes), video(frames=12, seed=4)
    result = connector(frames)
    rods = result.kind == TokenKind.ROD
    for t in result.frame_index[rods].unique().tolist():
        levels = spatial_prototypes(frames[0, t].numpy(), (4, 2), neighbors, distance_scale="max")
        peak = levels[0].center[levels[0].log_density.argmax()]
        assert result.anchor[(result.frame_index == t) & rods].tolist() == spread_anchors([10, peak], (4, 4))


@pytest.mark.parametrize("arm", [name for name in ARMS if ARMS[name].get("cones") != "rods"])
def test_pool_like_repeats_the_merging(arm):
    connector = small(arm, projector=None)
    frames, text = video(2, 7), question(connector, 2)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :3] = False
    for options in ({}, {"frame_mask": mask}, {"text": None}, {"hard": False}):
        result = connector(frames, **{"text": text, "keep_merging": True, **options})
        assert_close(result.pool_like(frames), result.tokens, 1e-6, 1e-7)
        other = torch.cat([frames, -2 * frames], -1)
        assert_close(result.pool_like(other), torch.cat([result.tokens, -2 * result.tokens], -1), 1e-6, 1e-7)


def test_pool_like_of_cone_rods():
    connector = small("cone_rods", projector=None)
    frames = video(2)
    result = connector(frames, question(connector, 2), keep_merging=True)
    assert_close(result.pool_like(frames), result.tokens, 1e-6, 1e-7)


def test_pool_like_gradient():
    connector, frames = small(projector=None), video().requires_grad_()
    result = connector(frames, keep_merging=True)
    other = torch.randn(1, 9, PATCHES, 3, dtype=torch.float64, requires_grad=True)
    result.pool_like(other).sum().backward()
    assert other.grad.isfinite().all()
    assert other.grad.abs().max() > 0


def test_gradient_of_tokens():
    """With the clustering given, what moves with a frame are its patches and the attention of its rods."""
    connector = small(projector=None, scorer="importance")
    frames, text = video(1, 3), question(connector)
    merging = connector(frames, text, keep_merging=True).merging
    result = connector(frames.requires_grad_(), text)
    upstream, direction, step = torch.randn_like(result.tokens), torch.randn_like(frames), 1e-6
    (gradient,) = torch.autograd.grad((result.tokens * upstream).sum(), frames)

    @torch.no_grad()
    def value(shift):
        moved = frames + shift * direction
        objects = merging.spatial.merge(moved)
        densest = torch.zeros(1, 3, dtype=torch.long)
        weights = connector.encoder.rods.weights(objects, merging.spatial.row_mask, densest, text)
        return float((merging._replace(rod_weight=weights).pool(moved) * upstream).sum())

    numeric = (value(step) - value(-step)) / (2 * step)
    assert math.isclose(float((gradient * direction).sum()), numeric, rel_tol=1e-5)


@pytest.mark.parametrize("arm", ["paper", "rods_see_patches", "cone_patches", "authors_code"])
@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_a_damaged_frame_changes_the_tokens_of_no_other(arm, damage):
    connector, frames = small(arm, clustering="density_peaks", num_prototypes=3, focus_ratio=0.5), video(2)
    text = question(connector, 2)
    damaged = frames.clone()
    damaged[0, 4, :5] = damage
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    with_it, without = connector(damaged, text), connector(frames[:, others], text)
    assert_same_video(with_it.split()[1], connector(frames, text).split()[1])
    one, other = with_it.split()[0], without.split()[0]
    assert_close(one.tokens[one.frame_index != 4], other.tokens)


@pytest.mark.parametrize("arm", ARMS)
def test_damaged_padding_leaves_no_trace_in_gradients(arm):
    connector, frames = small(arm).train(), video(2, 7)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :5] = False
    frames[~mask] = math.nan
    connector(frames, question(connector, 2), frame_mask=mask).tokens.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in connector.parameters())


def test_nothing_depends_on_an_unused_budget_of_numbers():
    encoder = CompactCooperativeEncoder(
        6, 10, dim_text=5, pool_grid=2, spatial_prototypes=(4, 2), spatial_neighbors=(3, 2), dtype=torch.float64
    )
    connector, frames = small(), video()
    encoder.load_state_dict(connector.encoder.state_dict())
    selection = connector.estimator(frames)
    known = encoder(frames, selection, num_tokens=connector.num_tokens(9, PATCHES))
    assert_same_video(known, encoder(frames, selection))
    assert SMALL["dim"] == encoder.dim


def test_focus_only():
    connector, frames = small(), video()
    selection = connector.estimator(frames)
    result = connector.encoder(frames, selection, focus_only=True)
    assert (result.kind == TokenKind.CONE).all()
    both = connector.encoder(frames, selection)
    assert_close(result.tokens, both.tokens[both.kind == TokenKind.CONE])


def test_event_rows_are_the_pooled_frames_where_every_frame_is_its_own_event():
    connector, frames = small(projector=None), video(frames=3)
    result = connector(frames)
    for t in result.selection.focus_index[0].tolist():
        rows = result.tokens[result.frame_index == t][:4]
        assert_close(rows, pool_cells(frames[0, t].numpy(), (4, 4), 2))
