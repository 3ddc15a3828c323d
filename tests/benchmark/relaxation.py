"""What the two relaxations of the Top-K hand to the cones in training: writes docs/results/relaxation.md."""

from __future__ import annotations

from pathlib import Path

import torch

from dynfocus_connector import hard_topk, perturbed_topk
from dynfocus_connector.saving import replace_file

PAGE = Path(__file__).parents[2] / "docs" / "results" / "relaxation.md"
PROBLEMS = [(25, 20, 0.02), (25, 20, 0.1), (25, 20, 0.5), (80, 36, 0.02), (80, 36, 0.1), (80, 36, 0.5)]
VIDEOS, DIM = 64, 64

TEXT = """# Soft or straight-through

Regenerate with `python tests/benchmark/relaxation.py`.

In training, `relaxation="soft"` (the paper) hands the cones h = P_σ m, a mixture of event prototypes;
`"straight_through"` hands them the prototypes of the hard Top-K and takes only the gradient from P_σ. The frame,
and with it G_t, is that of the hard Top-K in both. Measured on uniform scores, {videos} videos, Gaussian prototypes
of width {dim}, 500 samples:

| events L, focus K, σ | mass of a row on its own frame | distance of soft prototypes from the hard ones |
|---|--:|--:|
{rows}

The last column is ‖P_σ m − P m‖ / ‖P m‖; for straight-through it is 0. At the paper's σ = 0.1 a soft row is a blend:
row i of P_σ is the i-th *chosen* event of every sample, and one swap early in the video shifts all later rows by one.
Inference is hard, so a soft-trained model sees sharper prototypes there than in training; straight-through has no
such gap, but its gradient belongs to a forward pass that was not run. Which trains better is a question for data,
not for this page.
"""


def measure(events: int, focus: int, sigma: float) -> str:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(VIDEOS, events, generator=generator)
    prototypes = torch.randn(VIDEOS, events, DIM, generator=generator)
    hard = hard_topk(scores, focus)
    soft = perturbed_topk(scores, focus, sigma=sigma, generator=generator)
    own = (soft * hard).sum(-1).mean()
    apart = ((soft - hard) @ prototypes).norm() / (hard @ prototypes).norm()
    return f"| {events}, {focus}, {sigma} | {own:.2f} | {apart:.2f} |"


def main() -> None:
    """Measure and write."""
    page = TEXT.format(videos=VIDEOS, dim=DIM, rows="\n".join(measure(*problem) for problem in PROBLEMS))
    replace_file(PAGE, lambda path: Path(path).write_text(page))
    print(page)


if __name__ == "__main__":
    main()
