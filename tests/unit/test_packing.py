from __future__ import annotations

import torch

from dynfocus_connector.packing import TokenCounts, frame_number, layout


def test_by_hand():
    """Video 0: rod, cone, padding. Video 1: padding, cone, rod."""
    focus = torch.tensor([[False, True, False], [False, True, False]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    place = layout(focus, mask, TokenCounts(3, 2), None)
    assert place.frame.tolist() == [0, 0, 1, 1, 1, 4, 4, 4, 5, 5]
    assert place.place.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 0, 1]
    assert place.is_cone.tolist() == [False] * 2 + [True] * 6 + [False] * 2
    assert place.offsets.tolist() == [0, 5, 10]
    assert frame_number(focus, mask).tolist() == [0, 1, 1, -1, 0, 1]


def test_a_known_number_of_tokens_changes_nothing():
    focus = torch.rand(3, 7) < 0.5
    counts = TokenCounts(4, 1)
    known = int(counts.total(21, int(focus.sum())))
    for one, other in zip(layout(focus, None, counts, None), layout(focus, None, counts, known), strict=True):
        assert torch.equal(one, other)


def test_rods_before_cones_where_nothing_is_peripheral():
    """The authors' code: an image gets both. A video with a peripheral frame does not."""
    place = layout(torch.tensor([[True], [True]]), torch.tensor([[True], [True]]), TokenCounts(2, 1, 1), None)
    assert place.is_cone.tolist() == [False, True, True] * 2
    assert place.place.tolist() == [0, 0, 1] * 2
    mixed = layout(torch.tensor([[True, False]]), None, TokenCounts(2, 1, 1), None)
    assert mixed.frame.tolist() == [0, 0, 1]
    padded = layout(torch.tensor([[True, False]]), torch.tensor([[True, False]]), TokenCounts(2, 1, 1), None)
    assert padded.frame.tolist() == [0, 0, 0]


def test_nothing_at_all():
    place = layout(torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool), TokenCounts(4, 2), None)
    assert place.frame.shape == (0,)
    assert place.offsets.tolist() == [0, 0, 0]


def test_totals():
    assert TokenCounts(40, 2).total(16, 13) == 526
    assert TokenCounts(38, 2, 2).total(36, 36) == 36 * 40
    assert TokenCounts(38, 2, 2).total(80, 36) == 36 * 38 + 44 * 2
    assert TokenCounts(40, 2).total(0, 0) == 0
