"""docs/results/speed.md and its plots, from the JSON of a run alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynfocus_connector.saving import replace_file
from tests.benchmark.speed.plots import Curve, log_log
from tests.benchmark.speed.tokens import FRAMES, token_curves

Result = dict[str, Any]
ROWS = [
    "| row | sizes | multiply-adds | parameters | ours | twin | **ratio** | target | memory, ours | twin | × floor |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
]


def write_page(result: Result, page: Path) -> None:
    """The page and the plots beside it; the page appears last, whole or not at all."""
    name = page.stem
    log_log(page.with_name(f"{name}_time.svg"), "Time against T", "seconds", series(result, "time"))
    log_log(page.with_name(f"{name}_memory.svg"), "Peak memory beyond the inputs", "MiB", series(result, "memory"))
    log_log(page.with_name(f"{name}_prefill.svg"), "Prefill of 2 layers", "seconds", prefill_curves(result))
    tokens = {label: (FRAMES, counts) for label, counts in token_curves().items()}
    log_log(page.with_name(f"{name}_tokens.svg"), "Visual tokens of a video", "tokens", tokens, slopes=False)
    text = "\n".join(document(result, name)) + "\n"
    replace_file(page, lambda part: Path(part).write_text(text, encoding="utf-8"))


def document(result: Result, name: str) -> Iterable[str]:
    """The lines of the page."""
    machine = result["machine"]
    device = f"{machine['gpu']} and {machine['processor']}" if machine["gpu"] else f"{machine['processor']}, no GPU"
    yield from [
        "# Speed and memory",
        "",
        f"Regenerate with `{result['command']}`. Measured on {device}; {machine['threads']} thread(s), "
        f"{machine['dtype']}, torch {machine['torch']}, Python {machine['python']}, {machine['system']}.",
        "",
        f"- Times are medians of **{machine['clock']}** of runs of both paths in turn, on a machine that others use "
        "too; the spread in brackets is the distance of the quartiles over the median.",
        "- *twin*: the authors' formulation, written plainly with the fastest stock operations "
        "(tests/benchmark/speed/twins.py): `cdist` and full distance matrices, `index_add_`, "
        "one-hot samples. *ratio*: time of the twin over ours.",
        "- A row is timed only after both paths agreed on its inputs; a red gate shows its reason instead.",
        "- *memory*: peak beyond the inputs, each path in a process of its own; in brackets the twin's over ours.",
        "- *floor*: the row's multiply-adds at the rate of a square matrix product "
        f"({rate(result, 'multiply_adds')} G/s in this run), or its traffic at the rate of a copy "
        f"({rate(result, 'copied_bytes')} GB/s), whichever is longer; both rates are measured beside each row.",
        "- Rows do not depend on each other: an interrupted run goes on with `--resume`.",
        "- Features are synthetic (scenes and noise), not those of a vision encoder.",
        "",
        *ROWS,
        *(table_row(row) for row in result["rows"]),
        "",
    ]
    if result["left_out"]:
        yield f"- Not measured in this run, for want of time: {'; '.join(result['left_out'])}."
    notes = [f"- {row['name']}, {row['case']}: {row['note']}." for row in result["rows"] if row["note"]]
    yield from [*missed(result), *notes, ""]
    yield from gradients(result)
    yield from [
        f"![Time against T]({name}_time.svg)",
        "",
        f"![Memory against T]({name}_memory.svg)",
        "",
        *prefill_section(result, name),
        "## Tokens against length",
        "",
        "The paper's Fig. 4, counted: DynFocus pays for L·r focus frames once, then 2 tokens per frame.",
        "",
        f"![Tokens against T]({name}_tokens.svg)",
    ]


def rate(result: Result, kind: str) -> str:
    """The lowest and the highest of a rate among the rows."""
    rates = [row["rates"][kind] / 1e9 for row in result["rows"]]
    return f"{min(rates):.3g}–{max(rates):.3g}"


def table_row(row: Result) -> str:
    """One line of the table."""
    counts = [row["name"], row["case"], count(row["multiply_adds"]), count(row["parameters"])]
    target = targets(row)
    if row["gate"] != "green":
        return "| " + " | ".join([*counts, f"gate {row['gate']}", "", "", target, "", "", ""]) + " |"
    memory = ["", ""]
    if row.get("memory"):
        ours, twin = (mebibytes(row["memory"][path]) for path in ("ours", "twin"))
        memory = [ours, f"{twin} (×{memory_ratio(row):.3g})"]
    times = [seconds(row["ours"]), seconds(row["twin"]), f"**×{row['ratio']:.3g}**", target]
    return "| " + " | ".join([*counts, *times, *memory, f"{row['times_floor']:.3g}"]) + " |"


def targets(row: Result) -> str:
    """What is asked of the row."""
    return ", memory ".join(f"×{row[kind]:g}" for kind in ("target", "memory_target") if row[kind])


def missed(result: Result) -> Iterable[str]:
    """Every target that was not reached, and why."""
    for row in result["rows"]:
        if row["gate"] != "green":
            continue
        kinds = [("times faster", row["ratio"], row["target"])]
        if row.get("memory"):
            kinds.append(("times less memory", memory_ratio(row), row["memory_target"]))
        for kind, found, target in kinds:
            if target and found < target:
                why = f": {row['why']}" if row["why"] else ""
                yield f"- {row['name']}, {row['case']}: {found:.3g} {kind}, below the target of {target:g}{why}."


def memory_ratio(row: Result) -> float:
    """Of the twin's peak over ours."""
    return row["memory"]["twin"] / max(row["memory"]["ours"], 1)


def gradients(result: Result) -> Iterable[str]:
    """The variance of each Top-K gradient beside its time."""
    rows = [row for row in result["rows"] if "variance" in row]
    if not rows:
        return
    yield from [
        "## Top-K gradients",
        "",
        "Variance of one estimate over the squared norm of the gradient, 500 samples, σ = 0.1; the twin computes the "
        "diagonal of the Jacobian only, which is not the gradient ([more](topk_variance.md)).",
        "",
        "| sizes | variance | forward + backward | ratio | target |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        target = f"×{row['target']:g}" if row["target"] else ""
        yield f"| {row['case']} | {row['variance']:.2g} | {seconds(row['ours'])} | ×{row['ratio']:.3g} | {target} |"
    yield ""


def prefill_section(result: Result, name: str) -> Iterable[str]:
    """What the language model pays."""
    shapes = list(result["prefill"][0]["cache_bytes"])
    yield from [
        "## The end of the chain",
        "",
        "Prefill of the first 2 of 24 layers of a model shaped like Qwen2-0.5B (random weights, no vocabulary), and "
        "the memory of keys and values in bfloat16, computed from the shapes of the whole models. *Before* are all 256 "
        "patches of a frame, *after* the tokens of the paper's preset. Long sequences are counted, not run.",
        "",
        f"| frames | tokens before | after | prefill before | after | ratio | KV of {' | KV of '.join(shapes)} |",
        "|--:" * (6 + len(shapes)) + "|",
    ]
    for row in result["prefill"]:
        times = row["prefill"]
        cells = [f"{row['frames']:,}", *(f"{row['tokens'][side]:,}" for side in ("before", "after"))]
        cells += [f"{times[side]:.3g} s" if side in times else "" for side in ("before", "after")]
        cells.append(f"×{times['before'] / times['after']:.3g}" if "before" in times else "")
        cells += [" → ".join(mebibytes(row["cache_bytes"][s][side]) for side in ("before", "after")) for s in shapes]
        yield f"| {' | '.join(cells)} |"
    yield from ["", f"![Prefill against T]({name}_prefill.svg)", ""]


def series(result: Result, kind: str) -> dict[str, Curve]:
    """Time or memory against T of every series of rows, ours and the twin's."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in result["rows"]:
        if not row["series"] or row["gate"] != "green" or (kind == "memory" and not row.get("memory")):
            continue
        for path, label in (("ours", row["series"]), ("twin", f"{row['series']} (twin)")):
            x, y = curves.setdefault(label, ([], []))
            value = row[path]["median"] if kind == "time" else max(row["memory"][path], 1) / 2**20
            x.append(row["frames"])
            y.append(value)
    return {label: curve for label, curve in curves.items() if len(curve[0]) > 1}


def prefill_curves(result: Result) -> dict[str, Curve]:
    """Seconds against T, before and after."""
    curves = {}
    for side in ("before", "after"):
        rows = [row for row in result["prefill"] if side in row["prefill"]]
        curves[side] = ([row["frames"] for row in rows], [row["prefill"][side] for row in rows])
    return curves


def seconds(summary: Result) -> str:
    """A median with its spread."""
    median, (low, high) = summary["median"], summary["quartiles"]
    text = f"{median:.3g} s" if median >= 1 else f"{median * 1000:.3g} ms"
    return f"{text} (±{(high - low) / median:.0%})"


def count(number: float) -> str:
    """12.9 M, 1.2 G; nothing for 0."""
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}" if number else ""


def mebibytes(size: float) -> str:
    """In MiB, or GiB where that is shorter."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
