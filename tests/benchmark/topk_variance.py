"""Variance and bias of the Top-K gradient estimators, at equal samples, against the exact gradient.

python -m tests.benchmark.topk_variance            prints the table
python -m tests.benchmark.topk_variance --write    also writes docs/results/topk_variance.md
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch

from dynfocus_connector.topk import exact_topk, perturbed_topk

PAGE = Path(__file__).parents[2] / "docs" / "results" / "topk_variance.md"
ESTIMATORS = ("plain", "leave_one_out", "rao_blackwell", "diagonal")
PROBLEMS = (
    (10, 5, 0.1),
    (25, 20, 0.02),
    (25, 20, 0.1),
    (25, 20, 0.5),
    (80, 36, 0.02),
    (80, 36, 0.1),
    (80, 36, 0.5),
    (160, 16, 0.1),
)
SAMPLES, REPEATS, FUNCTIONALS, CHUNK = 500, 100, 3, 10


def gradient_of(choose, scores, upstream):
    scores = scores.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad((choose(scores) * upstream).sum(), scores)
    return grad


def estimates(gradient, scores, k, sigma, upstream, seed):
    """`REPEATS` independent estimates; the same noise for every estimator."""
    generator = torch.Generator().manual_seed(seed)
    chunks = [
        gradient_of(
            lambda s: perturbed_topk(s, k, sigma=sigma, num_samples=SAMPLES, gradient=gradient, generator=generator),
            scores.expand(CHUNK, -1),
            upstream,
        )
        for _ in range(REPEATS // CHUNK)
    ]
    return torch.cat(chunks)


def measure(n, k, sigma):
    """Per estimator (variance, bias), both relative to the squared norm of the exact gradient."""
    totals = {gradient: torch.zeros(2, dtype=torch.float64) for gradient in ESTIMATORS}
    for seed in range(FUNCTIONALS):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(1, n, generator=generator, dtype=torch.float64)
        upstream = torch.randn(k, n, generator=generator, dtype=torch.float64)
        exact = gradient_of(lambda s: exact_topk(s, k, sigma=sigma), scores, upstream)[0]
        for gradient, total in totals.items():
            estimate = estimates(gradient, scores, k, sigma, upstream, seed)
            errors = torch.stack([estimate.var(0).sum(), (estimate.mean(0) - exact).square().sum()])
            total += errors / exact.square().sum() / FUNCTIONALS
    return {gradient: tuple(total.tolist()) for gradient, total in totals.items()}


def table():
    yield "| L | K | σ | " + " | ".join(f"{name}: variance, bias" for name in ESTIMATORS) + " | plain / rao_blackwell |"
    yield "|---" * (4 + len(ESTIMATORS)) + "|"
    for n, k, sigma in PROBLEMS:
        result = measure(n, k, sigma)
        cells = " | ".join(f"{variance:.2g}, {bias:.2g}" for variance, bias in result.values())
        ratio = result["plain"][0] / result["rao_blackwell"][0]
        yield f"| {n} | {k} | {sigma} | {cells} | ×{ratio:.0f} |"


def page(rows):
    return f"""# Variance of the Top-K gradient

Four estimators of the gradient of ⟨g, P_σ(s)⟩ (Eq. 9), {SAMPLES} samples each, compared with the exact gradient of
`exact_topk`. Scores are uniform on [0, 1], g is standard normal; means over {FUNCTIONALS} pairs of scores and g.

- *variance*: the summed variance of one estimate over the squared norm of the exact gradient; at 1 there is as much
  noise as signal.
- *bias*: the squared error of the mean of {REPEATS} estimates over the same norm. An unbiased estimator has about a
  {REPEATS}th of its variance here; what exceeds that is bias. At 1 the mean is as wrong as no gradient at all.

{rows}

`plain` is Eq. 9 to the letter, `leave_one_out` subtracts the mean of the other samples, `rao_blackwell` (the default)
integrates one noise coordinate at a time, `diagonal` is what the authors' code computes.

Regenerate with `python -m tests.benchmark.topk_variance --write`, half a minute on one CPU thread (here: torch
{torch.__version__.split("+")[0]}).
"""


def write_atomically(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", encoding="utf-8", delete=False) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    os.replace(file.name, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in table():
        print(row, flush=True)
        rows.append(row)
    if arguments.write:
        write_atomically(PAGE, page("\n".join(rows)))


if __name__ == "__main__":
    main()
