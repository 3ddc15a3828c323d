from __future__ import annotations

import pytest
import torch

from dynfocus_connector import CompressedVideo, FrameSelection, TokenKind


def packed(lengths=(3, 0, 2), dim=4):
    count = sum(lengths)
    return CompressedVideo.build(
        tokens=torch.randn(count, dim),
        frame_index=torch.cat([torch.arange(n) for n in lengths]),
        kind=torch.full((count,), int(TokenKind.CONE)),
        anchor=torch.arange(count),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
    )


def test_kinds_are_the_mask():
    assert (int(TokenKind.ROD), int(TokenKind.CONE)) == (0, 1)


def test_split_and_pack_by_hand():
    video = packed()
    parts = video.split()
    assert [len(part.tokens) for part in parts] == [3, 0, 2]
    assert parts[2].offsets.tolist() == [0, 2]
    assert torch.equal(parts[2].tokens, video.tokens[3:])
    for one, other in zip(CompressedVideo.pack(parts)[:5], video[:5], strict=True):
        assert torch.equal(one, other)


def test_padded():
    video = packed()
    padded, mask = video.to_padded()
    assert mask.tolist() == [[True, True, True], [False] * 3, [True, True, False]]
    assert torch.equal(padded[mask], video.tokens)
    assert (padded[~mask] == 0).all()


@pytest.mark.parametrize("lengths", [(0,), (0, 0)])
def test_padded_without_tokens(lengths):
    padded, mask = packed(lengths).to_padded()
    assert padded.shape == (len(lengths), 0, 4)
    assert mask.shape == (len(lengths), 0)


def test_padding_hides_damaged_tokens_only_where_it_is_padding():
    video = packed((1, 2))
    video.tokens[-1] = torch.nan
    padded, mask = video.to_padded()
    assert padded[0].isfinite().all()
    assert padded[mask].isnan().any()


def test_tokens_per_frame():
    video = packed((4,))._replace(frame_index=torch.tensor([0, 0, 2, 2]))
    assert [count.tolist() for count in video.tokens_per_frame()] == [[2, 0, 2]]


def test_gradient_reaches_tokens_through_every_view():
    video = packed()
    tokens = video.tokens.requires_grad_()
    (video.to_padded()[0].sum() + sum(part.tokens.sum() for part in video.split())).backward()
    assert (tokens.grad == 2).all()


def test_filtered_prototypes():
    selection = FrameSelection.build(
        scores=torch.ones(1, 2),
        prototype_index=torch.tensor([[0, 2]]),
        prototypes=torch.tensor([[[[1.0]], [[5.0]]]]),
        event=torch.tensor([[0, 0, 1]]),
        soft_mask=torch.tensor([[[0.25, 0.75]]]),
        focus_index=torch.tensor([[2]]),
        is_focus=torch.tensor([[False, False, True]]),
        log_importance=torch.zeros(1, 3),
    )
    assert selection.filtered_prototypes().tolist() == [[[[4.0]]]]
