"""splice: tokens in the place of placeholders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynfocus_connector import CompressedVideo, splice

SLOT, IGNORE = -200, -100
DIM = 4


def videos(*lengths: int) -> CompressedVideo:
    """Token i of the batch is the constant 100 + i."""
    total = sum(lengths)
    index = torch.arange(total)
    return CompressedVideo.build(
        tokens=(100.0 + index)[:, None].expand(total, DIM).clone().requires_grad_(),
        frame_index=index * 0,
        kind=index * 0,
        anchor=index * 0,
        offsets=torch.tensor([0, *lengths]).cumsum(0),
    )


@pytest.fixture
def embed() -> nn.Embedding:
    """Token id i is the constant i."""
    table = nn.Embedding(10, DIM)
    table.weight = nn.Parameter(torch.arange(10.0)[:, None].expand(10, DIM).clone())
    return table


def rows(embeds: torch.Tensor) -> list[list[float]]:
    return embeds[..., 0].tolist()


def test_a_video_takes_the_place_of_its_placeholder(embed: nn.Embedding) -> None:
    ids = torch.tensor([[1, SLOT, 2]])
    prompt = splice(videos(3), ids, embed, placeholder=SLOT, labels=torch.tensor([[7, 8, 9]]))
    assert rows(prompt.inputs_embeds) == [[1, 100, 101, 102, 2]]
    assert prompt.labels is not None
    assert prompt.labels.tolist() == [[7, IGNORE, IGNORE, IGNORE, 9]]
    assert prompt.is_video.tolist() == [[False, True, True, True, False]]
    assert prompt.position_ids.tolist() == [[0, 1, 2, 3, 4]]
    assert prompt.attention_mask.all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_samples_of_different_length_are_padded_anew(embed: nn.Embedding, side: str) -> None:
    ids = torch.tensor([[0, SLOT, 1], [2, 3, 0]])
    real = torch.tensor([[0, 1, 1], [1, 1, 0]])
    prompt = splice(videos(3), ids, embed, placeholder=SLOT, attention_mask=real, padding_side=side, labels=ids)
    text = [2.0, 3.0]
    assert rows(prompt.inputs_embeds) == [[100, 101, 102, 1], [0, 0, *text] if side == "left" else [*text, 0, 0]]
    assert prompt.attention_mask.sum(1).tolist() == [4, 2]
    assert prompt.position_ids[1].tolist() == ([0, 0, 0, 1] if side == "left" else [0, 1, 0, 0])
    assert prompt.labels is not None
    padding = prompt.labels[1][~prompt.attention_mask[1]]
    assert padding.tolist() == [IGNORE, IGNORE]


def test_several_videos_and_none(embed: nn.Embedding) -> None:
    ids = torch.tensor([[SLOT, 5, SLOT], [6, 7, 8], [9, SLOT, 9]])
    prompt = splice(videos(1, 2, 1), ids, embed, placeholder=SLOT)
    assert rows(prompt.inputs_embeds) == [[100, 5, 101, 102], [6, 7, 8, 0], [9, 103, 9, 0]]


def test_a_video_without_tokens_has_no_placeholder(embed: nn.Embedding) -> None:
    prompt = splice(videos(0, 2), torch.tensor([[1, 2], [SLOT, 3]]), embed, placeholder=SLOT)
    assert rows(prompt.inputs_embeds) == [[1, 2, 0], [100, 101, 3]]


def test_gradients_reach_tokens_and_embedding(embed: nn.Embedding) -> None:
    video = videos(2)
    prompt = splice(video, torch.tensor([[1, SLOT]]), embed, placeholder=SLOT)
    prompt.inputs_embeds.sum().backward()
    assert video.tokens.grad is not None
    assert (video.tokens.grad == 1).all()
    assert embed.weight.grad is not None
    assert embed.weight.grad[1].tolist() == [1] * DIM


def test_text_alone_still_joins_the_tokens_to_the_graph(embed: nn.Embedding) -> None:
    video = videos(0)
    prompt = splice(video, torch.tensor([[1, 2]]), embed, placeholder=SLOT)
    prompt.inputs_embeds.sum().backward()
    assert video.tokens.grad is not None


def test_a_masked_placeholder_is_padding(embed: nn.Embedding) -> None:
    mask = torch.tensor([[0, 1, 1]])
    prompt = splice(videos(1), torch.tensor([[SLOT, SLOT, 1]]), embed, placeholder=SLOT, attention_mask=mask)
    assert rows(prompt.inputs_embeds) == [[100, 1]]


def test_tokens_take_the_dtype_of_the_embedding(embed: nn.Embedding) -> None:
    prompt = splice(videos(1), torch.tensor([[SLOT]]), embed.to(torch.bfloat16), placeholder=SLOT)
    assert prompt.inputs_embeds.dtype == torch.bfloat16


@pytest.mark.parametrize("lengths", [(), (2, 2)])
def test_placeholders_must_match_videos(embed: nn.Embedding, lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"got 1 placeholders and {len(lengths)} videos"):
        splice(videos(*lengths), torch.tensor([[SLOT]]), embed, placeholder=SLOT)


def test_width_must_match(embed: nn.Embedding) -> None:
    video = videos(1)._replace(tokens=torch.zeros(1, DIM + 1))
    with pytest.raises(ValueError, match=r"as wide as the embedding \(4\), got 5"):
        splice(video, torch.tensor([[SLOT]]), embed, placeholder=SLOT)


def test_padding_side_must_be_known(embed: nn.Embedding) -> None:
    with pytest.raises(ValueError, match="'left' or 'right', got 'middle'"):
        splice(videos(1), torch.tensor([[SLOT]]), embed, placeholder=SLOT, padding_side="middle")  # type: ignore[arg-type]
