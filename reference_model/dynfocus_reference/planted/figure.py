"""The main comparison as a picture: accuracy and recall of every arm, with intervals."""

from __future__ import annotations

from html import escape

from dynfocus_reference.planted.intervals import Interval
from dynfocus_reference.planted.tables import Table

PANELS = (
    ("salience", "accuracy", "salience: accuracy"),
    ("salience", "recall", "salience: recall"),
    ("by_question", "accuracy", "by question: accuracy"),
    ("by_question", "recall", "by question: recall"),
    ("detail", "accuracy", "detail: accuracy"),
    ("order", "accuracy", "order: accuracy"),
)
COLOURS = {"accuracy": "#0072b2", "recall": "#d55e00"}
LEFT, TOP, WIDTH, GAP, ROW = 130, 46, 130, 26, 18


def figure(table: Table) -> str:
    """An SVG: one row per arm, one panel per measure, a dot and its 95 % interval in each."""
    height = TOP + ROW * len(table.arms) + 30
    width = LEFT + (WIDTH + GAP) * len(PANELS)
    parts = [_text(LEFT - 10, TOP + ROW * (i + 0.5) + 4, arm, "end") for i, arm in enumerate(table.arms)]
    told = []
    for number, (kind, measure, title) in enumerate(PANELS):
        left = LEFT + number * (WIDTH + GAP)
        parts += [_text(left + WIDTH / 2, 22, title, "middle"), _axis(left, ROW * len(table.arms))]
        value = table.accuracy if measure == "accuracy" else table.recall
        for i, arm in enumerate(table.arms):
            found = value(arm, kind)
            if found is not None:
                parts.append(_dot(left, TOP + ROW * (i + 0.5), found, COLOURS[measure]))
                told.append(f"{arm}, {title} {found}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#333"><title>The planted study</title>'
        f"<desc>{escape('; '.join(told))}</desc>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _axis(left: float, height: float) -> str:
    lines = []
    for share in (0, 0.5, 1):
        x = left + WIDTH * share
        lines.append(f'<path d="M{x:g} {TOP}v{height:g}" stroke="#ddd"/>')
        lines.append(_text(x, TOP + height + 16, f"{share:g}", "middle"))
    return "".join(lines)


def _dot(left: float, y: float, found: Interval, colour: str) -> str:
    low, high = (min(max(found.mean + sign * found.half, 0), 1) for sign in (-1, 1))
    bar = ""
    if low == low:  # a single seed has no interval
        bar = (
            f'<path d="M{left + WIDTH * low:.1f} {y:g}H{left + WIDTH * high:.1f}" stroke="{colour}" stroke-width="2"/>'
        )
    return bar + f'<circle cx="{left + WIDTH * found.mean:.1f}" cy="{y:g}" r="3.5" fill="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'
