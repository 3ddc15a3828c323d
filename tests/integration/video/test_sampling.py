"""Which frames are taken, from nothing but their times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynfocus_video.sampling import Sampling


def taken(sampling: Sampling, times: np.ndarray, average_fps: float = 25.0, duration: float | None = None) -> list[int]:
    end = float(times[-1]) + 1 / average_fps if duration is None else duration
    return sampling.indices(times, duration=end, average_fps=average_fps).tolist()


def test_one_frame_per_second_is_the_default():
    assert taken(Sampling(), np.arange(100) / 25) == [0, 25, 50, 75]


def test_a_tick_takes_the_frame_at_or_before_it():
    times = np.array([0.0, 0.4, 0.9, 1.1, 1.9, 2.0, 2.6])
    assert taken(Sampling(fps=1), times, duration=3.0) == [0, 2, 5]


def test_rounded_timestamps_do_not_slip_a_frame():
    times = np.round(np.arange(90) / 29.97, 3)
    times[30] = 1.00005
    assert 30 in taken(Sampling(fps=1), times, 29.97)


def test_a_long_still_picture_is_taken_once():
    assert taken(Sampling(fps=1), np.array([0.0, 0.1, 7.5]), duration=9.0) == [0, 1, 2]


def test_the_index_rule_is_the_papers():
    times = np.arange(300) / 29.97
    assert taken(Sampling(fps=1, rule="index"), times, 29.97) == list(range(0, 300, 30))
    assert taken(Sampling(fps=4, rule="index"), times, 29.97) == list(range(0, 300, 7))
    assert taken(Sampling(fps=60, rule="index"), times, 29.97) == list(range(300))


def test_a_number_of_frames_is_spread_evenly():
    times = np.arange(100) / 25
    assert taken(Sampling(frames=4), times) == [12, 37, 62, 87]
    assert taken(Sampling(frames=4, rule="index"), times) == [0, 33, 66, 99]
    assert taken(Sampling(frames=1), times) == [50]
    assert taken(Sampling(frames=500), times) == list(range(100))


@given(
    gaps=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=60),
    fps=st.floats(0.05, 40.0),
    rule=st.sampled_from(["timestamp", "index"]),
)
def test_indices_ascend_and_ticks_are_covered(gaps, fps, rule):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    duration = float(times[-1]) + 0.04
    indices = Sampling(fps=fps, rule=rule).indices(times, duration=duration, average_fps=25.0)
    assert indices[0] == 0
    assert (np.diff(indices) > 0).all()
    assert indices[-1] < len(times)
    if rule == "timestamp":
        for tick in np.arange(int(duration * fps)) / fps:
            on_screen = np.flatnonzero(times <= tick + 1e-4)[-1]
            assert on_screen in indices


def test_no_frames_give_no_indices():
    assert taken(Sampling(), np.zeros(0), duration=0.0) == []


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(fps=0.0), r"expected fps > 0, got 0\.0"),
        (Sampling(fps=float("nan")), "expected fps > 0, got nan"),
        (Sampling(frames=0), "expected frames >= 1, got 0"),
        (Sampling(fps=1.0, frames=3), r"got both: fps=1\.0, frames=3"),
        (Sampling(rule="nth"), "expected rule 'timestamp' or 'index', got 'nth'"),
    ],
)
def test_nonsense_is_refused(sampling, message):
    with pytest.raises(ValueError, match=message):
        sampling.checked()
