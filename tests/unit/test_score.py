from __future__ import annotations

import math

import pytest
import torch

from dynfocus_connector import QuestionScoreNetwork, ScoreNetwork
from dynfocus_connector.score import attend, masked_mean, min_max, summarise
from tests.comparing import assert_close, assert_every_parameter_has_a_gradient
from tests.reference import networks as reference


def weights_of(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def test_summaries_by_hand():
    prototypes = torch.tensor([[[[3.0, 0.0], [0.0, -4.0]]]])
    assert summarise(prototypes, "largest_norm").tolist() == [[[0.0, -4.0, 1.5, -2.0]]]
    assert summarise(prototypes, "elementwise_max").tolist() == [[[1.5, -2.0, 3.0, 0.0]]]


@pytest.mark.parametrize("kind", ["largest_norm", "elementwise_max"])
@pytest.mark.parametrize("shared", [False, True])
def test_oracle(kind, shared):
    network = ScoreNetwork(4, score_input=kind, share_context=shared, dtype=torch.float64)
    prototypes = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    scores = network(prototypes)
    for b in range(2):
        assert_close(scores[b], reference.phi(prototypes[b].numpy(), weights_of(network), kind, shared))


def test_shared_context_is_the_mean_of_real_prototypes():
    network = ScoreNetwork(4, share_context=True, dtype=torch.float64)
    prototypes = torch.randn(1, 5, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False, False]])
    assert_close(network(prototypes, mask)[:, :3], network(prototypes[:, :3]))
    assert_close(masked_mean(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]])), [[[2.0]]])


def test_gradient():
    network = ScoreNetwork(3, hidden=(4,), dtype=torch.float64)
    prototypes = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, prototypes)


def test_parameters_of_the_paper():
    """LayerNorm, 2816 -> 2816 -> 1408 -> 704 -> 1, as the authors have it."""
    assert sum(p.numel() for p in ScoreNetwork(1408, device="meta").parameters()) == 12_897_281


def test_layers_by_count():
    """LayerNorm 8 + 8, 4: 8*4 + 4, 1: 4 + 1."""
    assert sum(p.numel() for p in ScoreNetwork(4, hidden=(4,)).parameters()) == 57


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype(dtype):
    network = ScoreNetwork(4, dtype=dtype)
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert network(torch.randn(1, 2, 3, 4).to(dtype)).dtype == dtype


def test_float64_stays_float64():
    prototypes = torch.tensor([[[[1.0, 0.0], [0.0, 1.0 + 1e-12]]]], dtype=torch.float64)
    assert summarise(prototypes, "largest_norm")[0, 0, 1] == 1.0 + 1e-12


class TestQuestionScoreNetwork:
    def test_the_question_matters(self):
        network = QuestionScoreNetwork(4, 3, dtype=torch.float64)
        prototypes = torch.randn(1, 5, 2, 4, dtype=torch.float64)
        one, other = (network(prototypes, torch.randn(1, 6, 3, dtype=torch.float64)) for _ in range(2))
        assert not torch.allclose(one, other)

    def test_oracle(self):
        network = QuestionScoreNetwork(3, 2, hidden=(4,), dtype=torch.float64)
        prototypes, text = torch.randn(1, 2, 2, 3, dtype=torch.float64), torch.randn(1, 5, 2, dtype=torch.float64)
        weights = weights_of(network)
        summary = reference.summary(prototypes[0].numpy(), "largest_norm")
        query = reference.linear(summary, weights, "query")
        key, value = (reference.linear(text[0].numpy(), weights, name) for name in ("key", "value"))
        found = reference.softmax(query @ key.T / math.sqrt(3)) @ value
        import numpy as np

        row = np.concatenate([summary, found, query * found], -1)
        hidden = reference.gelu(reference.linear(reference.layer_norm(row, weights, "embed.0"), weights, "embed.1"))
        assert_close(network(prototypes, text)[0], reference.linear(hidden, weights, "regress.0")[..., 0])

    def test_masked_text_has_no_part(self):
        network = QuestionScoreNetwork(4, 3, dtype=torch.float64)
        prototypes, text = torch.randn(1, 5, 2, 4, dtype=torch.float64), torch.randn(1, 6, 3, dtype=torch.float64)
        mask = torch.tensor([[True, False, True, True, False, False]])
        changed = torch.where(mask[..., None], text, 1e3)
        assert_close(network(prototypes, changed, mask), network(prototypes, text[:, mask[0]]))

    def test_no_question_at_all(self):
        network = QuestionScoreNetwork(4, 3)
        prototypes = torch.randn(1, 5, 2, 4)
        nothing = torch.zeros(1, 6, dtype=torch.bool)
        scores = [network(prototypes, torch.randn(1, 6, 3), nothing) for _ in range(2)]
        assert torch.equal(*scores)
        scores[0].sum().backward()
        assert_every_parameter_has_a_gradient(network)


def test_attention_by_hand():
    query, key = torch.zeros(1, 1, 2), torch.zeros(1, 2, 2)
    value = torch.tensor([[[2.0], [4.0]]])
    assert attend(query, key, value, None).tolist() == [[[3.0]]]
    assert attend(query, key, value, torch.tensor([[True, False]])).tolist() == [[[2.0]]]
    assert attend(query, key, value, torch.tensor([[False, False]])).tolist() == [[[0.0]]]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([1.0, 3.0, 2.0], [0.0, 1.0, 0.5]),
        ([1.0, 3.0, -math.inf], [0.0, 1.0, 0.0]),
        ([7.0, 7.0, 7.0], [1.0, 1.0, 1.0]),
        ([7.0, -math.inf, 7.0], [1.0, 0.0, 1.0]),
        ([-math.inf, -math.inf, -math.inf], [1.0, 1.0, 1.0]),
        ([math.nan, 1.0, 2.0], [0.0, 0.0, 1.0]),
        ([5.0], [1.0]),
    ],
)
def test_min_max_by_hand(raw, expected):
    assert min_max(torch.tensor([raw])).tolist() == [expected]
    assert_close(min_max(torch.tensor([raw])), [reference.min_max(torch.tensor(raw).double().numpy())], 1e-6)


def test_min_max_of_real_entries_only():
    scores, mask = torch.tensor([[1.0, 3.0, 99.0], [5.0, 6.0, 7.0]]), torch.tensor([[True, True, False], [False] * 3])
    assert min_max(scores, mask).tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_min_max_epsilon():
    assert_close(min_max(torch.tensor([[0.0, 1.0]]), epsilon=0.25), [[0.0, 0.8]], 1e-6)


def test_min_max_gradient():
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(min_max, scores)
    for equal in (torch.ones(1, 3), torch.full((1, 3), -math.inf)):
        equal.requires_grad_()
        min_max(equal).sum().backward()
        assert (equal.grad == 0).all()
