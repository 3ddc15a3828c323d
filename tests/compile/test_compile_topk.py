"""The Top-K inside a full graph: same values, same gradients, no graph break."""

import pytest
import torch

from dynfocus_connector.topk import exact_topk, hard_topk, perturbed_topk

pytestmark = pytest.mark.compile


def problem():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 7, generator=generator)
    noise = torch.randn(2, 40, 7, generator=generator)
    mask = torch.tensor([[True] * 7, [True, False] * 3 + [True]])
    return scores, noise, mask, torch.randn(3, 7, generator=generator)


def value_and_gradient(choose, scores, *rest):
    scores = scores.clone().requires_grad_()
    soft = choose(scores, *rest)
    (soft * problem()[-1]).sum().backward()
    return soft.detach(), scores.grad


def assert_compiled_agrees(choose, backend, *inputs):
    compiled = torch.compile(choose, fullgraph=True, backend=backend)
    torch.testing.assert_close(value_and_gradient(compiled, *inputs), value_and_gradient(choose, *inputs))


@pytest.mark.parametrize("gradient", ["rao_blackwell", "leave_one_out", "plain", "diagonal"])
def test_perturbed_topk_is_one_graph(gradient):
    scores, noise, mask, _ = problem()

    def choose(s, z, mask):
        return perturbed_topk(s, 3, noise=z, mask=mask, gradient=gradient)

    assert_compiled_agrees(choose, "aot_eager", scores, noise, mask)


def test_perturbed_topk_compiles_with_one_k_per_row():
    scores, noise, mask, _ = problem()

    def choose(s, z, mask, k):
        return perturbed_topk(s, k, noise=z, mask=mask, max_k=3)

    assert_compiled_agrees(choose, "inductor", scores, noise, mask, torch.tensor([3, 2]))


def test_exact_topk_is_one_graph():
    scores, _, mask, _ = problem()
    assert_compiled_agrees(lambda s, mask: exact_topk(s, 3, mask=mask), "aot_eager", scores, mask)


def test_hard_topk_is_one_graph():
    scores, _, mask, _ = problem()
    compiled = torch.compile(lambda s: hard_topk(s, 3, mask=mask), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores), hard_topk(scores, 3, mask=mask))
