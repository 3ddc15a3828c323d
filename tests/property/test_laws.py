"""What holds for every video, batch, scale and budget."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from dynfocus_connector import (
    CompressedVideo,
    TokenBudget,
    TokenKind,
    density_peaks,
    kmeans,
    merge_prototypes,
    weighted_kmeans,
)
from dynfocus_connector.anchors import spread_anchors
from dynfocus_connector.packing import TokenCounts
from dynfocus_connector.score import min_max
from tests.arms import ARMS, PATCHES, question, small, video
from tests.comparing import assert_close, assert_same_centers, assert_same_video
from tests.reference.density_peaks import density_peaks as reference

CONNECTORS = {name: small(name) for name in ARMS}
arms = st.sampled_from(sorted(ARMS))
seeds = st.integers(0, 10_000)
lengths = st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any)


def padded_batch(sizes, seed, garbage=7.0):
    """Videos of the given lengths, their frames scattered over a longer row of garbage; sometimes with a copy."""
    generator = torch.Generator().manual_seed(seed)
    width = max(sizes) + 3
    frames = torch.full((len(sizes), width, PATCHES, 6), garbage, dtype=torch.float64)
    mask = torch.zeros(len(sizes), width, dtype=torch.bool)
    videos = []
    for b, size in enumerate(sizes):
        place = torch.randperm(width, generator=generator)[:size].sort().values
        one = torch.randn(size, PATCHES, 6, generator=generator, dtype=torch.float64)
        if size > 3 and seed % 3 == 0:
            one[size // 2] = one[size // 2 - 1]
        frames[b, place], mask[b, place] = one, True
        videos.append(one[None])
    return frames, mask, videos


class TestPaddingAndBatching:
    @given(arm=arms, sizes=lengths, seed=seeds, garbage=st.sampled_from([0.0, 7.0, 1e6, math.nan]))
    @settings(max_examples=60)
    def test_a_padded_batch_is_its_videos(self, arm, sizes, seed, garbage):
        """Padding anywhere; equal indices, tokens to rounding."""
        connector = CONNECTORS[arm].eval()
        frames, mask, videos = padded_batch(sizes, seed, garbage)
        text = question(connector, len(sizes), seed=seed)
        together = connector(frames, text, frame_mask=mask).split()
        for b, (one, part) in enumerate(zip(videos, together, strict=True)):
            if one.shape[1]:
                assert_same_video(part, connector(one, text[b : b + 1]).split()[0], 1e-8)
            else:
                assert len(part.tokens) == 0

    @given(
        sizes=lengths, seed=seeds, relaxation=st.sampled_from(["paper", "straight_through", "exact", "authors_code"])
    )
    @settings(max_examples=40)
    def test_with_explicit_noise_in_training_too(self, sizes, seed, relaxation):
        connector = CONNECTORS[relaxation].train()
        frames, mask, videos = padded_batch(sizes, seed)
        count = min(connector.config.num_prototypes, frames.shape[1])
        noise = torch.randn(len(sizes), 6, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        options = (lambda b, n: {}) if relaxation == "exact" else (lambda b, n: {"noise": noise[b, :, :n]})
        together = connector(frames, frame_mask=mask, **options(slice(None), count)).split()
        for b, (one, part) in enumerate(zip(videos, together, strict=True)):
            if one.shape[1]:
                alone = connector(one, **options(slice(b, b + 1), min(count, one.shape[1])))
                assert_same_video(part, alone.split()[0], 1e-8)

    @given(arm=arms, seed=seeds, order=st.permutations(range(3)))
    @settings(max_examples=30)
    def test_order_of_the_batch(self, arm, seed, order):
        connector = CONNECTORS[arm].eval()
        frames, text = video(3, 8, seed=seed), question(connector, 3, seed=seed)
        straight, mixed = connector(frames, text).split(), connector(frames[list(order)], text[list(order)]).split()
        for b, place in enumerate(order):
            assert_same_video(mixed[b], straight[place])

    @given(arm=arms, seed=seeds, size=st.integers(1, 9))
    @settings(max_examples=30)
    def test_padded_text(self, arm, seed, size):
        connector = CONNECTORS[arm].eval()
        frames, text = video(1, 8, seed=seed), question(connector, 1, size, seed=seed)
        place = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[:size].sort().values
        wide, mask = torch.full((1, 12, text.shape[-1]), 9.0).double(), torch.zeros(1, 12, dtype=torch.bool)
        wide[:, place], mask[:, place] = text, True
        assert_same_video(connector(frames, wide, text_mask=mask), connector(frames, text))

    @given(
        sizes=lengths, seed=seeds, clusters=st.integers(1, 8), method=st.sampled_from(["peaks", "kmeans", "weighted"])
    )
    @settings(max_examples=60)
    def test_clusterings(self, sizes, seed, clusters, method):
        """The same clusters; the order of two of one size may hang on rounding."""
        frames, mask, videos = padded_batch(sizes, seed)
        cluster = {
            "peaks": lambda x, m: density_peaks(x, clusters, 3, mask=m, distance_scale="max"),
            "kmeans": lambda x, m: kmeans(x, clusters, mask=m),
            "weighted": lambda x, m: weighted_kmeans(x, clusters, x[..., 0].abs().masked_fill(~m, 1e9), mask=m),
        }[method]
        together = cluster(frames.flatten(2), mask)
        for b, one in enumerate(videos):
            if one.shape[1]:
                place = mask[b].nonzero()[:, 0]
                alone = cluster(one.flatten(2), torch.ones(1, one.shape[1], dtype=torch.bool))
                mine = together.centers[b, together.assignment[b, place]].tolist()
                assert mine == place[alone.centers[0, alone.assignment[0]]].tolist()


class TestDeterminismAndScale:
    @given(arm=st.sampled_from(sorted(ARMS)), seed=seeds)
    def test_same_video_same_tokens(self, arm, seed):
        connector = CONNECTORS[arm].eval()
        frames, text = video(2, 8, seed=seed), question(connector, 2)
        assert_same_video(connector(frames, text), connector(frames.clone(), text.clone()), 0.0)

    @given(
        seed=seeds,
        exponent=st.integers(-3, 3),
        n=st.integers(1, 14),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    @settings(max_examples=60)
    def test_float64_oracle_at_every_scale(self, seed, exponent, n, dtype):
        generator = torch.Generator().manual_seed(seed)
        points = (torch.randn(1, n, 5, generator=generator) * 10.0**exponent).to(dtype)
        ours, expected = density_peaks(points, 4, 3), reference(points[0].double().numpy(), 4, 3)
        assert_same_centers(ours.centers[0], expected.centers, expected.log_importance)
        assert_close(ours.log_importance[0], expected.log_importance, 1e-5, 1e-5)

    @given(seed=seeds, exponent=st.integers(-20, 20), n=st.integers(1, 14))
    @settings(max_examples=60)
    def test_largest_distance_makes_scale_invisible(self, seed, exponent, n):
        """Powers of two: to the bit. Others to rounding."""
        points = torch.randn(1, n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        plain = density_peaks(points, 4, 3, distance_scale="max")
        scaled = density_peaks(points * 2.0**exponent, 4, 3, distance_scale="max")
        assert torch.equal(plain.centers, scaled.centers)
        assert torch.equal(plain.assignment, scaled.assignment)
        assert torch.equal(plain.log_importance, scaled.log_importance)
        other = density_peaks(points * 10.0 ** (exponent / 7), 4, 3, distance_scale="max")
        assert_same_centers(other.centers[0], plain.centers[0], plain.log_importance[0].numpy())

    @given(seed=seeds, factor=st.sampled_from([0.001, 0.3, 1.0, 17.0, 1000.0]))
    def test_training_free_frames_keep_their_place_at_every_scale(self, seed, factor):
        connector = CONNECTORS["importance"].eval()
        frames = video(1, 9, seed=seed)
        plain, scaled = connector(frames), connector(frames * factor)
        assert torch.equal(plain.selection.focus_index, scaled.selection.focus_index)

    @given(seed=seeds, shift=st.sampled_from([0.0, 5.0, -300.0]))
    def test_a_shift_of_all_features_moves_no_frame(self, seed, shift):
        points = torch.randn(1, 10, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.equal(density_peaks(points, 4, 3).centers, density_peaks(points + shift, 4, 3).centers)


class TestTies:
    @given(seed=seeds, copies=st.integers(2, 4), n=st.integers(2, 6))
    def test_of_copies_the_first_is_the_center(self, seed, copies, n):
        distinct = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        points = distinct.repeat(copies, 1)[None]
        peaks = density_peaks(points, n, 3)
        assert peaks.centers.max() < n
        assert (peaks.assignment.view(copies, n) == peaks.assignment[0, :n]).all()

    @given(value=st.sampled_from([0.0, 1.0, -1e3, 0.1]), n=st.integers(1, 9), clusters=st.integers(1, 9))
    def test_constant_points(self, value, n, clusters):
        peaks = density_peaks(torch.full((1, n, 4), value), clusters, 3)
        assert peaks.centers[0].tolist() == list(range(min(n, clusters)))

    @given(grid_points=st.lists(st.integers(0, 2), min_size=1, max_size=10), clusters=st.integers(1, 10))
    @example(grid_points=[0, 0, 0, 0, 1, 1, 1, 2, 2, 2], clusters=2)  # 0–1 and 1–2 differ by rounding
    @settings(max_examples=80)
    def test_exact_ties_by_index(self, grid_points, clusters):
        points = np.array(grid_points, dtype=np.float64)[:, None]
        ours, expected = density_peaks(torch.tensor(points)[None], clusters, 3), reference(points, clusters, 3)
        assert ours.centers[0].tolist() == expected.centers.tolist()
        to_centers = np.abs(points - points[expected.centers, 0])
        assert to_centers[range(len(points)), ours.assignment[0]].tolist() == to_centers.min(1).tolist()

    def test_of_equally_near_centers_the_better(self):
        points = torch.tensor([[[0.0], [0.0], [0.0], [1.0], [2.0], [2.0]]])
        assert density_peaks(points, 2, 3).assignment.tolist() == [[0, 0, 0, 0, 1, 1]]


class TestSelection:
    @given(arm=arms, sizes=lengths, seed=seeds, training=st.booleans())
    @settings(max_examples=60)
    def test_focus_frames(self, arm, sizes, seed, training):
        """Ascending, unique, from the hard Top-K of the scores, in training too; padding never."""
        connector = CONNECTORS[arm].train(training)
        frames, mask, _ = padded_batch(sizes, seed)
        text = question(connector, len(sizes), seed=seed)
        selection = connector(frames, text, frame_mask=mask).selection
        for b, size in enumerate(sizes):
            focus = selection.focus_index[b][selection.focus_index[b] >= 0].tolist()
            assert focus == sorted(set(focus))
            assert mask[b, focus].all()
            assert selection.is_focus[b].nonzero()[:, 0].tolist() == focus
            assert len(focus) == math.ceil(round(connector.config.focus_ratio * min(size, 5), 6))
            peaks = selection.prototype_index[b][: min(size, 5)]
            assert (peaks.diff() > 0).all()
            scores = selection.scores[b, : len(peaks)].detach()
            best = scores.sort(descending=True, stable=True).indices[: len(focus)]
            if scores.unique().numel() == len(scores):
                assert sorted(peaks[best].tolist()) == focus
            assert selection.event[b, mask[b]].tolist() == selection.event[b, mask[b]].clamp(0, len(peaks) - 1).tolist()
            assert (selection.event[b, ~mask[b]] == -1).all()
        assert_rows_are_a_choice(selection)

    @given(seed=seeds, dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]), hard=st.booleans())
    def test_rows_of_the_soft_mask_sum_to_one_in_every_dtype(self, seed, dtype, hard):
        connector = small("paper").to(dtype)
        selection = connector(video(2, 9, seed=seed).to(dtype), hard=hard).selection
        assert_close(selection.soft_mask.float().sum(-1), torch.ones(2, 3), 0.02 if dtype == torch.bfloat16 else 1e-5)

    @given(raw=st.lists(st.floats(-1e6, 1e6) | st.just(-math.inf) | st.just(math.nan), min_size=1, max_size=9))
    @settings(max_examples=80)
    def test_scores_are_between_zero_and_one(self, raw):
        scores = min_max(torch.tensor([raw], dtype=torch.float64))
        assert ((scores >= 0) & (scores <= 1)).all()
        assert scores.max() == 1


def assert_rows_are_a_choice(selection):
    real = selection.focus_index >= 0
    sums = selection.soft_mask.sum(-1)
    assert_close(sums[real], torch.ones(int(real.sum())), 1e-6)
    assert (sums[~real] == 0).all()
    assert (selection.soft_mask >= -1e-9).all()


class TestCoverage:
    @given(arm=arms, sizes=lengths, seed=seeds, training=st.booleans(), ratio=st.sampled_from([0.0, 0.3, 1.0]))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    def test_every_real_frame_once_in_order(self, arm, sizes, seed, training, ratio):
        connector = small(arm, focus_ratio=ratio).train(training)
        frames, mask, _ = padded_batch(sizes, seed)
        result = connector(frames, question(connector, len(sizes)), frame_mask=mask)
        counts = connector.encoder.token_counts(PATCHES)
        for b, part in enumerate(result.split()):
            focus = result.selection.is_focus[b, mask[b]]
            extra = counts.rods_of_all_focus * bool(focus.all())
            expected = torch.where(focus, counts.cone + extra, counts.rod)
            assert part.frame_index.tolist() == torch.arange(len(focus)).repeat_interleave(expected).tolist()
            detail = [[False] * extra + [True] * counts.cone if f else [False] * counts.rod for f in focus.tolist()]
            assert (part.kind == TokenKind.CONE).tolist() == [kind for kinds in detail for kind in kinds]

    @given(arm=arms, seed=seeds, patches=st.integers(1, 20), ratio=st.sampled_from([0.4, 1.0]))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    def test_anchors(self, arm, seed, patches, ratio):
        connector = small(arm, focus_ratio=ratio)
        result = connector(video(1, 5, seed=seed, patches=patches), question(connector), grid=(1, patches))
        for t in range(5):
            anchors = result.anchor[result.frame_index == t].tolist()
            assert len(set(anchors)) == len(anchors) <= patches
            assert all(0 <= anchor < patches for anchor in anchors)

    @given(seed=seeds, height=st.integers(1, 5), width=st.integers(1, 5), data=st.data())
    def test_spreading_is_a_permutation_when_the_frame_is_full(self, seed, height, width, data):
        wanted = data.draw(
            st.lists(st.integers(0, height * width - 1), min_size=height * width, max_size=height * width)
        )
        assert sorted(spread_anchors(torch.tensor(wanted), (height, width)).tolist()) == list(range(height * width))

    @given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=seeds)
    def test_pack_is_the_inverse_of_split(self, sizes, seed):
        generator = torch.Generator().manual_seed(seed)
        count = sum(sizes)
        video = CompressedVideo.build(
            torch.randn(count, 3, generator=generator),
            *(torch.randint(0, 9, (count,), generator=generator) for _ in range(3)),
            offsets=torch.tensor([0, *sizes]).cumsum(0),
        )
        again = CompressedVideo.pack(video.split())
        for one, other in zip(video[:5], again[:5], strict=True):
            assert torch.equal(one, other)
        assert [len(part.tokens) for part in video.split()] == sizes
        padded, mask = video.to_padded()
        assert torch.equal(padded[mask], video.tokens)


counts_of = st.builds(TokenCounts, st.integers(3, 60), st.integers(0, 2), st.just(0)) | st.builds(
    TokenCounts, st.integers(5, 60), st.just(2), st.just(2)
)


class TestBudgets:
    @given(
        max_tokens=st.integers(1, 4000),
        frames=st.integers(1, 60),
        counts=counts_of,
        ratio=st.sampled_from([0.1, 0.28, 0.45, 0.8, 1.0]),
        when_short=st.sampled_from(["resample", "focus_only", "error"]),
    )
    @settings(max_examples=300)
    def test_never_exceeded(self, max_tokens, frames, counts, ratio, when_short):
        patches = 64
        try:
            plan = TokenBudget(max_tokens, when_short=when_short).plan(frames, patches, counts, ratio)
        except ValueError:
            assert max_tokens < max(counts.rod * frames, 1)
            return
        assert plan.num_tokens <= max_tokens
        assert plan.num_focus <= plan.num_prototypes <= plan.num_frames <= frames
        if plan.everything:
            assert plan.num_tokens == patches * frames
            return
        assert max_tokens < patches * frames
        used = TokenCounts(counts.cone, 0) if plan.focus_only else counts
        assert plan.num_tokens == used.total(plan.num_frames, plan.num_focus)
        if plan.num_focus < plan.num_frames and not counts.rods_of_all_focus:
            assert used.total(plan.num_frames, plan.num_focus + 1) > max_tokens, "room for one more"
        if not plan.focus_only and plan.num_frames == frames and not counts.rods_of_all_focus:
            free = (max_tokens - counts.rod * frames) // (counts.cone - counts.rod)
            assert plan.num_focus == min(max(free, 0), frames)
        assert plan.num_prototypes == max(1, min(plan.num_frames, math.ceil(round(plan.num_focus / ratio, 9))))

    @given(
        frames=st.integers(1, 40),
        counts=counts_of,
        when_short=st.sampled_from(["focus_only", "error"]),
        budgets=st.lists(st.integers(1, 3000), min_size=2, max_size=6),
    )
    @settings(max_examples=100)
    def test_more_never_gives_less(self, frames, counts, when_short, budgets):
        """Above the price of all rods, whatever happens below."""
        budgets = sorted(b for b in budgets if b >= counts.rod * frames)
        plans = [TokenBudget(b, when_short=when_short).plan(frames, 64, counts, 0.8) for b in budgets]
        for less, more in pairwise(plans):
            assert less.num_tokens <= more.num_tokens
            assert less.num_focus <= more.num_focus
            assert less.num_prototypes <= more.num_prototypes

    @given(
        arm=st.sampled_from(sorted(set(ARMS) - {"cone_none", "cone_rods"})),
        max_tokens=st.integers(2, 200),
        frames=st.integers(1, 9),
        seed=seeds,
        training=st.booleans(),
    )
    @settings(max_examples=80)
    def test_the_plan_is_what_comes_out(self, arm, max_tokens, frames, seed, training):
        connector = CONNECTORS[arm].train(training)
        budget = TokenBudget(max_tokens)
        (plan,) = connector.plan(PATCHES, budget, frames)
        result = connector(video(2, frames, seed=seed), question(connector, 2), budget=budget)
        assert result.offsets.tolist() == [0, plan.num_tokens, 2 * plan.num_tokens]
        assert len(result.frame_index.unique()) <= plan.num_frames
        assume(not plan.everything)
        assert int(result.selection.is_focus.sum()) == 2 * plan.num_focus

    @given(
        arm=st.sampled_from(sorted(set(ARMS))),
        frames=st.integers(1, 6),
        seed=seeds,
        dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    )
    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    def test_a_budget_of_everything_is_everything(self, arm, frames, seed, dtype):
        connector = small(arm, projector=None).to(dtype)
        features = video(2, frames, seed=seed).to(dtype)
        result = connector(features, question(connector, 2).to(dtype), budget=TokenBudget(frames * PATCHES))
        assert torch.equal(result.tokens, features.flatten(0, 2))


class TestBFloat16:
    @given(arm=arms, sizes=lengths, seed=seeds)
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    def test_a_padded_batch_is_its_videos(self, arm, sizes, seed):
        connector = small(arm).bfloat16()
        frames, mask, videos = padded_batch(sizes, seed)
        text = question(connector, len(sizes), seed=seed).bfloat16()
        together = connector(frames.bfloat16(), text, frame_mask=mask)
        assert together.tokens.dtype == torch.bfloat16
        for b, (one, part) in enumerate(zip(videos, together.split(), strict=True)):
            if one.shape[1]:
                assert_same_video(part, connector(one.bfloat16(), text[b : b + 1]).split()[0], 0.03)

    @given(seed=seeds)
    def test_merging_is_as_good_as_its_inputs(self, seed):
        points = torch.randn(1, 40, 6, generator=torch.Generator().manual_seed(seed)).bfloat16()
        peaks = density_peaks(points, 5, 3)
        exact = merge_prototypes(points.double(), density_peaks(points.double(), 5, 3))
        assert_close(merge_prototypes(points, peaks).double(), exact, 0.02, 0.02)


@pytest.mark.parametrize("arm", ["importance", "paper"])
def test_laws_hold_at_a_thousand_frames(arm):
    connector, frames = CONNECTORS[arm].eval(), video(1, 1000)
    result = connector(frames)
    assert len(result.tokens) == connector.num_tokens(1000, PATCHES)
    assert result.frame_index.unique().tolist() == list(range(1000))
