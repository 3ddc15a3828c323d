"""What holds for every stream, however it is cut into pushes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus_connector import StreamingConnector, TokenBudget
from tests.arms import PATCHES, question, small, video
from tests.comparing import assert_same_video

ARMS = ["paper", "importance", "question", "kmeans", "authors_code", "rods_see_patches"]
CONNECTORS = {
    (arm, dtype): small(arm).to(dtype)
    for arm in ARMS
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}
arms = st.sampled_from(ARMS)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
seeds = st.integers(0, 10_000)
cuts = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def stream_of(frames, sizes, connector, bound=10, ask=False):
    """Pushed in pieces of these sizes, over and over."""
    stream, start, turn = StreamingConnector(connector, bound), 0, 0
    while start < len(frames):
        stream.push(frames[start : start + sizes[turn % len(sizes)]])
        start, turn = start + sizes[turn % len(sizes)], turn + 1
        if ask:
            stream.tokens(budget=TokenBudget(max_tokens=40))
    return stream


def frames_of(length, seed, dtype=torch.float64):
    """Noise; every third time with a stretch of copies."""
    frames = video(1, length, seed=seed)[0]
    if seed % 3 == 0:
        frames[length // 3 : 2 * length // 3] = frames[0]
    return frames.to(dtype)


@given(arm=arms, length=st.integers(1, 35), seed=seeds, sizes=cuts, ask=st.booleans())
@settings(max_examples=25)
def test_pushes_may_be_divided_at_will(arm, length, seed, sizes, ask):
    connector = CONNECTORS[arm, torch.float64]
    frames, text = frames_of(length, seed), question(connector)
    expected = stream_of(frames, [length], connector).tokens(text)
    actual = stream_of(frames, sizes, connector, ask=ask).tokens(text)
    assert_same_video(actual, expected, 1e-8)
    assert torch.equal(actual.span, expected.span)
    assert torch.equal(actual.selection.event, expected.selection.event)


@given(arm=arms, length=st.integers(1, 35), seed=seeds, sizes=cuts, dtype=dtypes)
@settings(max_examples=25)
def test_the_same_stream_gives_the_same_tokens_in_its_own_dtype(arm, length, seed, sizes, dtype):
    connector, frames = CONNECTORS[arm, dtype], frames_of(length, seed, dtype)
    text = question(connector).to(dtype)
    first, second = (stream_of(frames, sizes, connector).tokens(text) for _ in range(2))
    assert first.tokens.dtype == dtype
    assert first.tokens.isfinite().all()
    assert_same_video(first, second, 0.0)


@given(arm=arms, length=st.integers(1, 35), seed=seeds, sizes=cuts)
@settings(max_examples=25)
def test_every_frame_of_the_stream_has_tokens_of_its_stretch(arm, length, seed, sizes):
    connector = CONNECTORS[arm, torch.float64]
    stream = stream_of(frames_of(length, seed), sizes, connector)
    answer = stream.tokens()
    index, tokens = answer.frame_index.unique(return_counts=True)
    assert torch.equal(index, stream.frame_index)
    assert len(index) <= 10
    spans = [list(range(a, b + 1)) for a, b in stream.span.tolist()]
    assert [frame for span in spans for frame in span] == list(range(length))
    assert all(frame in span for frame, span in zip(index.tolist(), spans, strict=True))
    assert len(answer.tokens) == connector.num_tokens(len(index), PATCHES)
    counts = connector.encoder.token_counts(PATCHES)
    if (focus := answer.selection.is_focus[0, index]).all():
        assert (tokens == counts.cone + counts.rods_of_all_focus).all()
    else:
        assert torch.equal(tokens, torch.where(focus, counts.cone, counts.rod))
    assert (answer.selection.event >= 0).all()


@given(length=st.integers(1, 35), seed=seeds, sizes=cuts, tokens=st.integers(2, 200))
@settings(max_examples=25)
def test_no_budget_is_exceeded(length, seed, sizes, tokens):
    stream = stream_of(frames_of(length, seed), sizes, CONNECTORS["paper", torch.float64])
    answer = stream.tokens(budget=TokenBudget(max_tokens=tokens))
    assert 0 < len(answer.tokens) <= tokens
    assert set(answer.frame_index.tolist()) <= set(stream.frame_index.tolist())
