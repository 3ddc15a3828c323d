"""Measure speed and memory; writes docs/results/speed.json, speed.md and the plots.

python -m tests.benchmark.speed                    everything, half an hour on one CPU thread
python -m tests.benchmark.speed --quick            small sizes, half a minute, into build/benchmark
python -m tests.benchmark.speed --device cuda --dtype bfloat16
python -m tests.benchmark.speed --compare REVISION our paths there and here, in turn (--only S-DPC: some)
python -m tests.benchmark.speed --only S-DPC       print some rows, write nothing
python -m tests.benchmark.speed --resume           what an interrupted run has left to do
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from dynfocus_connector.saving import replace_file
from tests.benchmark.speed.clock import clock_for
from tests.benchmark.speed.fresh import (
    EVERY_TENSOR_GIVES_ITS_PAGES_BACK,
    ROOT,
    Worker,
    checkout,
    compare,
    peaks,
    worker,
)
from tests.benchmark.speed.machine import describe, rates
from tests.benchmark.speed.measure import measure
from tests.benchmark.speed.operation import Operation, Setting
from tests.benchmark.speed.operations import all_operations
from tests.benchmark.speed.page import seconds, table_row, write_page
from tests.benchmark.speed.prefill import FRAMES, LONGEST, measure_prefill


def main() -> None:
    """Parse, measure, write."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    setting = Setting(torch.device(arguments.device), getattr(torch, arguments.dtype))
    rows = [row for part in arguments.only for row in all_operations(quick=arguments.quick) if part in row.key]
    if arguments.only == [""]:
        rows.sort(key=lambda row: row.target is None)  # where time runs out, not those that something is asked of
    writes = arguments.resume or arguments.only == [""]
    process = {"threads": arguments.threads, "device": arguments.device, "dtype": arguments.dtype}
    if arguments.compare:
        return compare_revisions(rows, arguments.compare, process)
    page = arguments.out or default_page(arguments)
    page.parent.mkdir(parents=True, exist_ok=True)
    clock, start = clock_for(setting.device, arguments.threads), time.monotonic()
    result: dict[str, Any] = {"rows": [], "prefill": []}
    if arguments.resume:
        result = json.loads(page.with_suffix(".json").read_text())
    result.update(machine=describe(setting, clock), command=command(arguments), left_out=[])
    with worker(ROOT, EVERY_TENSOR_GIVES_ITS_PAGES_BACK, **process) as memory:
        for group in groups(rows, result["rows"]):
            if time.monotonic() - start > 60 * arguments.minutes:
                break
            measured = measure(group, setting, clock, rates(setting, clock), 1 if arguments.quick else arguments.budget)
            add_memory(memory, group, measured)
            print("\n".join(map(table_row, measured)), flush=True)
            result["rows"] += measured
            if writes:
                write_json(result, page)
    if writes:
        complete(result, quick=arguments.quick)
        if not result["prefill"]:
            lengths, longest = ((1, 2, 4), 1024) if arguments.quick else (FRAMES, arguments.longest)
            result["prefill"] = measure_prefill(setting.device, setting.dtype, clock, lengths, longest)
        write_page(result, page)
        write_json(result, page)
        print(f"wrote {page}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for each row")
    parser.add_argument("--minutes", type=float, default=35.0, help="start no further rows after so many")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these, in this order")
    parser.add_argument("--compare", metavar="REVISION")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of the longest prefill that is run")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an interrupted run")
    parser.add_argument("--out", type=Path, help="the page; its JSON and plots lie beside it")
    return parser.parse_args()


def groups(rows: list[Operation], done: list[dict[str, Any]]) -> list[list[Operation]]:
    """Rows that are still to be measured, those of one group together."""
    known = {(row["name"], row["case"]) for row in done}
    left: dict[str, list[Operation]] = {}
    for row in rows:
        if (row.name, row.case) not in known:
            left.setdefault(row.group or row.key, []).append(row)
    return list(left.values())


def complete(result: dict[str, Any], *, quick: bool) -> None:
    """Rows in the order of the registry and with its words; the names of those that are missing."""
    rows = {(row["name"], row["case"]): row for row in result["rows"]}
    registry = {(row.name, row.case): row for row in all_operations(quick=quick)}
    result["rows"] = [{**rows[key], "why": row.why, "note": row.note} for key, row in registry.items() if key in rows]
    result["left_out"] = [row.key for key, row in registry.items() if key not in rows]


def add_memory(memory: Worker, group: list[Operation], measured: list[dict[str, Any]]) -> None:
    """Peaks of the rows whose gate is green."""
    green = [(row, operation) for row, operation in zip(measured, group, strict=True) if row["gate"] == "green"]
    if green:
        for (row, _), peak in zip(green, peaks(memory, [operation for _, operation in green]), strict=True):
            row["memory"] = peak


def write_json(result: dict[str, Any], page: Path) -> None:
    """Beside the page."""
    text = json.dumps(result, indent=1) + "\n"
    replace_file(page.with_suffix(".json"), lambda part: Path(part).write_text(text))


def compare_revisions(rows: list[Operation], revision: str, process: dict[str, Any]) -> None:
    """Print each row of our path here and there."""
    with checkout(revision) as path, worker(ROOT, **process) as here, worker(path, **process) as there:
        print(f"| row | here | {revision} | ratio |\n|---|--:|--:|--:|")
        for operation in rows:
            try:
                row = compare(here, there, operation)
            except RuntimeError as error:
                print(f"| {operation.key} | {error} | | |", flush=True)
                continue
            cells = [operation.key, seconds(row["here"]), seconds(row["there"]), f"×{row['ratio']:.3g}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def command(arguments: Any) -> str:
    """What regenerates the page."""
    if arguments.device == "cuda":
        return "make bench-gpu"
    return "python -m tests.benchmark.speed" + (" --quick" if arguments.quick else "")


def default_page(arguments: Any) -> Path:
    """The page of results, of a GPU, or a scratch one."""
    if arguments.quick:
        return ROOT / "build" / "benchmark" / "speed.md"
    return ROOT / "docs" / "results" / ("speed_gpu.md" if arguments.device == "cuda" else "speed.md")


if __name__ == "__main__":
    main()
