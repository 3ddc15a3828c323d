"""Eq. 7–9: the smoothed Top-K is what it says, and so is its gradient."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dynfocus_connector.topk import exact_topk, hard_topk, hard_topk_indices, perturbed_topk
from tests.reference import topk_oracle as oracle

UNBIASED = ("rao_blackwell", "leave_one_out", "plain")
EVERY = (*UNBIASED, "diagonal")
REPEATS, SAMPLES = 60, 400


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype)


def gradient_of(choose, scores, upstream):
    """upstreamᵀ ∂P/∂s of every row."""
    scores = scores.detach().clone().requires_grad_()
    (choose(scores) * upstream).sum().backward()
    assert scores.grad is not None
    return scores.grad


def z_scores(scores, k, upstream, gradient):
    """How many standard errors the mean of many independent estimates lies from the exact gradient, per item."""
    repeated = scores.expand(REPEATS, -1)
    estimates = gradient_of(
        lambda s: perturbed_topk(s, k, num_samples=SAMPLES, gradient=gradient, generator=seeded()), repeated, upstream
    )
    exact = gradient_of(lambda s: exact_topk(s, k), scores, upstream)
    return (estimates.mean(0) - exact[0]) / (estimates.std(0) / math.sqrt(REPEATS))


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.5, 2.0])
def test_two_items_agree_with_the_closed_form(sigma):
    scores = torch.tensor([[0.6, 0.45]], dtype=torch.float64)
    samples = 20_000
    value, derivative = oracle.two_item_value(0.15, sigma)
    upstream = torch.tensor([[[1.0, 0.0]]])

    exact = exact_topk(scores, 1, sigma=sigma)
    assert exact[0, 0, 0].item() == pytest.approx(value, abs=1e-9)
    exact_gradient = gradient_of(lambda s: exact_topk(s, 1, sigma=sigma), scores, upstream)
    assert exact_gradient[0].tolist() == pytest.approx([derivative, -derivative], abs=1e-7)

    soft = perturbed_topk(scores, 1, sigma=sigma, num_samples=samples, generator=seeded())
    assert soft[0, 0, 0].item() == pytest.approx(value, abs=5 * math.sqrt(value * (1 - value) / samples))
    # one sample of Eq. 9 deviates by at most 1/σ, an integrated one lies in [0, pdf(0)/σ]
    for gradient, deviation in (("plain", 1.0), ("leave_one_out", 1.0), ("rao_blackwell", 0.2)):
        estimate = gradient_of(
            lambda s, gradient=gradient: perturbed_topk(
                s, 1, sigma=sigma, num_samples=samples, gradient=gradient, generator=seeded()
            ),
            scores,
            upstream,
        )
        tolerance = 5 * deviation / (sigma * math.sqrt(samples))
        assert estimate[0].tolist() == pytest.approx([derivative, -derivative], abs=tolerance)


@pytest.mark.parametrize(("n", "k", "sigma"), [(2, 1, 0.1), (4, 2, 0.3), (5, 1, 0.1), (5, 4, 0.2), (6, 3, 1.0)])
def test_exact_topk_agrees_with_the_enumeration_of_all_subsets(n, k, sigma):
    scores, upstream = uniform(1, n), normal(k, n, seed=1)
    expected = oracle.expected_top_k(scores[0].numpy(), k, sigma)
    torch.testing.assert_close(exact_topk(scores, k, sigma=sigma)[0], torch.from_numpy(expected), atol=1e-8, rtol=0)
    expected = oracle.expected_gradient(scores[0].numpy(), k, sigma, upstream.numpy())
    actual = gradient_of(lambda s: exact_topk(s, k, sigma=sigma), scores, upstream)
    torch.testing.assert_close(actual[0], torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pattern", ["equal", "spread", "one ahead", "step", "alternating", "wide"])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (25, 1), (25, 20), (60, 30), (60, 59)])
def test_rows_of_the_quadrature_sum_to_one(pattern, n, k):
    item = torch.arange(n, dtype=torch.float64)
    scores = {
        "equal": torch.zeros(n),
        "spread": item / n,
        "one ahead": (item == 0) * 0.35,
        "step": (item < k) * 0.3,
        "alternating": item % 2,
        "wide": 100 * uniform(n),
    }[pattern][None].double()
    soft = exact_topk(scores, k)
    torch.testing.assert_close(soft.sum(-1), torch.ones(1, k, dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(soft.sum((-1, -2)).item(), float(k), atol=1e-6, rtol=0)


def test_gradcheck_of_the_quadrature():
    scores = uniform(2, 5).requires_grad_()
    mask = torch.tensor([[True] * 5, [True, False, True, True, True]])
    assert torch.autograd.gradcheck(lambda s: exact_topk(s, torch.tensor([2, 3]), mask=mask, max_k=3), (scores,))
    assert torch.autograd.gradgradcheck(lambda s: exact_topk(s, 2), (scores,))


def test_no_samples_means_exact():
    scores = uniform(2, 6)
    assert torch.equal(perturbed_topk(scores, 3, num_samples=None, sigma=0.2), exact_topk(scores, 3, sigma=0.2))


def test_samples_agree_with_dense_one_hots():
    scores, noise = uniform(2, 6), normal(2, 30, 6, seed=1)
    soft = perturbed_topk(scores, 4, noise=noise, sigma=0.3)
    for row in range(2):
        dense = oracle.sampled_top_k(scores[row].numpy(), noise[row].numpy(), 4, 0.3).mean(0)
        torch.testing.assert_close(soft[row], torch.from_numpy(dense))


def test_sampled_mean_agrees_with_the_quadrature():
    scores = uniform(1, 8)
    exact = exact_topk(scores, 5)
    soft = perturbed_topk(scores, 5, num_samples=20_000, generator=seeded())
    assert ((soft - exact).abs() <= 5 * (exact * (1 - exact) / 20_000).sqrt() + 1e-4).all()


def test_small_noise_is_the_hard_topk():
    scores = torch.tensor([[0.3, 0.9, 0.1, 0.7, 0.5]])
    for soft in (perturbed_topk(scores, 3, sigma=1e-3, generator=seeded()), exact_topk(scores, 3, sigma=1e-3)):
        torch.testing.assert_close(soft, hard_topk(scores, 3))


def test_the_generator_decides_the_noise():
    scores = uniform(1, 9)
    first, again, other = (perturbed_topk(scores, 4, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("gradient", EVERY)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (5, 1), (6, 3), (6, 5), (6, 6)])
def test_estimators_agree_with_dense_one_hots(gradient, n, k):
    scores, noise, upstream = uniform(2, n), normal(2, 12, n, seed=1), normal(2, k, n, seed=2)
    actual = gradient_of(lambda s: perturbed_topk(s, k, noise=noise, gradient=gradient), scores, upstream)
    for row in range(2):
        problem = (scores[row].numpy(), noise[row].numpy(), k, 0.1, upstream[row].numpy())
        if gradient == "rao_blackwell":
            expected = oracle.integrated_gradient(*problem)
        else:
            expected = oracle.sampled_gradient(*problem, gradient)
        torch.testing.assert_close(actual[row], torch.from_numpy(expected), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("gradient", UNBIASED)
@pytest.mark.parametrize(("n", "k"), [(6, 3), (12, 9)])
def test_unbiased_estimators_agree_with_the_exact_gradient(gradient, n, k):
    assert z_scores(uniform(1, n), k, normal(k, n, seed=1), gradient).abs().max() < 5


def test_the_diagonal_estimator_is_not_the_gradient():
    assert z_scores(uniform(1, 6), 3, normal(3, 6, seed=1), "diagonal").abs().max() > 20


@pytest.mark.parametrize("gradient", ["rao_blackwell", "leave_one_out"])
def test_gradient_agrees_with_finite_differences_under_common_noise(gradient):
    n, k, sigma, step = 4, 2, 0.1, 0.01
    scores, upstream, noise = uniform(1, n), normal(k, n, seed=1), normal(1, 200_000, n, seed=2)

    def value(shift):
        return (perturbed_topk(scores + shift, k, sigma=sigma, noise=noise) * upstream).sum()

    shifts = step * torch.eye(n, dtype=torch.float64)
    differences = torch.stack([(value(shift) - value(-shift)) / (2 * step) for shift in shifts])
    estimate = gradient_of(
        lambda s: perturbed_topk(s, k, sigma=sigma, noise=noise, gradient=gradient), scores, upstream
    )
    assert torch.cosine_similarity(estimate[0], differences, dim=0) > 0.999
    assert estimate.norm() == pytest.approx(differences.norm().item(), rel=0.03)


@pytest.mark.parametrize("gradient", ["rao_blackwell", "leave_one_out"])
def test_a_constant_has_no_gradient(gradient):
    scores = uniform(2, 9, dtype=torch.float32)
    grad = gradient_of(lambda s: perturbed_topk(s, 4, generator=seeded(), gradient=gradient), scores, torch.tensor(3.0))
    assert grad.abs().max() < 1e-4
    assert gradient_of(lambda s: exact_topk(s, 4), scores, torch.tensor(3.0)).abs().max() < 1e-4


def test_integrating_the_noise_cuts_the_variance():
    scores, upstream = uniform(1, 25).expand(40, -1), normal(20, 25, seed=1)

    def variance(gradient):
        return (
            gradient_of(
                lambda s: perturbed_topk(s, 20, num_samples=50, gradient=gradient, generator=seeded()), scores, upstream
            )
            .var(0)
            .sum()
        )

    assert variance("rao_blackwell") * 20 < variance("leave_one_out") < variance("plain")


def test_a_subset_of_the_samples_has_the_gradient_of_that_subset():
    scores, upstream, noise = uniform(2, 9), normal(4, 9, seed=1), normal(2, 30, 9, seed=2)

    def gradient(noise, **options):
        return gradient_of(lambda s: perturbed_topk(s, 4, noise=noise, **options), scores, upstream)

    torch.testing.assert_close(gradient(noise, gradient_samples=7), gradient(noise[:, :7]))
    torch.testing.assert_close(gradient(noise, gradient_samples=30), gradient(noise))
    value = perturbed_topk(scores, 4, noise=noise, gradient_samples=7)
    assert torch.equal(value, perturbed_topk(scores, 4, noise=noise))


def test_there_is_no_second_derivative_of_samples():
    scores = uniform(1, 5).requires_grad_()
    soft = perturbed_topk(scores, 2, generator=seeded())
    (grad,) = torch.autograd.grad(soft.square().sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("choose", [exact_topk, perturbed_topk])
def test_choosing_everything_is_the_identity(n, choose):
    scores = uniform(2, n).requires_grad_()
    soft = choose(scores, n)
    torch.testing.assert_close(soft, torch.eye(n, dtype=torch.float64).expand(2, n, n), atol=1e-12, rtol=0)
    (soft * normal(n, n)).sum().backward()
    torch.testing.assert_close(scores.grad, torch.zeros_like(scores), atol=1e-10, rtol=0)


@pytest.mark.parametrize("choose", [exact_topk, perturbed_topk])
@pytest.mark.parametrize("n", [0, 4])
def test_choosing_nothing_keeps_the_graph(n, choose):
    scores = uniform(2, n).requires_grad_()
    soft = choose(scores, 0)
    assert soft.shape == (2, 0, n)
    soft.sum().backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))
    assert hard_topk(scores, 0).shape == (2, 0, n)


@pytest.mark.parametrize("choose", [exact_topk, perturbed_topk])
def test_rows_with_nothing_to_choose(choose):
    scores = uniform(3, 4).requires_grad_()
    mask = torch.tensor([[False] * 4, [True] * 4, [True] * 4])
    soft = choose(scores, torch.tensor([2, 0, 2]), mask=mask, max_k=2)
    assert soft.sum((-1, -2)).tolist() == pytest.approx([0, 0, 2])
    (soft * normal(2, 4)).sum().backward()
    assert (scores.grad[:2] == 0).all()
    assert (scores.grad[2] != 0).all()
    assert hard_topk_indices(scores, 2, mask=mask)[0].tolist() == [-1, -1]


@pytest.mark.parametrize("gradient", [*EVERY, None])
def test_one_k_per_row_agrees_with_calls_row_by_row(gradient):
    scores, noise, upstream = uniform(4, 6), normal(4, 20, 6, seed=1), normal(4, 6, 6, seed=2)
    counts = [0, 1, 4, 6]

    def choose(s, k, noise, **options):
        if gradient is None:
            return exact_topk(s, k, **options)
        return perturbed_topk(s, k, noise=noise, gradient=gradient, **options)

    together = choose(scores, torch.tensor(counts), noise)
    grad = gradient_of(lambda s: choose(s, torch.tensor(counts), noise), scores, upstream)
    assert together.shape == (4, 6, 6)
    for row, k in enumerate(counts):
        part = slice(row, row + 1)
        torch.testing.assert_close(together[part, :k], choose(scores[part], k, noise[part]))
        assert (together[row, k:] == 0).all()
        alone = gradient_of(lambda s, k=k, part=part: choose(s, k, noise[part]), scores[part], upstream[part, :k])
        torch.testing.assert_close(grad[part], alone)


def test_max_k_sets_the_rows_and_limits_k():
    scores = uniform(2, 5)
    for choose in (hard_topk, exact_topk, lambda s, k, max_k: perturbed_topk(s, k, max_k=max_k, generator=seeded())):
        limited, within = (choose(scores, torch.tensor(k), max_k=3) for k in ([-1, 9], [0, 3]))
        torch.testing.assert_close(limited, within)
        assert within.sum((-1, -2)).tolist() == pytest.approx([0, 3])
    assert exact_topk(scores, 2, max_k=4).shape == (2, 4, 5)
    assert hard_topk_indices(scores, torch.tensor([1, 2])).shape == (2, 5)


@pytest.mark.parametrize("gradient", [*EVERY, None])
def test_masking_agrees_with_truncation(gradient):
    keep = torch.tensor([True, False, True, True, False, True])
    scores, noise, upstream = uniform(1, 6), normal(1, 20, 6, seed=1), normal(3, 6, seed=2)

    def choose(s, noise, mask=None):
        if gradient is None:
            return exact_topk(s, 3, mask=mask)
        return perturbed_topk(s, 3, noise=noise, gradient=gradient, mask=mask)

    masked = choose(scores, noise, keep[None])
    torch.testing.assert_close(masked[..., keep], choose(scores[:, keep], noise[..., keep]))
    assert (masked[..., ~keep] == 0).all()
    grad = gradient_of(lambda s: choose(s, noise, keep[None]), scores, upstream)
    alone = gradient_of(lambda s: choose(s, noise[..., keep]), scores[:, keep], upstream[:, keep])
    torch.testing.assert_close(grad[:, keep], alone)
    assert (grad[:, ~keep] == 0).all()


def test_masked_entries_are_never_chosen_even_when_too_few_are_left():
    scores = torch.tensor([[9.0, 0.1, 8.0, -math.inf]])
    mask = torch.tensor([[False, True, False, True]])
    expected = torch.tensor([[[0.0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]])
    for choose in (perturbed_topk, exact_topk, hard_topk):
        torch.testing.assert_close(choose(scores, 3, mask=mask), expected)


def test_garbage_upstream_of_padding_does_not_leak():
    scores = uniform(1, 4).requires_grad_()
    mask = torch.tensor([[True, True, True, False]])
    for choose in (exact_topk, perturbed_topk):
        upstream = torch.ones(1, 4, 4, dtype=torch.float64)
        upstream[:, 2:], upstream[..., 3] = math.nan, math.nan
        (grad,) = torch.autograd.grad(choose(scores, torch.tensor([2]), mask=mask), scores, upstream)
        assert grad.isfinite().all()


def test_ties_go_to_the_lower_index():
    assert hard_topk_indices(torch.tensor([[1.0, 2, 1, 2, 1]]), 3).tolist() == [[0, 1, 3]]
    assert hard_topk_indices(torch.zeros(1, 200), 100).tolist() == [list(range(100))]


def test_nan_counts_as_minus_infinity():
    scores = torch.tensor([[math.nan, 0.0, -math.inf, math.inf, math.nan]])
    assert hard_topk_indices(scores, 2).tolist() == [[1, 3]]
    assert hard_topk_indices(scores, 4).tolist() == [[0, 1, 2, 3]]


def test_hard_topk_has_no_gradient():
    assert not hard_topk(uniform(1, 4).requires_grad_(), 2).requires_grad


@pytest.mark.parametrize("gradient", [*EVERY, None])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_score_poisons_nothing(gradient, bad):
    scores, noise, upstream = uniform(2, 5), normal(2, 30, 5, seed=1), normal(3, 5, seed=2)
    broken = scores.clone()
    broken[0, 1] = bad

    def choose(s):
        if gradient is None:
            return exact_topk(s, 3)
        return perturbed_topk(s, 3, noise=noise, gradient=gradient)

    soft, grad = choose(broken), gradient_of(choose, broken, upstream)
    assert soft.isfinite().all()
    assert grad.isfinite().all()
    assert grad[0, 1] == 0
    assert soft[0, :, 1].sum().item() == pytest.approx(1 if bad == math.inf else 0, abs=1e-9)
    torch.testing.assert_close(soft[1], choose(scores)[1])
    torch.testing.assert_close(grad[1], gradient_of(choose, scores, upstream)[1])


@pytest.mark.parametrize("choose", [exact_topk, perturbed_topk])
@pytest.mark.parametrize(
    "scores",
    [[math.nan] * 4, [math.inf] * 4, [0.0, math.nan, math.inf, -math.inf], [0.0, math.inf, math.inf, math.inf]],
)
def test_rows_where_no_choice_is_open(choose, scores):
    scores = torch.tensor([scores], requires_grad=True)
    soft = choose(scores, 2)
    torch.testing.assert_close(soft, hard_topk(scores, 2))
    soft.square().sum().backward()
    assert scores.grad.abs().max() < 1e-12


def test_far_scores_have_no_gradient():
    scores = torch.tensor([[0.4, 1e200, -1e200, 0.3]], dtype=torch.float64)
    grad = gradient_of(lambda s: exact_topk(s, 2), scores, normal(2, 4))
    assert grad[0, 1:3].tolist() == [0, 0]
    assert (grad[0, [0, 3]] != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_samples", [100, None])
def test_result_and_gradient_have_the_dtype_of_the_scores(dtype, num_samples):
    scores = uniform(2, 7).to(dtype)
    noise = None if num_samples is None else normal(2, num_samples, 7)
    upstream = normal(3, 7).to(dtype)

    def choose(s):
        return perturbed_topk(s, 3, num_samples=num_samples, noise=noise)

    soft, grad = choose(scores), gradient_of(choose, scores, upstream)
    assert (soft.dtype, grad.dtype) == (dtype, dtype)
    reference = gradient_of(choose, scores.double(), upstream.double())
    tolerance = max(torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(soft.double(), choose(scores.double()), atol=tolerance, rtol=0)
    torch.testing.assert_close(grad.double(), reference, atol=tolerance * reference.abs().max().item(), rtol=0)
    assert hard_topk(scores, 3).dtype == dtype


@pytest.mark.parametrize("gradient", EVERY)
def test_autocast_changes_nothing(gradient):
    scores, noise, upstream = uniform(2, 7).float(), normal(2, 50, 7, seed=1).float(), normal(3, 7, seed=2).float()

    def choose(s):
        return perturbed_topk(s, 3, noise=noise, gradient=gradient)

    plain, plain_gradient = choose(scores), gradient_of(choose, scores, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(choose(scores), plain)
        assert torch.equal(gradient_of(choose, scores, upstream), plain_gradient)
        assert torch.equal(exact_topk(scores, 3), exact_topk(scores.clone(), 3))


@pytest.mark.parametrize("gradient", EVERY)
def test_vmap_agrees_with_a_loop(gradient):
    scores, noise, upstream = uniform(3, 2, 6), normal(3, 2, 20, 6, seed=1), normal(2, 6, seed=2)

    def loss(s, z):
        return (perturbed_topk(s, 2, noise=z, gradient=gradient) * upstream).sum()

    for transform in (lambda f: f, torch.func.grad):
        together = torch.func.vmap(transform(loss))(scores, noise)
        one_by_one = [transform(loss)(*row) for row in zip(scores, noise, strict=True)]
        torch.testing.assert_close(together, torch.stack(one_by_one))


def test_vmap_of_the_exact_and_the_hard_topk():
    scores = uniform(3, 2, 6)
    for choose in (exact_topk, hard_topk, hard_topk_indices):
        together = torch.func.vmap(lambda s, choose=choose: choose(s, 2))(scores)
        torch.testing.assert_close(together, torch.stack([choose(s, 2) for s in scores]))


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("gradient", EVERY)
def test_no_tensor_of_dense_one_hots(gradient):
    samples, n, k = 60, 40, 20
    scores = uniform(1, n).requires_grad_()
    with LargestTensor() as largest:
        perturbed_topk(scores, k, num_samples=samples, gradient=gradient).square().sum().backward()
    assert samples * n <= largest.numel <= samples * (n + k)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: perturbed_topk(s, 5), r"perturbed_topk: expected 0 <= k <= 4 entries, got 5"),
        (lambda s: exact_topk(s, -1), r"exact_topk: expected 0 <= k <= 4 entries, got -1"),
        (lambda s: hard_topk(s, 3, max_k=2), r"hard_topk: expected 0 <= k <= 2 = max_k, got 3"),
        (lambda s: hard_topk_indices(s, 3, max_k=7), r"hard_topk_indices: expected 0 <= max_k <= 4 entries, got 7"),
        (lambda s: perturbed_topk(s, 2, num_samples=1), r"perturbed_topk: expected at least 2 samples, got 1"),
        (lambda s: perturbed_topk(s, 2, noise=torch.zeros(2, 1, 4)), r"expected at least 2 samples, got 1"),
        (lambda s: perturbed_topk(s, 2, gradient_samples=0), r"perturbed_topk: expected 1 <= .* <= 500 samples, got 0"),
        (lambda s: perturbed_topk(s, 2, gradient_samples=501), r"expected 1 <= .* <= 500 samples, got 501"),
        (
            lambda s: perturbed_topk(s, 2, gradient="plain", gradient_samples=9),
            r"perturbed_topk: expected gradient_samples with gradient='rao_blackwell', got 9 with 'plain'",
        ),
        (lambda s: perturbed_topk(s, 2, sigma=0.0), r"perturbed_topk: expected sigma > 0, got 0.0"),
        (lambda s: exact_topk(s, 2, sigma=-1.0), r"exact_topk: expected sigma > 0, got -1.0"),
        (
            lambda s: perturbed_topk(s, 2, num_samples=None, noise=torch.zeros(2, 9, 4)),
            r"perturbed_topk: expected no noise with num_samples=None, got noise of shape \(2, 9, 4\)",
        ),
    ],
)
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: perturbed_topk(s[0], 2), r"(?s)perturbed_topk.*scores"),
        (lambda s: exact_topk(s, 2, mask=torch.ones(2, 3, dtype=torch.bool)), r"(?s)exact_topk.*mask"),
        (lambda s: hard_topk(s, torch.tensor([1, 2, 3])), r"(?s)hard_topk.*k"),
        (lambda s: perturbed_topk(s, 2, noise=torch.zeros(2, 9, 5)), r"(?s)perturbed_topk.*noise"),
        (lambda s: perturbed_topk(s, 2, noise=torch.zeros(9, 4)), r"(?s)perturbed_topk.*noise"),
        (lambda s: perturbed_topk(s, 2, gradient="exact"), r"(?s)perturbed_topk.*gradient"),
    ],
)
def test_wrong_shapes_and_names_are_named(call, message):
    """A ValueError of ours, or a TypeError where the suite checks the annotations."""
    with pytest.raises((ValueError, TypeError), match=message):
        call(torch.zeros(2, 4))


def test_more_rows_than_k_stay_empty():
    scores = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(1))
    wide, narrow = perturbed_topk(scores, 2, noise=noise, max_k=4), perturbed_topk(scores, 2, noise=noise)
    assert torch.equal(wide[:, :2], narrow)
    assert (wide[:, 2:] == 0).all()
