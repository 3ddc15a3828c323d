"""check_features names what is wrong."""

from __future__ import annotations

import pytest
import torch

from dynfocus_connector import check_features


def test_finite_features_pass() -> None:
    check_features(torch.zeros(2, 3, 4, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_frame_is_named(value: float) -> None:
    frames = torch.zeros(5, 4, 3)
    frames[2, 1, 0] = value
    frames[4, 0, 0] = value
    with pytest.raises(ValueError, match=r"2 of 5 frames, first in frame 2\."):
        check_features(frames)


def test_so_is_the_video() -> None:
    frames = torch.zeros(2, 5, 4, 3)
    frames[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"attach: .* 1 of 10 frames, first in frame 3 of video 1\."):
        check_features(frames, name="attach")
