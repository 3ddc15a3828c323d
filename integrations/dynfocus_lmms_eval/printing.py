"""A table as `dynfocus eval` prints it: baseline, ours, what is retained, the paper, and every judge by name."""

from __future__ import annotations

from collections.abc import Mapping

from dynfocus_lmms_eval.columns import Outcome, columns_of, costs_of
from dynfocus_lmms_eval.judge import judge_name
from dynfocus_lmms_eval.tables import Numbers, Table

Found = Mapping[tuple[int | None, str], Outcome | None]
NOTHING = "–"
TOKENS, FOCUS = "tokens", "focus frames"


def render(table: Table, found: Found, limit: str | None) -> str:
    """Markdown: one block per number of frames.

    Args:
        table: Which.
        found: What the runs of each (frames, arm) left.
        limit: That was passed on.
    """
    return "\n".join(_block(table, frames, found, limit) for frames in table.frames)


def _block(table: Table, frames: int | None, found: Found, limit: str | None) -> str:
    arms = {arm: found.get((frames, arm)) for arm in ("baseline", "ours")}
    rows = [(arm, _numbers(table, outcome), _judge(table)) for arm, outcome in arms.items() if outcome is not None]
    notes = []
    if len(rows) == 2 and _alike(arms):
        rows.append(("retained", retained(rows[1][1], rows[0][1]), ""))
    elif len(rows) == 2:
        notes.append("Nothing retained: baseline and ours were not run alike (lmms-eval's version or limit).")
    paper = [row for row in table.paper if row.frames in (None, frames)]
    rows += [(f"paper, {row.label}", row.numbers, row.judge or "") for row in paper]
    if table.judged and any(row.judge != judge_name() for row in paper):
        notes.append(f"Another judge: ours is {judge_name()}, so the judged numbers do not compare with the paper's.")
    if limit is not None:
        notes.append(f"The first {limit} documents of every task: these are no results.")
    pace = "1 frame per second" if frames is None else f"{frames} frames"
    title = f"Table {table.name}: {table.title}, {pace}{_version(arms)}"
    return "\n".join([title, "", *_markdown(table, rows), "", *notes, ""])


def retained(ours: Numbers, baseline: Numbers) -> Numbers:
    """Ours as a percentage of the baseline, where that is not 0.

    Example:
        >>> retained({"Acc": 45.0, "tokens": 90.0}, {"Acc": 50.0, "tokens": 0.0})
        {'Acc': 90.0}
    """
    return {name: 100 * ours[name] / value for name, value in baseline.items() if value and name in ours}


def _numbers(table: Table, outcome: Outcome) -> Numbers:
    costs = costs_of(outcome)
    cost = {TOKENS: costs["tokens"], FOCUS: costs["focus_frames"]} if costs else {}
    return {**columns_of(table.name, outcome), **cost}


def _alike(arms: Mapping[str, Outcome | None]) -> bool:
    """Whether both were run with the same lmms-eval and limit."""
    facts = [
        (outcome.results.get("lmms_eval_version"), outcome.results.get("config", {}).get("limit"))
        for outcome in arms.values()
        if outcome is not None
    ]
    return len(set(facts)) == 1


def _version(arms: Mapping[str, Outcome | None]) -> str:
    versions = {str(one.results.get("lmms_eval_version")) for one in arms.values() if one is not None}
    return f", lmms-eval {' and '.join(sorted(versions))}" if versions else ""


def _judge(table: Table) -> str:
    return judge_name() if table.judged else ""


def _markdown(table: Table, rows: list[tuple[str, Numbers, str]]) -> list[str]:
    names = [*table.columns, TOKENS, FOCUS]
    heads = ["", *names, *(["judge"] if table.judged else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label, numbers, judge in rows:
        cells = [_cell(numbers.get(name), name, label) for name in names]
        lines.append("| " + " | ".join([label, *cells, *([judge] if table.judged else [])]) + " |")
    return lines


def _cell(value: float | None, name: str, label: str) -> str:
    if value is None:
        return NOTHING
    if label == "retained":
        return f"{value:.1f} %"
    if name in (TOKENS, FOCUS):
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 11 and not float(value).is_integer() else f"{value:.1f}"
