"""Laws of the Top-K (Eq. 7–9) that hold for any scores, any k and any number of samples."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus_connector.topk import exact_topk, hard_topk, hard_topk_indices, perturbed_topk
from tests.reference import topk_oracle as oracle

laws = settings(max_examples=25, deadline=None, derandomize=True)
ESTIMATORS = ["rao_blackwell", "leave_one_out", "plain", "diagonal"]


@st.composite
def problems(draw, max_items=8):
    """Scores [1 n], k, sigma, noise [1 samples n], upstream [k n]; scores repeat often."""
    n = draw(st.integers(1, max_items))
    k = draw(st.integers(1, n))
    sigma = draw(st.sampled_from([0.05, 0.1, 1.0]))
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]), min_size=n, max_size=n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.randn(1, draw(st.integers(2, 20)), n, generator=generator, dtype=torch.float64)
    upstream = torch.randn(k, n, generator=generator, dtype=torch.float64)
    return torch.tensor([scores], dtype=torch.float64), k, sigma, noise, upstream


def gradient_of(choose, scores, upstream):
    scores = scores.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad((choose(scores) * upstream).sum(), scores)
    return grad


def assert_is_smoothed_topk(soft, k, tolerance):
    """Rows sum to 1, columns to at most 1, the whole to k, and later rows lie at higher indices."""
    n = soft.shape[-1]
    ones = torch.ones_like(soft[..., 0])
    torch.testing.assert_close(soft.sum(-1), ones, atol=tolerance, rtol=0)
    assert (soft >= 0).all()
    assert (soft.sum(-2) <= 1 + tolerance).all()
    assert abs(soft.sum().item() - k * len(soft)) <= n * tolerance
    position = (soft * torch.arange(n)).sum(-1)
    assert (position.diff(dim=-1) >= 1 - n * tolerance).all()


@laws
@given(problems())
def test_sampled_and_exact_are_smoothed_topks(problem):
    scores, k, sigma, noise, _ = problem
    assert_is_smoothed_topk(perturbed_topk(scores, k, sigma=sigma, noise=noise), k, 1e-12)
    assert_is_smoothed_topk(exact_topk(scores, k, sigma=sigma), k, 1e-9)


@laws
@given(problems(), st.sampled_from([-100.0, -1.0, 0.5, 7.0]))
def test_adding_a_constant_changes_nothing(problem, constant):
    scores, k, sigma, noise, upstream = problem
    for options in ({"noise": noise}, {"num_samples": None}):

        def choose(s, options=options):
            return perturbed_topk(s, k, sigma=sigma, **options)

        torch.testing.assert_close(choose(scores + constant), choose(scores), atol=1e-9, rtol=0)
        moved, still = (gradient_of(choose, s, upstream) for s in (scores + constant, scores))
        torch.testing.assert_close(moved, still, atol=1e-8, rtol=1e-8)


@laws
@given(problems())
def test_the_exact_gradient_sums_to_zero(problem):
    scores, k, sigma, _, upstream = problem
    grad = gradient_of(lambda s: exact_topk(s, k, sigma=sigma), scores, upstream)
    assert abs(grad.sum().item()) < 1e-7 / sigma


@laws
@given(problems())
def test_a_constant_has_no_gradient(problem):
    scores, k, sigma, noise, _ = problem
    constant = torch.tensor(2.0, dtype=torch.float64)
    for options in ({"noise": noise}, {"noise": noise, "gradient": "leave_one_out"}, {"num_samples": None}):
        grad = gradient_of(lambda s, options=options: perturbed_topk(s, k, sigma=sigma, **options), scores, constant)
        assert grad.abs().max() < 1e-7 / sigma


@laws
@given(problems(max_items=6), st.sampled_from(ESTIMATORS))
def test_estimators_agree_with_dense_one_hots(problem, gradient):
    scores, k, sigma, noise, upstream = problem
    actual = gradient_of(lambda s: perturbed_topk(s, k, sigma=sigma, noise=noise, gradient=gradient), scores, upstream)
    arrays = (scores[0].numpy(), noise[0].numpy(), k, sigma, upstream.numpy())
    expected = (
        oracle.integrated_gradient(*arrays)
        if gradient == "rao_blackwell"
        else oracle.sampled_gradient(*arrays, gradient)
    )
    torch.testing.assert_close(actual[0], torch.from_numpy(expected), atol=1e-9, rtol=1e-9)


@laws
@given(problems(max_items=6))
def test_exact_agrees_with_the_enumeration_of_all_subsets(problem):
    scores, k, sigma, _, _ = problem
    expected = oracle.expected_top_k(scores[0].numpy(), k, sigma)
    torch.testing.assert_close(exact_topk(scores, k, sigma=sigma)[0], torch.from_numpy(expected), atol=1e-7, rtol=0)


@laws
@given(problems())
def test_vanishing_noise_is_the_hard_topk(problem):
    scores, k, _, noise, _ = problem
    distinct = scores + 0.013 * torch.arange(scores.shape[-1])
    hard = hard_topk(distinct, k)
    torch.testing.assert_close(perturbed_topk(distinct, k, sigma=1e-5, noise=noise), hard)
    torch.testing.assert_close(exact_topk(distinct, k, sigma=1e-5), hard, atol=1e-9, rtol=0)


@laws
@given(problems(), st.integers(1, 4), st.integers(0, 2**31))
def test_masking_agrees_with_truncation(problem, padding, seed):
    scores, k, sigma, noise, upstream = problem
    n = scores.shape[-1]
    rng = np.random.default_rng(seed)
    keep = torch.from_numpy(np.sort(rng.permutation(n + padding)[:n]))
    mask = torch.zeros(1, n + padding, dtype=torch.bool)
    mask[0, keep] = True

    def padded(tensor, filler):
        wide = torch.full((*tensor.shape[:-1], n + padding), filler, dtype=tensor.dtype)
        wide[..., keep] = tensor
        return wide

    for filler in (math.nan, 1e9):
        wide, wide_noise, wide_upstream = padded(scores, filler), padded(noise, 5.0), padded(upstream, 1.0)
        for options, wide_options in (({"noise": noise}, {"noise": wide_noise}), ({"num_samples": None},) * 2):

            def short(s, options=options):
                return perturbed_topk(s, k, sigma=sigma, **options)

            def long(s, options=wide_options):
                return perturbed_topk(s, k, sigma=sigma, mask=mask, **options)

            torch.testing.assert_close(long(wide), padded(short(scores), 0.0))
            grad = padded(gradient_of(short, scores, upstream), 0.0)
            torch.testing.assert_close(gradient_of(long, wide, wide_upstream), grad)
        torch.testing.assert_close(hard_topk(wide, k, mask=mask), padded(hard_topk(scores, k), 0.0))


@laws
@given(st.lists(problems(max_items=5), min_size=2, max_size=4), st.integers(2, 10))
def test_a_padded_ragged_batch_agrees_with_its_rows_one_by_one(batch, samples):
    width = max(scores.shape[-1] for scores, *_ in batch)
    noise = torch.randn(len(batch), samples, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.zeros(len(batch), width, dtype=torch.float64)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, (values, *_) in enumerate(batch):
        scores[row, : values.shape[-1]], mask[row, : values.shape[-1]] = values[0], True
    counts = torch.tensor([k for _, k, *_ in batch])
    for options in ({"noise": noise}, {"num_samples": None}):
        together = perturbed_topk(scores, counts, mask=mask, **options)
        for row, (values, k, *_) in enumerate(batch):
            n = values.shape[-1]
            alone_options = {"noise": noise[row : row + 1, :, :n]} if "noise" in options else options
            torch.testing.assert_close(together[row, :k, :n], perturbed_topk(values, k, **alone_options)[0])
            assert together[row, k:].count_nonzero() == together[row, :, n:].count_nonzero() == 0


@laws
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 1.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=9),
    st.data(),
)
def test_hard_topk_agrees_with_sorting(scores, data):
    n = len(scores)
    k = data.draw(st.integers(0, n))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    left = np.flatnonzero(mask)
    expected = oracle.top_k(np.array(scores)[left], min(k, len(left)))
    chosen = left[expected.argmax(-1)] if expected.size else np.zeros(0, dtype=int)
    index = hard_topk_indices(torch.tensor([scores]), k, mask=torch.from_numpy(mask)[None])
    assert index[0].tolist() == [*chosen.tolist(), *[-1] * (k - len(chosen))]
    one_hot = hard_topk(torch.tensor([scores]), k, mask=torch.from_numpy(mask)[None])[0]
    np.testing.assert_array_equal(one_hot[: len(chosen)], np.eye(n)[chosen].reshape(len(chosen), n))
    assert one_hot[len(chosen) :].count_nonzero() == 0
