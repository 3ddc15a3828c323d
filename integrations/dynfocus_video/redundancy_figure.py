"""The paper's Fig. 1: both redundancy ratios of each set of videos, as a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

COLOURS = ("#0072b2", "#e69f00")
NAMES = ("temporal repetition", "answer-irrelevant")
LEFT, TOP, HEIGHT, GROUP, BAR = 60, 48, 240, 120, 36


def redundancy_figure(rows: Sequence[Any]) -> str:
    """An SVG with one group of bars per row (`name`, `videos`, `temporal`, `answer_irrelevant`)."""
    width = LEFT + GROUP * len(rows) + 20
    parts = [_scale(width), _legend(width)]
    for i, row in enumerate(rows):
        middle = LEFT + GROUP * (i + 0.5)
        for j, value in enumerate((row.temporal, row.answer_irrelevant)):
            parts.append(_bar(middle + (j - 1) * BAR, j, value))
        parts.append(
            _text(middle, TOP + HEIGHT + 20, row.name) + _text(middle, TOP + HEIGHT + 36, f"{row.videos} videos")
        )
    told = "; ".join(_told(row) for row in rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + 52}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#333"><title>Redundancy of videos</title>'
        f"<desc>{escape(told)}</desc>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _told(row: Any) -> str:
    irrelevant = "unknown" if row.answer_irrelevant is None else f"{row.answer_irrelevant:.0%}"
    return f"{row.name}: temporal repetition {row.temporal:.0%}, answer-irrelevant {irrelevant}"


def _bar(left: float, kind: int, value: float | None) -> str:
    if value is None:
        return _text(left + BAR / 2, TOP + HEIGHT - 6, "–")
    height = HEIGHT * value
    top = TOP + HEIGHT - height
    return (
        f'<rect x="{left + 2:g}" y="{top:.1f}" width="{BAR - 4}" height="{height:.1f}" fill="{COLOURS[kind]}"/>'
        + _text(left + BAR / 2, top - 5, f"{value:.0%}")
    )


def _scale(width: float) -> str:
    lines = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = TOP + HEIGHT * (1 - share)
        lines.append(
            f'<path d="M{LEFT} {y:g}H{width - 20}" stroke="#ddd"/>' + _text(LEFT - 8, y + 4, f"{share:.0%}", "end")
        )
    return "".join(lines)


def _legend(width: float) -> str:
    parts = []
    for j, name in enumerate(NAMES):
        x = LEFT + j * 160
        parts.append(
            f'<rect x="{x}" y="12" width="12" height="12" fill="{COLOURS[j]}"/>' + _text(x + 18, 22, name, "start")
        )
    return "".join(parts)


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'
