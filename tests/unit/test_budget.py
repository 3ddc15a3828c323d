from __future__ import annotations

import pytest

from dynfocus_connector import TokenBudget
from dynfocus_connector.budget import evenly
from dynfocus_connector.packing import TokenCounts

PAPER = TokenCounts(40, 2)


def plan(max_tokens, frames=100, patches=256, counts=PAPER, ratio=0.8, when_short="resample"):
    return TokenBudget(max_tokens=max_tokens, when_short=when_short).plan(frames, patches, counts, ratio)


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (200, (100, 1, 0, 200)),  # rods only
        (237, (100, 1, 0, 200)),  # one token short of a cone frame
        (238, (100, 2, 1, 238)),
        (1000, (100, 27, 21, 998)),  # (1000 - 200) / 38 = 21.05
        (3999, (100, 100, 99, 3962)),  # 124 events would be needed, the video has 100
        (4000, (100, 100, 100, 4000)),
        (25_599, (100, 100, 100, 4000)),
    ],
)
def test_by_hand(max_tokens, expected):
    result = plan(max_tokens)
    assert result[:4] == expected
    assert not result.everything
    assert not result.focus_only


def test_everything():
    assert plan(25_600) == (100, 100, 100, 25_600, True, False)
    assert plan(10**9).num_tokens == 25_600


def test_ratio_is_exact():
    """0.07 of 100 frames of 256 patches is 1792, not 1791 as in floating point."""
    assert TokenBudget(ratio=0.07).tokens_for(100, 256) == 1792
    assert TokenBudget(ratio=1.0).plan(7, 9, TokenCounts(9, 2), 0.8).everything


def test_short_resamples():
    """B < 2T: half to rods, half to cones. 199 tokens: 49 frames, (199 - 98) / 38 = 2 of them in focus."""
    assert plan(199) == (49, 3, 2, 174, False, False)
    assert plan(2)[:4] == (1, 1, 0, 2)
    assert plan(3)[:4] == (1, 1, 0, 2)


def test_short_focus_only():
    assert plan(199, when_short="focus_only") == (100, 5, 4, 160, False, True)
    assert plan(200, when_short="focus_only").focus_only is False


def test_rods_where_all_is_in_focus():
    """The authors' code: all 5 of 5 frames in focus would cost 200 tokens, not 190."""
    counts = TokenCounts(38, 2, 2)
    assert plan(199, 5, counts=counts)[1:4] == (5, 4, 154)
    assert plan(200, 5, counts=counts)[1:4] == (5, 5, 200)


def test_ratio_zero_keeps_all_events():
    assert plan(1000, ratio=0)[1:3] == (100, 21)


@pytest.mark.parametrize(("frames", "count", "expected"), [(10, 5, [1, 3, 5, 7, 9]), (10, 1, [5]), (3, 3, [0, 1, 2])])
def test_evenly(frames, count, expected):
    assert evenly(frames, count) == expected


def test_evenly_is_distinct():
    for frames in range(1, 30):
        for count in range(1, frames + 1):
            assert len(set(evenly(frames, count))) == count
            assert max(evenly(frames, count)) < frames
