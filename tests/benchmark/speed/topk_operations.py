"""Rows of the differentiable Top-K: forward and backward, every gradient against the dense one-hots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynfocus_connector import exact_topk, perturbed_topk
from tests.benchmark.speed.operation import Operation, Setting
from tests.benchmark.speed.twins import DenseTopK

SAMPLES, SIGMA, SUBSET = 500, 0.1, 50
TWIN_SAMPLES = {4096: 50}
"""of the twin where its one-hots would take gigabytes: it is linear in the samples"""
SIZES = ((80, 36), (1000, 200), (4096, 410))
GRADIENTS: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
    "Rao-Blackwell (default)": ({"gradient": "rao_blackwell"}, (2.5, 36, 220)),
    f"Rao-Blackwell on {SUBSET}": ({"gradient": "rao_blackwell", "gradient_samples": SUBSET}, (4, 100, 1000)),
    "leave-one-out": ({"gradient": "leave_one_out"}, (4, 100, 1000)),
}
WHY = {
    80: "`randn` and `topk`, which both paths run, are half of the time of leave-one-out; the rest, and most of "
    "Rao-Blackwell, is a hundred calls of operations on 40 000 numbers",
    4096: "`randn` and `topk`, which both paths run, are two thirds of our time; the twin's one-hots are written by "
    "`scatter_`, not `one_hot(...).float()`",
}


def topk_operations(sizes: tuple[tuple[int, int], ...] = SIZES) -> list[Operation]:
    """One row for each gradient and size."""
    return [
        _operation(name, options, items, k, targets[SIZES.index((items, k))] if (items, k) in SIZES else None)
        for items, k in sizes
        for name, (options, targets) in GRADIENTS.items()
    ]


def problem(setting: Setting, items: int, k: int) -> tuple[Tensor, Tensor]:
    """Uniform scores [1 items] and the gradient of P [1 k items]."""
    generator = torch.Generator().manual_seed(0)
    scores, upstream = torch.rand(1, items, generator=generator), torch.randn(1, k, items, generator=generator)
    return scores.to(setting.device), upstream.to(setting.device)


def gradient_of(choose: Any, scores: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """P and upstreamᵀ ∂P/∂s."""
    scores = scores.detach().requires_grad_()
    soft = choose(scores)
    soft.backward(upstream)
    assert scores.grad is not None
    return soft.detach(), scores.grad


def _operation(name: str, options: dict[str, Any], items: int, k: int, target: float | None) -> Operation:
    def ours(scores: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_of(
            lambda s: perturbed_topk(s, k, sigma=SIGMA, num_samples=SAMPLES, **options), scores, upstream
        )

    def twin(scores: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(1, TWIN_SAMPLES.get(items, SAMPLES), items, device=scores.device)
        return gradient_of(lambda s: DenseTopK.apply(s, noise, k, SIGMA), scores, upstream)

    return Operation(
        name="Top-K, forward + backward",
        case=f"L = {items}, K = {k}, {name}",
        inputs=lambda setting: problem(setting, items, k),
        ours=ours,
        twin=twin,
        agree=lambda mine, theirs: agree(options, items, k, mine[0].device),
        multiply_adds=0,
        traffic=2 * 4 * SAMPLES * items,
        target=target,
        why=WHY.get(items, ""),
        group=f"Top-K {items}, {k}",
        twin_share=TWIN_SAMPLES.get(items, SAMPLES) / SAMPLES,
        note=f"the twin runs {TWIN_SAMPLES[items]} samples, counted {SAMPLES // TWIN_SAMPLES[items]} times"
        if items in TWIN_SAMPLES
        else "",
        extras=lambda: {"variance": variance(options, items, k)},
    )


def variance(options: dict[str, Any], items: int, k: int, repeats: int = 12) -> float:
    """The summed variance of one estimate over the squared norm of the gradient, which the mean of as many
    Rao-Blackwell estimates stands for."""
    scores, upstream = problem(Setting(torch.device("cpu"), torch.float32), items, k)

    def estimates(chosen: dict[str, Any], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        draw = {"sigma": SIGMA, "num_samples": SAMPLES, "generator": generator, **chosen}
        return torch.cat(
            [gradient_of(lambda s: perturbed_topk(s, k, **draw), scores, upstream)[1] for _ in range(repeats)]
        )

    gradient = estimates({"gradient": "rao_blackwell"}, seed=1).mean(0)
    return (estimates(options, seed=2).var(0).sum() / gradient.square().sum()).item()


def agree(options: dict[str, Any], items: int, k: int, device: torch.device) -> None:
    """With shared noise P is equal; the twin's backward is our diagonal one; the gradient itself meets the exact one.

    Random outputs cannot be compared, so the gate draws its own noise; the exact gradient is within reach below 100
    items, beyond them the estimators are held against each other.
    """
    scores, upstream = problem(Setting(device, torch.float32), items, k)
    samples = 40 if items > 100 else SAMPLES
    noise = torch.randn(1, samples, items, generator=torch.Generator().manual_seed(1)).to(device)
    dense = gradient_of(lambda s: DenseTopK.apply(s, noise, k, SIGMA), scores, upstream)
    ours = gradient_of(lambda s: perturbed_topk(s, k, sigma=SIGMA, noise=noise, gradient="diagonal"), scores, upstream)
    torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-4)
    used = {**options, **({"gradient_samples": samples // 2} if "gradient_samples" in options else {})}
    soft, _ = gradient_of(lambda s: perturbed_topk(s, k, sigma=SIGMA, noise=noise, **used), scores, upstream)
    torch.testing.assert_close(soft, dense[0])
    if items <= 100:
        exact = gradient_of(lambda s: exact_topk(s, k, sigma=SIGMA), scores, upstream)[1]
        many = scores.expand(40, -1)
        found = gradient_of(
            lambda s: perturbed_topk(s, k, sigma=SIGMA, num_samples=SAMPLES, **options),
            many,
            upstream.expand(40, -1, -1),
        )[1].mean(0, keepdim=True)
        assert torch.cosine_similarity(found, exact) > 0.9, "expected the mean of 40 gradients along the exact one"
