"""The paper's tables as questions to this world: its numbers beside ours, and whether the order holds."""

from __future__ import annotations

from collections.abc import Sequence

from dynfocus_reference.planted.intervals import Interval
from dynfocus_reference.planted.paper import SWEPT, SWEPT_REASON, TABLES, PaperTable
from dynfocus_reference.planted.results import Result
from dynfocus_reference.planted.sweeps import EVENTS, FOCUS, LENGTHS, PROTOTYPES, RATIOS, SWEEP, arm_of, setting_of
from dynfocus_reference.planted.tables import Table, rows, shown


def paper_tables(results: Sequence[Result]) -> str:
    """All of them."""
    by_setting = {name: Table([r for r in results if r.setting == name]) for name in {r.setting for r in results}}
    parts = [
        "## The paper's tables, as questions to this world\n",
        "Mean over all kinds of questions, detail and order apart, and how often the evidence of salience questions "
        "is in focus; ± is the 95 % interval over seeds.\n",
    ]
    for table in TABLES:
        parts += [f"### {table.title}\n", _body(table, by_setting), table.remark + "\n" if table.remark else ""]
        parts += [f"{verdict(table, by_setting)} {table.reason}".strip() + "\n"]
    return "\n".join(part for part in [*parts, sweep_tables(by_setting)] if part)


def sweep_tables(by_setting: dict[str, Table]) -> str:
    """Fig. 3 and B.7: accuracy by L and r."""
    parts = [SWEPT]
    tables = {length: by_setting[setting_of(length)] for length in LENGTHS if setting_of(length) in by_setting}
    for length in LENGTHS:
        parts.append(_sweep_body(length, tables[length]) if length in tables else f"{length} frames: not run yet.\n")
    if tables:
        told = "; ".join(f"{length} frames: {_best(table)}" for length, table in tables.items())
        parts.append(f"Best here, of L at r = {FOCUS:g} and of r at L = {EVENTS}: {told}. {SWEPT_REASON}\n")
    return "\n".join(parts)


def _sweep_body(length: int, table: Table) -> str:
    body = []
    for point in SWEEP:
        arm = arm_of(*point)
        cells = [overall(table, arm), *(table.accuracy(arm, kind) for kind in ("salience", "detail", "order"))]
        cells.append(table.recall(arm, "salience"))
        tokens = table.interval(arm, lambda result: result.tokens)
        told = [*(shown(cell) for cell in cells), "–" if tokens is None else f"{tokens.mean:.0f}"]
        body.append([arm, *told, str(len(table.of(arm)))])
    return rows(
        (f"{length} frames", "all kinds", "salience", "detail", "order", "recall, salience", "tokens", "seeds"), body
    )


def _best(table: Table) -> str:
    """The best L and the best r, and whether either lies above what the models were trained with."""
    own, told = overall(table, arm_of(EVENTS, FOCUS)), []
    for name, points in (("L", [(count, FOCUS) for count in PROTOTYPES]), ("r", [(EVENTS, r) for r in RATIOS])):
        found = {point: each for point in points if (each := overall(table, arm_of(*point))) is not None}
        if not found or own is None:
            return "not run yet"
        best = max(found, key=lambda point: found[point].mean)
        apart = " (intervals apart from the trained one)" if found[best].above(own) else ""
        told.append(f"{name} = {best[0] if name == 'L' else best[1]:g}{apart}")
    return ", ".join(told)


def _body(table: PaperTable, by_setting: dict[str, Table]) -> str:
    body = []
    for row in table.rows:
        found = by_setting.get(row.setting, Table([]))
        cells = [overall(found, row.arm), found.accuracy(row.arm, "detail"), found.accuracy(row.arm, "order")]
        paper = "–" if row.paper is None else f"{row.paper:g}"
        told = [shown(cell) for cell in (*cells, found.recall(row.arm, "salience"))]
        body.append(
            [row.label, paper, *(told if cells[0] else ["not run yet", "–", "–", "–"]), str(len(found.of(row.arm)))]
        )
    paper = f"paper, {table.benchmark}" if table.benchmark else "paper"
    return rows(("", paper, "all kinds", "detail", "order", "recall, salience", "seeds"), body)


def overall(table: Table, arm: str) -> Interval | None:
    """Mean accuracy over all kinds."""
    return table.interval(
        arm, lambda result: sum(float(kind["accuracy"] or 0) for kind in result.kinds.values()) / len(result.kinds)
    )


def told_against(table: PaperTable, by_setting: dict[str, Table]) -> str:
    """What each row does against one of them."""
    found = {row.label: overall(by_setting.get(row.setting, Table([])), row.arm) for row in table.rows}
    base, told = found.pop(table.against or ""), []
    for label, each in found.items():
        if base is None or each is None:
            told.append(f"{label}: not run yet")
        else:
            word = "better" if each.above(base) else "worse" if base.above(each) else "cannot tell"
            told.append(f"{label}: {word} ({each.mean - base.mean:+.2f})")
    return f"Against “{table.against}”: {'; '.join(told)}."


def verdict(table: PaperTable, by_setting: dict[str, Table]) -> str:
    """Whether the rows stand to the last one, what the paper uses, as they do there."""
    if table.against is not None:
        return told_against(table, by_setting)
    ours = overall(by_setting.get(table.rows[-1].setting, Table([])), table.rows[-1].arm)
    found = [(row, overall(by_setting.get(row.setting, Table([])), row.arm)) for row in table.rows[:-1]]
    there = [(row, each) for row, each in found if each is not None]
    if ours is None or not there:
        return "Whether the order holds: not run yet."
    missing = "" if len(there) == len(found) else " (of the rows that were run)"
    best = table.rows[-1].paper or 0.0
    agrees, differs = [], []
    for row, each in there:
        above = row.paper is not None and row.paper > best
        agrees += [row.label] if (each.above(ours) if above else ours.above(each)) else []
        differs += [row.label] if (ours.above(each) if above else each.above(ours)) else []
    if differs:
        return f"**Does not hold**{missing}: against the last row, {', '.join(differs)} stands the other way round."
    if len(agrees) == len(there):
        return f"**Holds**{missing}: every row stands to the last one as in the paper, intervals apart."
    touching = [row.label for row, _ in there if row.label not in agrees]
    stands = f"{', '.join(agrees)}: as in the paper, intervals apart; " if agrees else ""
    return (
        f"**Cannot tell at this size**{missing}: {stands}{', '.join(touching)} and the last row: intervals that touch."
    )
