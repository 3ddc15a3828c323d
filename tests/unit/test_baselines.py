"""Baselines keep the connector's contract and its tokens; only what they are meant to change differs."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConfig, TokenBudget, build_baseline, build_connector
from dynfocus_connector.baselines import Baseline

DIM, PATCHES, FRAMES = 6, 64, 30
NAMES = get_args(Baseline)
BUDGETS = [None, TokenBudget(max_tokens=400), TokenBudget(max_tokens=20), TokenBudget(ratio=0.5)]


@pytest.fixture
def config() -> DynFocusConfig:
    return DynFocusConfig.training_free(dim=DIM)


@pytest.fixture
def frames() -> Tensor:
    return torch.randn(2, FRAMES, PATCHES, DIM, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def text() -> Tensor:
    """Queries of every frame."""
    return torch.randn(2, FRAMES, 3, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    """The second video is padded in front."""
    mask = torch.ones(2, FRAMES, dtype=torch.bool)
    mask[1, :10] = False
    return mask


def assert_well_formed(video: CompressedVideo) -> None:
    for one in video.split():
        places = list(zip(one.frame_index.tolist(), one.anchor.tolist(), strict=True))
        assert len(set(places)) == len(places), "two tokens share a slot"
        assert (one.frame_index.diff() >= 0).all(), "tokens out of frame order"
        assert one.anchor.numel() == 0 or 0 <= int(one.anchor.min()) <= int(one.anchor.max()) < PATCHES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_contract(
    name: Baseline, budget: TokenBudget | None, config: DynFocusConfig, frames: Tensor, text: Tensor, mask: Tensor
) -> None:
    video = build_baseline(name, config).eval()(frames, text, frame_mask=mask, budget=budget)
    assert_well_formed(video)
    assert video.tokens.shape[1] == DIM
    assert video.tokens.isfinite().all()
    if budget is not None and name != "keep_all":
        assert (video.offsets.diff() <= torch.tensor([budget.tokens_for(n, PATCHES) for n in (30, 20)])).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_batch_is_its_videos_one_by_one(
    name: Baseline, budget: TokenBudget | None, config: DynFocusConfig, frames: Tensor, text: Tensor, mask: Tensor
) -> None:
    model = build_baseline(name, config).eval()
    together = model(frames, text, frame_mask=mask, budget=budget).split()[1]
    alone = model(frames[1:, 10:], text[1:, 10:], budget=budget)
    torch.testing.assert_close(together.tokens, alone.tokens)
    assert together.frame_index.tolist() == alone.frame_index.tolist()
    assert together.anchor.tolist() == alone.anchor.tolist()


def outcome(model: nn.Module, frames: Tensor, text: Tensor, **options: Any) -> tuple[CompressedVideo, list[Any]]:
    """Tokens and the gradients of frames and parameters; None where one has no part."""
    model.zero_grad()
    frames = frames.clone().requires_grad_()
    video = model(frames, text, **options)
    (video.tokens.square().sum() + 0 * frames.sum()).backward()
    return video, [frames.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_video_without_frames_gets_no_token(
    name: Baseline, budget: TokenBudget | None, frames: Tensor, mask: Tensor
) -> None:
    """And changes nothing for the others, nor which parameters get a gradient."""
    model = build_baseline(name, DynFocusConfig.paper(dim=DIM, dim_out=10, dim_text=5)).eval()
    text = torch.randn(2, FRAMES, 3, 5, generator=torch.Generator().manual_seed(1))
    around = torch.tensor([0, 0, 1, 1])
    bare = torch.zeros(1, FRAMES, dtype=torch.bool)
    masks = torch.cat([bare, mask, bare])
    expected, grads = outcome(model, frames, text, frame_mask=mask, budget=budget)
    video, found = outcome(model, frames[around], text[around], frame_mask=masks, budget=budget)
    lengths = expected.offsets.diff().tolist()
    assert video.offsets.diff().tolist() == [0, *lengths, 0]
    for one, other in zip(video[:4], expected[:4], strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found, [nn.functional.pad(grads[0], (0, 0) * 3 + (1, 1)), *grads[1:]])
    alone, rest = outcome(model, frames[:1], text[:1], frame_mask=bare, budget=budget)
    assert alone.tokens.shape == (0, 10)
    assert [grad is None for grad in rest] == [grad is None for grad in grads]


@pytest.mark.parametrize("name", ["uniform", "random"])
def test_only_the_frames_differ(name: Baseline, config: DynFocusConfig, frames: Tensor) -> None:
    """Same count, same rods for a frame that both leave at the edge, same object rows for one that both focus on."""
    ours = build_connector(config).eval()(frames[:1])
    theirs = build_baseline(name, config).eval()(frames[:1])
    assert ours.offsets.tolist() == theirs.offsets.tolist()
    for both, rows in ((False, slice(None)), (True, slice(16, 40))):
        assert ours.selection is not None
        assert theirs.selection is not None
        shared = (ours.selection.is_focus[0] == both) & (theirs.selection.is_focus[0] == both)
        frame = int(shared.nonzero()[0])
        left = ours.tokens[ours.frame_index == frame][rows]
        torch.testing.assert_close(left, theirs.tokens[theirs.frame_index == frame][rows])


def test_uniform_frames_are_evenly_spaced(config: DynFocusConfig, frames: Tensor) -> None:
    few = DynFocusConfig.training_free(dim=DIM, num_prototypes=3, focus_ratio=1.0)
    selection = build_baseline("uniform", few).eval()(frames[:1]).selection
    assert selection.focus_index.tolist() == [[5, 15, 25]]


def test_random_frames_follow_the_seed(config: DynFocusConfig, frames: Tensor) -> None:
    state = torch.random.get_rng_state()
    picks = [build_baseline("random", config, seed=seed)(frames[:1]).selection.focus_index for seed in (0, 0, 1)]
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[0], picks[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_oracle_frames_are_the_ones_given(config: DynFocusConfig, frames: Tensor, mask: Tensor) -> None:
    given = torch.tensor([[25, 3], [12, -1]])
    video = build_connector(config).eval()(frames, frame_mask=mask, focus_index=given)
    assert video.selection is not None
    assert video.selection.focus_index.tolist() == [[3, 25], [12, -1]]
    assert video.offsets.tolist() == [0, 2 * 40 + 28 * 2, 2 * 40 + 28 * 2 + 40 + 19 * 2]


def test_frames_or_budget_but_not_both(config: DynFocusConfig, frames: Tensor) -> None:
    with pytest.raises(ValueError, match="focus_index or a budget, got both"):
        build_connector(config)(frames, focus_index=torch.tensor([[1], [2]]), budget=TokenBudget(max_tokens=99))


def test_mean_pooling_is_two_means(frames: Tensor) -> None:
    config = DynFocusConfig.training_free(dim=DIM)
    video = build_baseline("mean_pooling", config)(frames[:1])
    assert len(video.tokens) == FRAMES + PATCHES
    for frame in range(FRAMES):
        assert any(torch.allclose(t, frames[0, frame].mean(0), atol=1e-6) for t in video.tokens)
    for patch in range(PATCHES):
        assert any(torch.allclose(t, frames[0, :, patch].mean(0), atol=1e-6) for t in video.tokens)


def test_token_merging_merges_copies_first() -> None:
    distinct = [[1.0, 0], [0, 1], [-1, 0.1], [0.3, -1], [5, 5], [0.2, 3]]
    patches = torch.tensor([distinct[0], *distinct, distinct[1]])  # copies fall into different halves
    model = build_baseline("token_merging", DynFocusConfig.training_free(dim=2))
    video = model(patches[None, None], grid=(2, 4), budget=TokenBudget(max_tokens=6))
    torch.testing.assert_close(torch.tensor(sorted(video.tokens.tolist())), torch.tensor(sorted(distinct)))


def test_token_merging_weights_by_size(frames: Tensor) -> None:
    """Down to one token the mean of all patches is left."""
    config = DynFocusConfig.training_free(dim=DIM)
    video = build_baseline("token_merging", config)(frames[:1], budget=TokenBudget(max_tokens=FRAMES))
    torch.testing.assert_close(video.tokens, frames[0].mean(1))


def test_two_tokens_are_the_rods(config: DynFocusConfig, frames: Tensor) -> None:
    video = build_baseline("two_tokens", config).eval()(frames)
    assert video.tokens_per_frame()[0].tolist() == [2] * FRAMES
    assert (video.kind == 0).all()


def test_keep_all_is_everything(config: DynFocusConfig, frames: Tensor) -> None:
    video = build_baseline("keep_all", config).eval()(frames)
    assert torch.equal(video.tokens, frames.flatten(0, 2))


def test_events_share_tokens_that_are_means_of_their_patches() -> None:
    """Two events of three and two copies of a frame of four different patches: one token for each patch of each."""
    shots = torch.randn(2, 4, DIM, generator=torch.Generator().manual_seed(2))
    video = torch.cat([shots[:1].expand(3, -1, -1), shots[1:].expand(2, -1, -1)])[None]
    config = DynFocusConfig.training_free(dim=DIM, num_prototypes=2, temporal_neighbors=2)
    merged = build_baseline("event_merging", config)(video, budget=TokenBudget(max_tokens=8))
    torch.testing.assert_close(
        torch.tensor(sorted(merged.tokens.tolist())), torch.tensor(sorted(shots.flatten(0, 1).tolist()))
    )
    assert merged.frame_index.tolist() == sorted(merged.frame_index.tolist())
    assert (merged.frame_index < 3).sum() == 4


def test_query_tokens_are_the_first_queries_of_every_frame(
    config: DynFocusConfig, frames: Tensor, text: Tensor
) -> None:
    video = build_baseline("query_tokens", config)(frames, text, budget=TokenBudget(max_tokens=2 * FRAMES + 1))
    assert torch.equal(video.tokens, text[:, :, :2].flatten(0, 2))
    assert video.tokens_per_frame()[0].tolist() == [2] * FRAMES


RIVALS = ["mean_pooling", "token_merging", "event_merging", "query_tokens", "two_tokens", "uniform"]


@pytest.mark.parametrize("name", RIVALS)
def test_a_trained_rival_has_the_connectors_width(name: Baseline, frames: Tensor) -> None:
    config = DynFocusConfig.paper(dim=DIM, dim_out=10, dim_text=5, num_samples=4)
    model = build_baseline(name, config).train()
    video = model(frames, torch.randn(2, FRAMES, 3, 5))
    assert video.tokens.shape[1] == 10
    video.tokens.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("two_tokens", "at least 2 tokens"),
        ("token_merging", "at least 1 token"),
        ("mean_pooling", "at least 1 token"),
        ("event_merging", "at least 1 token"),
        ("query_tokens", "at least 1 token"),
    ],
)
def test_budgets_too_small(name: Baseline, match: str, config: DynFocusConfig) -> None:
    budget = TokenBudget(max_tokens=1) if name == "two_tokens" else TokenBudget(ratio=0.001)
    with pytest.raises(ValueError, match=match):
        build_baseline(name, config)(torch.randn(1, 4, PATCHES, DIM), torch.randn(1, 4, 1, DIM), budget=budget)


def test_unknown_name(config: DynFocusConfig) -> None:
    with pytest.raises(ValueError, match="got 'best'"):
        build_baseline("best", config)  # type: ignore[arg-type]
