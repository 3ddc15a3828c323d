"""Rows measured: first whether both paths agree, only then how long they take."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from tests.benchmark.speed.clock import Clock, cache_bytes, rotated
from tests.benchmark.speed.operation import Operation, Setting

PATHS = ("ours", "twin")
LONG = 5.0
"""seconds of a warm-up that is worth keeping"""


def measure(
    group: Sequence[Operation], setting: Setting, clock: Clock, rates: dict[str, float], budget: float = 15.0
) -> list[dict[str, Any]]:
    """Everything about rows that share their inputs and their twin. A row whose gate is red has no times."""
    rows = [on_paper(operation) | {"gate": gate(operation, setting), "rates": rates} for operation in group]
    green = [(row, operation) for row, operation in zip(rows, group, strict=True) if row["gate"] == "green"]
    if not green:
        return rows
    *ours, part = interleaved([operation for _, operation in green], setting, clock, budget)
    twin = [seconds / group[0].twin_share for seconds in part]
    for (row, operation), seconds in zip(green, ours, strict=True):
        row.update(
            ours=summary(seconds), twin=summary(twin), floor=floor_seconds(operation, rates, setting.dtype.itemsize)
        )
        row.update(operation.extras() if operation.extras else {})
        row["ratio"] = row["twin"]["median"] / row["ours"]["median"]
        row["times_floor"] = row["ours"]["median"] / row["floor"]
    return rows


def on_paper(operation: Operation) -> dict[str, Any]:
    """What is known before anything runs."""
    fields = (
        *("name", "case", "note", "multiply_adds", "parameters", "frames", "series"),
        *("target", "memory_target", "why"),
    )
    return {field: getattr(operation, field) for field in fields}


def gate(operation: Operation, setting: Setting) -> str:
    """ "green", or how the two outputs differ."""
    torch.manual_seed(0)
    inputs = (operation.gate_inputs or operation.inputs)(setting)
    try:
        operation.agree(operation.ours(*inputs), operation.twin(*inputs))
    except AssertionError as error:
        return "red: " + " ".join(str(error).split())
    return "green"


def interleaved(group: Sequence[Operation], setting: Setting, clock: Clock, budget: float) -> list[list[float]]:
    """Seconds of our path of every row and of their twin, run in turn: 3 times at least, 30 at most, else until
    `budget` seconds are spent. The first round warms up, unless it is long."""
    torch.manual_seed(0)
    inputs = itertools.cycle(rotated(group[0].inputs(setting), cache_bytes(setting.device)))
    paths = [*(operation.ours for operation in group), group[0].twin]
    start = time.perf_counter()
    rounds: list[list[float]] = []
    while len(rounds) < 31 and (len(rounds) < 4 or time.perf_counter() - start < budget):
        given = [next(inputs) for _ in paths]
        rounds.append([clock(partial(path, *own)) for path, own in zip(paths, given, strict=True)])
        if len(rounds) == 3 and max(rounds[0]) > LONG:
            break
    kept = rounds if max(rounds[0]) > LONG else rounds[1:]
    return [list(seconds) for seconds in zip(*kept, strict=True)]


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, the quartiles around it, and how many runs."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": statistics.median(seconds), "quartiles": [low, high], "runs": len(seconds)}


def floor_seconds(operation: Operation, rates: dict[str, float], bytes_per_number: int) -> float:
    """What the machine's own matrix products, or its own copying, would take."""
    traffic = operation.traffic * bytes_per_number / 4
    return max(operation.multiply_adds / rates["multiply_adds"], traffic / rates["copied_bytes"])
