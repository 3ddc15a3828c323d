"""Curves over log–log axes as SVG, the slope of each in its label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynfocus_connector.saving import replace_file

Curve = tuple[Sequence[float], Sequence[float]]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line through (log x, log y): the power of T that y grows with."""
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    spread = sum((a - mean_u) ** 2 for a in u)
    return sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread


def log_log(path: Path, title: str, unit: str, curves: Mapping[str, Curve], *, slopes: bool = True) -> None:
    """Write the plot; dashed where the name says it is a twin. The same numbers give the same file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "dynfocus", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for name, (x, y) in curves.items():
            label = f"{name}, slope {slope(x, y):.2f}" if slopes and len(x) > 1 else name
            axes.plot(x, y, marker=".", linestyle="--" if "twin" in name or "before" in name else "-", label=label)
        axes.set(xscale="log", yscale="log", xlabel="frames T", ylabel=unit, title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False)
        replace_file(path, lambda part: figure.savefig(part, format="svg", metadata={"Date": None}))
