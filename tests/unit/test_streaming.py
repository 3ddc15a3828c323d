from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import pytest
import torch

from dynfocus_connector import (
    CompressedVideo,
    DynFocusConfig,
    StreamingConnector,
    TokenBudget,
    TokenKind,
    build_connector,
)
from tests.arms import ARMS, DIM, PATCHES, question, small, video
from tests.comparing import assert_close, assert_same_video

BUDGETS = {
    "none": None,
    "tokens": TokenBudget(max_tokens=60),
    "short": TokenBudget(max_tokens=9),
    "focus_only": TokenBudget(max_tokens=17, when_short="focus_only"),
    "everything": TokenBudget(ratio=1.0),
}


def scenes(lengths, *, seed=0, noise=0.05, dtype=torch.float64):
    """One frame after another: scenes of these lengths, far apart."""
    looks = 2 * video(1, len(lengths), seed=seed)[0]
    label = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return (looks[label] + noise * video(1, len(label), seed=seed + 1)[0]).to(dtype), label


def streamed(connector, frames, bound=12, chunk=8):
    stream = StreamingConnector(connector, bound)
    for piece in frames.split(chunk):
        stream.push(piece)
    return stream


def assert_same_answer(actual, expected, tolerance=1e-9):
    """The tokens, and the whole selection behind them."""
    assert_same_video(actual, expected, tolerance)
    for name, ours, theirs in zip(actual.selection._fields, actual.selection, expected.selection, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert_close(ours, theirs, tolerance, tolerance)


class TestInsideTheBound:
    """While every frame is held: what the connector makes of all of them."""

    @pytest.mark.parametrize("budget", BUDGETS)
    @pytest.mark.parametrize("arm", ARMS)
    def test_offline(self, arm, budget):
        connector, frames = small(arm), video(1, 12, seed=3)
        text, stream = question(connector), streamed(connector, frames[0])
        if arm in ("cone_rods", "cone_none") and budget in ("tokens", "short", "focus_only"):
            with pytest.raises(ValueError, match="TokenBudget: expected more tokens per cone frame"):
                stream.tokens(text, budget=BUDGETS[budget])
            return
        expected, actual = (make(text, budget=BUDGETS[budget]) for make in (partial(connector, frames), stream.tokens))
        assert_same_answer(actual, expected)
        assert torch.equal(actual.span, expected.frame_index[:, None].expand(-1, 2))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("arm", ["paper", "importance", "authors_code", "rods_see_patches"])
    def test_offline_in_other_dtypes(self, arm, dtype):
        connector = small(arm).to(dtype)
        frames, text = video(1, 12).to(dtype), question(connector).to(dtype)
        actual, expected = streamed(connector, frames[0]).tokens(text), connector(frames, text)
        assert actual.tokens.dtype == dtype
        assert torch.equal(actual.selection.focus_index, expected.selection.focus_index)
        assert_same_video(actual, expected, 4 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_short_streams(self, count):
        frames = video(1, count)
        assert_same_answer(streamed(small(), frames[0]).tokens(), small()(frames))

    @pytest.mark.parametrize("preset", ["paper", "authors_code", "training_free"])
    def test_presets(self, preset):
        """At small sizes: 20 frames of 49 patches, more than a cone has tokens."""
        config = getattr(DynFocusConfig, preset)(dim=8)
        if preset != "training_free":
            config = getattr(DynFocusConfig, preset)(dim=8, dim_text=5, dim_out=10)
        connector = build_connector(config).eval()
        frames, text = video(1, 20, patches=49, dim=8).float(), question(connector).float()
        stream = streamed(connector, frames[0], 2 * config.num_prototypes, chunk=6)
        assert_same_answer(stream.tokens(text), connector(frames, text), 1e-5)

    def test_other_grids_and_text_per_frame(self):
        connector, frames = small(), video(1, 10, patches=24)
        text = question(connector, 10)[None]
        mask = torch.ones(1, 10, 3, dtype=torch.bool)
        mask[:, ::2, 1] = False
        stream = StreamingConnector(connector, 12, grid=(4, 6))
        stream.push(frames[0])
        assert_same_answer(stream.tokens(text, text_mask=mask), connector(frames, text, text_mask=mask, grid=(4, 6)))
        few, budget = frames[:, :, :16], TokenBudget(max_tokens=9)
        expected = connector(few, text, text_mask=mask, budget=budget)
        assert_same_answer(streamed(connector, few[0]).tokens(text, text_mask=mask, budget=budget), expected)

    def test_damaged_frames(self):
        frames = video(1, 12)
        frames[0, 4], frames[0, 7, 3, 2] = math.nan, math.inf
        assert_same_answer(streamed(small(), frames[0], chunk=5).tokens(), small()(frames))

    def test_training_mode_changes_nothing(self):
        frames = video(1, 12)
        video_of_stream = streamed(small().train(), frames[0]).tokens()
        assert not video_of_stream.tokens.requires_grad
        assert_same_answer(video_of_stream, small()(frames, hard=True))


class TestBeyondTheBound:
    LENGTHS = (40, 1, 70, 2, 25, 60)

    @pytest.mark.parametrize("arm", ARMS)
    def test_every_arm_goes_on(self, arm):
        connector = small(arm, num_prototypes=6)
        frames, _ = scenes(self.LENGTHS)
        stream = streamed(connector, frames, chunk=7)
        answer = stream.tokens(question(connector))
        assert stream.num_frames == 198
        assert len(stream.frame_index) <= 12
        assert answer.tokens.isfinite().all()
        assert set(answer.frame_index.tolist()) <= set(stream.frame_index.tolist())
        assert (answer.frame_index.diff() >= 0).all()
        assert len(answer.tokens) == connector.num_tokens(len(stream.frame_index), PATCHES)

    @pytest.mark.parametrize("arm", ["paper", "importance", "uniform", "centers"])
    def test_every_scene_is_an_event_as_it_is_offline(self, arm):
        connector = small(arm, num_prototypes=6, focus_ratio=1.0)
        frames, label = scenes(self.LENGTHS)
        selection, offline = streamed(connector, frames).tokens().selection, connector(frames[None]).selection
        assert label[selection.focus_index[0]].tolist() == list(range(6))
        assert label[offline.focus_index[0]].tolist() == list(range(6))
        assert torch.equal(selection.event[0], label)
        assert torch.equal(selection.event, offline.event)
        assert_close(selection.prototypes, offline.prototypes, 0.05, 0.05)

    @pytest.mark.parametrize("arm", ["kmeans", "weighted_kmeans"])
    def test_kmeans_finds_the_scenes_too(self, arm):
        connector = small(arm, num_prototypes=6, focus_ratio=1.0, clustering_seeding="farthest")
        frames, label = scenes(self.LENGTHS)
        selection = streamed(connector, frames).tokens().selection
        assert torch.equal(selection.event[0], label)
        assert_close(selection.prototypes, connector(frames[None]).selection.prototypes, 0.05, 0.05)

    def test_prototypes_count_a_frame_for_all_it_stands_for(self):
        """Equal weights, one event: the prototype is the mean of the stream to the noise of what has left."""
        connector = small("uniform", num_prototypes=1)
        frames, _ = scenes((90, 10), noise=0.0)
        selection = streamed(connector, frames, 8).tokens().selection
        assert_close(selection.prototypes, connector(frames[None]).selection.prototypes, 1e-12)

    def test_stretches_tile_the_stream(self):
        frames, _ = scenes(self.LENGTHS)
        stream = streamed(small(num_prototypes=6), frames)
        answer = stream.tokens()
        spans = answer.span[torch.cat([torch.ones(1, dtype=torch.bool), answer.frame_index.diff() > 0])]
        assert torch.equal(spans, stream.span)
        assert [spans[0, 0], spans[-1, 1]] == [0, 197]
        assert torch.equal(spans[1:, 0], spans[:-1, 1] + 1)

    def test_a_stretch_stays_within_its_scene(self):
        frames, label = scenes(self.LENGTHS)
        span = streamed(small(num_prototypes=6), frames).span
        assert torch.equal(label[span[:, 0]], label[span[:, 1]])

    def test_content_tokens_are_means_of_stretches(self):
        """Without a projector the first rod token is the mean of G_t, averaged over the stretch."""
        connector = build_connector(
            DynFocusConfig.training_free(dim=DIM, num_prototypes=6, spatial_prototypes=(4, 2), focus_ratio=0.0),
            dtype=torch.float64,
        )
        frames, _ = scenes(self.LENGTHS)
        answer = streamed(connector, frames).tokens()
        every = connector(frames[None]).tokens[::2]
        for token, (first, last) in zip(answer.tokens[::2], answer.span[::2].tolist(), strict=True):
            assert_close(token, every[first : last + 1].mean(0), 1e-9)

    @pytest.mark.parametrize("tokens", [13, 40, 90, 191, 192])
    @pytest.mark.parametrize("short", ["resample", "focus_only"])
    def test_budget(self, tokens, short):
        frames, _ = scenes(self.LENGTHS)
        stream = streamed(small(num_prototypes=6), frames)
        answer = stream.tokens(budget=TokenBudget(max_tokens=tokens, when_short=short))
        held = len(stream.frame_index)
        assert held * PATCHES == 192
        expected = small().plan(PATCHES, TokenBudget(max_tokens=tokens, when_short=short), held)[0]
        assert len(answer.tokens) == expected.num_tokens <= tokens
        assert answer.selection.is_focus.sum() == expected.num_focus

    def test_of_a_short_budget_the_most_separate_frames_take_part(self):
        """Six scenes, 23 tokens for 12 frames: room for the rods of five, each of another scene."""
        frames, label = scenes(self.LENGTHS)
        answer = streamed(small(num_prototypes=6), frames).tokens(budget=TokenBudget(max_tokens=23))
        assert len(answer.frame_index.unique()) == len(label[answer.frame_index].unique()) == 5
        assert (answer.selection.event >= 0).sum() == sum(b - a + 1 for a, b in answer.span.unique(dim=0).tolist())

    def test_text_per_frame_held(self):
        connector = small(num_prototypes=6)
        frames, _ = scenes(self.LENGTHS)
        stream = streamed(connector, frames)
        same = question(connector)
        each = same[:, None].expand(-1, len(stream.frame_index), -1, -1)
        assert_same_video(stream.tokens(each), stream.tokens(same), 1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_dtype(self, dtype):
        connector = small(num_prototypes=6, focus_ratio=1.0).to(dtype)
        frames, label = scenes(self.LENGTHS, dtype=dtype)
        answer = streamed(connector, frames, chunk=9).tokens()
        assert answer.tokens.dtype == dtype
        assert label[answer.selection.focus_index[0]].tolist() == list(range(6))

    def test_damaged_frames_poison_nothing(self):
        connector = small(num_prototypes=6, focus_ratio=1.0)
        frames, label = scenes(self.LENGTHS)
        frames[30:35], frames[130, 3] = math.nan, math.inf
        answer = streamed(connector, frames, chunk=11).tokens(question(connector))
        assert answer.tokens.isfinite().all()
        assert label[answer.selection.focus_index[0]].tolist() == list(range(6))


class TestQuestions:
    """What a question costs, counted."""

    @pytest.fixture
    def calls(self, monkeypatch):
        counts = dict.fromkeys(("events", "scored", "frames clustered", "rows projected finely", "rods"), 0)

        def count(connector):
            estimator, encoder = connector.estimator, connector.encoder
            find, fine, cluster = estimator.find_events, encoder.projector.fine, encoder.spatial.cluster

            def add(name, amount=1):
                counts[name] += amount

            def found(*given, **named):
                add("events")
                return find(*given, **named)

            def clustered(frames):
                add("frames clustered", frames.shape[1])
                return cluster(frames)

            def projected(rows):
                add("rows projected finely", rows.shape[:-1].numel())
                return fine(rows)

            monkeypatch.setattr(estimator, "find_events", found)
            monkeypatch.setattr(encoder.projector, "fine", projected)
            estimator.score.register_forward_hook(lambda *_: add("scored"))
            monkeypatch.setattr(encoder.spatial, "cluster", clustered)
            encoder.rods.register_forward_hook(lambda *_: add("rods"))
            return connector

        return counts, count

    @pytest.mark.parametrize("frames", [10, 40])
    @pytest.mark.parametrize("arm", ["paper", "question"])
    def test_a_second_question_costs_rods_and_what_it_changes(self, calls, arm, frames):
        counts, count = calls
        connector = count(small(arm))
        stream = streamed(connector, video(1, frames)[0])
        stream.tokens(question(connector))
        cone_rows = 3 * (4 + 4 + 2)
        first = {"events": 1, "scored": 1, "frames clustered": frames, "rows projected finely": cone_rows, "rods": 1}
        assert counts == first
        stream.tokens(question(connector, seed=5))
        sees = arm == "question"
        assert counts == {
            **first,
            "scored": 1 + sees,
            "rows projected finely": cone_rows * (1 + sees),
            "rods": 2,
        }
        stream.push(video(1, 1)[0, 0])
        stream.tokens(question(connector, seed=5))
        assert counts["events"] == 2
        assert counts["frames clustered"] == frames + 1

    @pytest.mark.parametrize("arm", ["paper", "question", "authors_code"])
    @pytest.mark.parametrize("frames", [10, 40])
    def test_the_second_answer_is_that_of_a_fresh_stream(self, arm, frames):
        connector, pushed = small(arm), video(1, frames)[0]
        stream = streamed(connector, pushed)
        budget, texts = TokenBudget(max_tokens=70), [question(connector, seed=seed) for seed in range(3)]
        answers = [stream.tokens(texts[0]), stream.tokens(texts[1], budget=budget), stream.tokens(texts[2])]
        for answer, text, own in zip(answers, texts, (None, budget, None), strict=True):
            assert_same_answer(answer, streamed(connector, pushed).tokens(text, budget=own), 0.0)

    def test_only_the_context_depends_on_the_question(self):
        connector = small()
        stream = streamed(connector, video(1, 40)[0])
        a, b = stream.tokens(question(connector)), stream.tokens(question(connector, seed=9))
        differ = (a.tokens != b.tokens).any(1)
        rods = a.kind == int(TokenKind.ROD)
        context = rods & (rods.cumsum(0) % 2 == 0)
        assert torch.equal(differ, context)

    def test_text_weight_counts_as_seeing(self):
        connector = small("cosine", scorer="importance", text_weight=1.0)
        frames = video(1, 40)
        stream = streamed(connector, frames[0], 40)
        for seed in range(3):
            text = question(connector, seed=seed)
            assert_same_answer(stream.tokens(text), connector(frames, text))


class TestStream:
    @pytest.mark.parametrize("bound", [12, 200])
    def test_division_among_pushes_and_asking_between_change_nothing(self, bound):
        connector = small()
        frames, _ = scenes((40, 1, 70, 2, 25))
        expected = streamed(connector, frames, bound, chunk=1000).tokens()
        for chunk in (1, 7, 64):
            assert_same_answer(streamed(connector, frames, bound, chunk).tokens(), expected)
        asked = StreamingConnector(connector, bound)
        for piece in frames.split(9):
            asked.push(piece)
            asked.tokens(budget=TokenBudget(max_tokens=50))
        assert_same_answer(asked.tokens(), expected)

    def test_reset(self):
        connector, frames = small(), video(1, 30)[0]
        stream = streamed(connector, 7 + video(1, 50)[0])
        stream.tokens()
        stream.reset()
        assert stream.num_frames == 0
        stream.push(frames[:, :9, :])
        assert stream.tokens().frame_index[-1] <= 29
        stream.reset()
        stream.push(frames)
        assert_same_answer(stream.tokens(), streamed(connector, frames).tokens())

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    @pytest.mark.parametrize("before", [5, 31])
    def test_a_copy_goes_on_alone(self, copied, before):
        connector, frames = small(), video(1, 50)[0]
        stream = streamed(connector, frames[:before])
        stream.tokens()
        other = copied(stream)
        other.push(frames[before:])
        assert stream.num_frames == before
        assert_same_answer(other.tokens(), streamed(connector, frames).tokens())

    def test_the_state_alone_can_be_handed_on(self):
        connector, frames = small(), video(1, 50)[0]
        other = StreamingConnector(connector, 12)
        other.memory = pickle.loads(pickle.dumps(streamed(connector, frames[:31]).memory))
        other.push(frames[31:])
        assert_same_answer(other.tokens(), streamed(connector, frames).tokens())

    def test_what_was_pushed_may_be_overwritten(self):
        connector, frames = small(), video(1, 9)[0]
        buffer, stream = torch.empty_like(frames[0]), StreamingConnector(connector, 12)
        for frame in frames:
            stream.push(buffer.copy_(frame))
        index = stream.frame_index
        index += 100
        assert_same_answer(stream.tokens(), connector(frames[None]))

    def test_nothing_pushed_is_nothing_seen(self):
        stream = streamed(small(), video(1, 9)[0])
        before = stream.tokens()
        stream.push(video(1, 9)[0, :0])
        assert stream.num_frames == 9
        assert_same_answer(stream.tokens(), before)

    def test_splits_and_packs_with_its_spans(self):
        connector = small()
        answer, plain = streamed(connector, video(1, 40)[0]).tokens(), connector(video(1, 5))
        both = CompressedVideo.pack([answer, plain])
        parts = both.split()
        assert torch.equal(parts[0].span, answer.span)
        assert torch.equal(parts[1].span, plain.frame_index[:, None].expand(-1, 2))
        assert CompressedVideo.pack([plain, plain]).span is None


def test_ten_hours_at_one_frame_per_second():
    """36,000 frames, 256 of them held; long scenes and single frames in between."""
    connector = small(num_prototypes=25).float()
    stream = StreamingConnector(connector, 256)
    lengths = [3000, 1, 9000, 2, 600, 4000, 1, 8000, 60, 11336]
    frames, label = scenes(lengths, dtype=torch.float32)
    assert len(frames) == 36_000
    sizes = set()
    for piece in frames.split(500):
        stream.push(piece)
        sizes.add(stream.memory.num_bytes)
    answer = stream.tokens(question(connector).float())
    assert len(sizes) == 1
    assert label[stream.frame_index].unique().tolist() == list(range(10))
    assert answer.span[-1, 1] == 35_999
    peaks = label[answer.selection.prototype_index[0]]
    assert peaks.unique().tolist() == list(range(10))
