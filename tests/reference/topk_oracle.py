"""The Top-K of Eq. 7–9 by brute force, in NumPy: dense one-hots, every subset, one item at a time."""

import itertools
import math

import numpy as np

_erfc = np.vectorize(math.erfc, otypes=[float])


def normal_cdf(x):
    return 0.5 * _erfc(-np.asarray(x, dtype=float) / math.sqrt(2))


def normal_pdf(x):
    return np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)


def two_item_value(difference, sigma):
    """L = 2, K = 1: the probability that the item ahead by `difference` is chosen, and its derivative."""
    scale = sigma * math.sqrt(2)
    return float(normal_cdf(difference / scale)), float(normal_pdf(difference / scale) / scale)


def top_k(scores, k):
    """One-hot rows in order of index; lower index first among equals, NaN last. scores [n] -> [k n]."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    chosen = sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:k])
    return np.eye(len(scores))[chosen].reshape(k, len(scores))


def sampled_top_k(scores, noise, k, sigma):
    """P*(s + σz) of every sample: scores [n], noise [samples n] -> [samples k n]."""
    return np.stack([top_k(scores + sigma * z, k) for z in noise])


def sampled_gradient(scores, noise, k, sigma, upstream, kind):
    """The literal estimators of upstreamᵀ ∂P_σ/∂s from dense one-hots."""
    one_hot = sampled_top_k(scores, noise, k, sigma)
    if kind == "diagonal":
        return np.einsum("kn,skn,sn->n", upstream, one_hot, noise) / len(noise) / sigma
    value = np.einsum("kn,skn->s", upstream, one_hot)
    if kind == "leave_one_out":
        value = value - (value.sum() - value) / (len(value) - 1)
    return value @ noise / len(noise) / sigma


def integrated_gradient(scores, noise, k, sigma, upstream):
    """The Rao-Blackwell estimator: each item forced in and out, weighted by its density at the border."""
    gradient = np.zeros(len(scores))
    for sample, item in itertools.product(noise, range(len(scores))):
        noisy = scores + sigma * sample
        others = np.sort(np.delete(noisy, item))[::-1]
        if not 0 < k <= len(others):
            continue
        forced = [np.where(np.arange(len(scores)) == item, value, noisy) for value in (np.inf, -np.inf)]
        gain = (upstream * (top_k(forced[0], k) - top_k(forced[1], k))).sum()
        gradient[item] += normal_pdf((scores[item] - others[k - 1]) / sigma) / sigma * gain
    return gradient / len(noise)


def expected_top_k(scores, k, sigma, nodes=4001):
    """P_σ(s): every subset's probability of being the Top-K, by integrating over its smallest noisy score."""
    scores = np.asarray(scores, dtype=float)
    t = np.linspace(scores.min() - 9 * sigma, scores.max() + 9 * sigma, nodes)
    deviation = (scores[:, None] - t) / sigma
    above, below, at = normal_cdf(deviation), normal_cdf(-deviation), normal_pdf(deviation) / sigma
    expected = np.zeros((k, len(scores)))
    for subset in itertools.combinations(range(len(scores)), k):
        outside = np.prod([below[i] for i in range(len(scores)) if i not in subset], axis=0)
        density = sum(at[j] * np.prod([above[i] for i in subset if i != j], axis=0) for j in subset) * outside
        expected[np.arange(k), list(subset)] += density.sum() * (t[1] - t[0])
    return expected


def expected_gradient(scores, k, sigma, upstream, step=1e-4):
    """upstreamᵀ ∂P_σ/∂s by central differences of `expected_top_k`."""

    def value(shift):
        return (upstream * expected_top_k(scores + shift, k, sigma)).sum()

    shifts = step * np.eye(len(scores))
    return np.array([(value(shift) - value(-shift)) / (2 * step) for shift in shifts])
