"""The Gumbel relaxation: what holds of any relaxed Top-K, and that its draws follow softmax(s / σ)."""

from __future__ import annotations

import pytest
import torch

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_connector.topk_gumbel import gumbel_topk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_real_rows_sum_to_one_and_the_rest_is_zero() -> None:
    scores = torch.rand(3, 6, generator=generator())
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    soft = gumbel_topk(scores, torch.tensor([2, 3, 0]), generator=generator(), mask=mask, max_k=3)
    torch.testing.assert_close(soft.sum(-1), torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert (soft[1, :, 4:] == 0).all()


def test_far_apart_scores_give_the_hard_choice_in_order_of_index() -> None:
    scores = torch.tensor([[30.0, 0.0, 10.0, 20.0]], requires_grad=True)
    soft = gumbel_topk(scores, 3, scale=1.0, temperature=0.1, generator=generator())
    torch.testing.assert_close(soft[0], torch.eye(4)[[0, 2, 3]], atol=1e-4, rtol=0)
    soft[0, 0, 0].backward()
    assert scores.grad is not None


def test_the_first_draw_follows_the_softmax() -> None:
    scores = torch.tensor([[0.2, 0.0, 0.1]])
    soft = gumbel_topk(scores.expand(20000, -1), 1, scale=0.1, generator=generator())
    share = soft[:, 0].argmax(-1).bincount(minlength=3) / 20000
    torch.testing.assert_close(share, (scores[0] / 0.1).softmax(-1), atol=0.015, rtol=0)


def test_gradients_reach_every_score() -> None:
    scores = torch.rand(2, 5, generator=generator(), requires_grad=True)
    weight = torch.randn(2, 2, 5, generator=generator(1))
    (gumbel_topk(scores, 2, scale=1.0, generator=generator()) * weight).sum().backward()
    assert (scores.grad != 0).all()


@pytest.mark.parametrize("train", [True, False])
def test_the_estimator_mixes_by_it_in_training_alone(train: bool) -> None:
    config = DynFocusConfig.paper(dim=6, dim_out=6, num_prototypes=4, focus_ratio=0.5, relaxation="gumbel")
    connector = build_connector(config).train(train)
    frames = torch.randn(1, 9, 16, 6, generator=generator())
    mask = connector.estimator(frames, generator=generator()).soft_mask
    assert bool(((mask == 0) | (mask == 1)).all()) != train
