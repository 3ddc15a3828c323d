"""Appendix A: two ratios, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dynfocus_connector import estimate_redundancy


def directions(*degrees: float) -> torch.Tensor:
    radians = torch.tensor([math.radians(d) for d in degrees], dtype=torch.float64)
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_temporal_ratio_counts_frames_like_the_next() -> None:
    # angles to the next frame: 0, 90, 0, 60 degrees; cosines 1, 0, 1, 0.5, already on [0, 1]
    frames = directions(0, 0, 90, 90, 150)
    assert estimate_redundancy(frames, temporal_threshold=0.6).temporal == 0.5
    assert estimate_redundancy(frames, temporal_threshold=0.4).temporal == 0.75


def test_the_norm_of_features_does_not_matter() -> None:
    frames = directions(0, 10, 90, 95, 150)
    scaled = frames * torch.tensor([1.0, 7.0, 0.1, 3.0, 2.0])[:, None]
    assert estimate_redundancy(frames, temporal_threshold=0.5) == estimate_redundancy(scaled, temporal_threshold=0.5)


def test_a_static_video_is_redundant() -> None:
    assert estimate_redundancy(directions(30).expand(8, 2), temporal_threshold=0.9).temporal == 1.0


def test_answer_irrelevant_ratio() -> None:
    # best cosine with the two tokens (0 and 90 degrees): 1, 1, cos 45; cos 60 with the first for -60; normalised
    frames = directions(0, 90, 45, -60)
    ratio = estimate_redundancy(frames, directions(0, 90), temporal_threshold=0.5, relevance_threshold=0.5)
    assert ratio.answer_irrelevant == 0.5
    mean = estimate_redundancy(
        frames, directions(0, 90), temporal_threshold=0.5, relevance_threshold=0.5, reduction="mean"
    )
    assert mean.answer_irrelevant == 0.25


def test_frames_that_relate_alike_are_all_relevant() -> None:
    ratio = estimate_redundancy(directions(0, 0), directions(45), temporal_threshold=0.5, relevance_threshold=0.5)
    assert ratio.answer_irrelevant == 0.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"frames": directions(0)}, "at least 2 frames, got 1"),
        ({"text": directions(0)}, "relevance_threshold with text, got None"),
        ({"text": torch.ones(1, 3), "relevance_threshold": 0.5}, "width 2, got 3"),
        ({"text": directions(0), "relevance_threshold": 0.5, "reduction": "sum"}, "got 'sum'"),
    ],
)
def test_bad_input(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        estimate_redundancy(**{"frames": directions(0, 1), "temporal_threshold": 0.5, **arguments})
