"""The benchmark itself: no time without a green gate, ratios that are ratios, pages that say what the JSON says."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

from tests.benchmark.speed.__main__ import complete, groups
from tests.benchmark.speed.clock import ProcessorClock, WallClock, clock_for, copies_for_cold_cache, rotated
from tests.benchmark.speed.fresh import EVERY_TENSOR_GIVES_ITS_PAGES_BACK, ROOT, compare, peaks, worker
from tests.benchmark.speed.measure import floor_seconds, gate, interleaved, measure, summary
from tests.benchmark.speed.operation import Operation, Setting
from tests.benchmark.speed.operations import all_operations, find
from tests.benchmark.speed.page import document, table_row, write_page
from tests.benchmark.speed.plots import slope
from tests.benchmark.speed.prefill import SHAPES, tokens_after
from tests.benchmark.speed.tokens import FRAMES, token_curves

CPU = Setting(torch.device("cpu"), torch.float32)
RATES = {"multiply_adds": 1e9, "copied_bytes": 1e8}
RESULTS = ROOT / "docs" / "results"


class ScriptedClock:
    """Says what it was told to say, and counts."""

    name = "scripted time"

    def __init__(self, seconds):
        self.seconds, self.calls = itertools.cycle(seconds), 0

    def __call__(self, run):
        self.calls += 1
        run()
        return next(self.seconds)


def operation(ours=lambda x: x + 1, twin=lambda x: x + 1, **changes):
    values = {
        "name": "Addition",
        "case": "3 numbers",
        "inputs": lambda setting: (torch.zeros(3, device=setting.device),),
        "ours": ours,
        "twin": twin,
        "agree": torch.testing.assert_close,
        "multiply_adds": 2e9,
        "traffic": 1e7,
        "target": 3.0,
    }
    return Operation(**{**values, **changes})


def test_a_red_gate_shows_its_reason_and_no_time():
    clock = ScriptedClock([1.0])
    (row,) = measure([operation(ours=lambda x: x + 2)], CPU, clock, RATES)
    assert clock.calls == 0
    assert row.keys().isdisjoint({"ours", "twin", "ratio", "floor", "times_floor"})
    assert "gate red: Tensor-likes are not close" in table_row(row)
    assert " s" not in table_row(row).split("gate")[0]


def test_the_gate_looks_at_its_own_inputs_where_there_are_some():
    wrong_at_zero = {"ours": lambda x: x, "twin": lambda x: x + (x == 0)}
    assert gate(operation(**wrong_at_zero), CPU).startswith("red")
    assert gate(operation(**wrong_at_zero, gate_inputs=lambda setting: (torch.ones(3),)), CPU) == "green"


def test_ratios_are_those_of_the_medians():
    script = [4.0, 4.0, 1.0, 10.0, 3.0, 40.0, 2.0, 20.0]
    (row,) = measure([operation()], CPU, ScriptedClock(script), RATES, budget=0)
    assert (row["ours"]["median"], row["twin"]["median"], row["ours"]["runs"]) == (2.0, 20.0, 3)
    assert row["ratio"] == 10.0
    assert row["floor"] == 2.0
    assert row["times_floor"] == 1.0
    assert "| 2 s (±50%) | 20 s (±75%) | **×10** | ×3 |" in table_row(row)


def test_a_twin_that_does_a_share_of_its_work_counts_whole():
    (row,) = measure([operation(twin_share=0.1)], CPU, ScriptedClock([2.0, 1.0]), RATES, budget=0)
    assert (row["twin"]["median"], row["ratio"]) == (10.0, 5.0)


def test_a_target_of_memory_stands_in_the_table():
    (row,) = measure([operation(memory_target=100)], CPU, ScriptedClock([1.0]), RATES, budget=0)
    row["memory"] = {"ours": 2**20, "twin": 2**30}
    assert "| ×3, memory ×100 | 1 MiB | 1 GiB (×1.02e+03) |" in table_row(row)


def test_the_floor_is_the_longer_of_arithmetic_and_traffic():
    assert floor_seconds(operation(), RATES, 4) == 2.0
    assert floor_seconds(operation(traffic=5e8), RATES, 4) == 5.0
    assert floor_seconds(operation(traffic=5e8), RATES, 2) == 2.5


def test_paths_run_in_turn_and_end_with_the_budget():
    seen = []
    paths = {"ours": lambda x: seen.append("ours"), "twin": lambda x: seen.append("twin")}
    times = interleaved([operation(**paths)], CPU, ScriptedClock([0.1, 0.2]), budget=0)
    assert seen == ["ours", "twin"] * 4  # the first pair warms up
    assert times == [[0.1] * 3, [0.2] * 3]
    seen.clear()
    interleaved([operation(**paths)] * 2, CPU, ScriptedClock([0.1]), budget=60)
    assert seen == ["ours", "ours", "twin"] * 31


def test_a_long_first_round_counts():
    assert interleaved([operation()], CPU, ScriptedClock([1.0, 6.0]), budget=0) == [[1.0] * 3, [6.0] * 3]


def test_a_red_row_does_not_silence_its_group():
    rows = measure([operation(ours=lambda x: x), operation()], CPU, ScriptedClock([1.0, 2.0]), RATES, budget=0)
    assert [row["gate"][:5] for row in rows] == ["red: ", "green"]
    assert rows[1]["ratio"] == 2.0
    assert "ratio" not in rows[0]


def test_spread_is_that_of_the_quartiles():
    assert summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "quartiles": [2.0, 4.0], "runs": 5}


def test_cold_inputs_do_not_fit_the_cache_together():
    assert copies_for_cold_cache(100, 40) == 1
    for size in (1, 7, 50, 80):
        copies = copies_for_cold_cache(size, 40)
        assert (copies - 1) * size >= 80 > (copies - 2) * size
    inputs = (torch.zeros(4), "text")
    sets = rotated(inputs, cache=20)
    assert len(sets) == 4
    assert len({given[0].data_ptr() for given in sets}) == 4
    assert all(torch.equal(given[0], inputs[0]) and given[1] == "text" for given in sets)
    assert len(rotated(inputs, cache=10**9)) == 64


def test_one_thread_is_timed_by_the_processor():
    assert isinstance(clock_for(CPU.device, 1), ProcessorClock)
    assert isinstance(clock_for(CPU.device, 2), WallClock)


@pytest.mark.parametrize("row", all_operations(quick=True), ids=lambda row: row.key)
def test_every_kind_of_row_has_a_green_gate_that_can_be_red(row):
    assert gate(row, CPU) == "green"
    if not row.name.startswith("Top-K"):  # whose gate draws its own noise
        broken = dataclasses.replace(row, ours=lambda *given: worsened(row.ours(*given)))
        assert gate(broken, CPU).startswith("red")


def worsened(value):
    if hasattr(value, "assignment"):
        return value._replace(assignment=value.assignment.roll(1, 1))
    return value + 0.01 * value.abs().max()


def test_rows_are_found_by_name_and_carry_the_names_of_table_9():
    rows = all_operations()
    assert len({row.key for row in rows}) == len(rows)
    assert all(find(row.key).case == row.case for row in rows)
    assert {"T-DPC", "S-DPC", "Dyn. Select", "Dyn. Enc."} <= {row.name for row in rows}


@pytest.mark.slow
def test_two_checkouts_are_run_in_turn_in_processes_of_their_own():
    setting = {"threads": 1, "device": "cpu", "dtype": "float32"}
    rows = all_operations(quick=True)
    with worker(ROOT, EVERY_TENSOR_GIVES_ITS_PAGES_BACK, **setting) as here, worker(ROOT, **setting) as there:
        row = compare(here, there, rows[0], repeats=3)
        (memory,) = peaks(here, [find("T-DPC · 500 frames × 1408")])
    assert (row["here"]["runs"], row["there"]["runs"]) == (3, 3)
    assert row["ratio"] == row["there"]["median"] / row["here"]["median"]
    assert 500 * 500 * 4 <= memory["twin"] < 500 * 500 * 100


def test_a_resumed_result_has_the_order_and_the_words_of_the_registry():
    rows = all_operations(quick=True)
    measured = [{"name": row.name, "case": row.case, "why": "old", "note": "old", "ratio": 2.0} for row in rows[2::-1]]
    assert [row for group in groups(rows, measured) for row in group] == rows[3:]
    result = {"rows": measured}
    complete(result, quick=True)
    assert [(row["name"], row["case"], row["ratio"]) for row in result["rows"]] == [
        (row.name, row.case, 2.0) for row in rows[:3]
    ]
    assert result["rows"][2]["why"] == rows[2].why
    assert result["left_out"] == [row.key for row in rows[3:]]


def test_slopes_are_powers():
    x = [1.0, 10.0, 100.0, 1000.0]
    assert slope(x, [3 * value**2 for value in x]) == pytest.approx(2)
    assert slope(x, [5.0] * 4) == pytest.approx(0)


def test_tokens_and_memory_are_those_of_the_paper_and_the_models():
    curves = token_curves()
    at_1024 = {name: counts[FRAMES.index(1024)] for name, counts in curves.items()}
    assert at_1024["DynFocus, L = 25, r = 0.8"] == 20 * 40 + 1004 * 2 == tokens_after(1024)
    assert at_1024["all patches"] == 256 * 1024
    assert at_1024["LLaMA-VID (2 per frame)"] == 2048
    assert SHAPES["Vicuna-7B"].cache_bytes(1) == 512 * 1024
    assert SHAPES["Qwen2-7B"].cache_bytes(1) == 56 * 1024
    assert SHAPES["Qwen2-0.5B"].cache_bytes(1) == 12 * 1024


def small_result():
    rows = [
        *measure([operation(case="2 frames", frames=2, series="Addition")], CPU, ScriptedClock([1.0, 2.0]), RATES, 0),
        *measure([operation(case="4 frames", frames=4, series="Addition")], CPU, ScriptedClock([1.0, 4.0]), RATES, 0),
    ]
    for row in rows:
        row["memory"] = {"ours": 2**20 * row["frames"], "twin": 2**22}
    prefill = [
        {
            "frames": 4,
            "tokens": {"before": 1024, "after": 160},
            "prefill": {"before": 6.0, "after": 2.0},
            "cache_bytes": {"A": {"before": 2**30, "after": 2**20}},
        }
    ]
    machine = dict.fromkeys(("processor", "gpu", "threads", "dtype", "clock", "python", "torch", "system"), "")
    return {
        "machine": machine,
        "rows": rows,
        "left_out": ["Subtraction · 1 frame"],
        "prefill": prefill,
        "command": "make bench",
    }


def test_the_page_says_what_the_json_says(tmp_path):
    result = small_result()
    write_page(json.loads(json.dumps(result)), tmp_path / "speed.md")
    text = (tmp_path / "speed.md").read_text()
    assert text == "\n".join(document(result, "speed")) + "\n"
    assert "| Addition | 2 frames | 2 G |  | 1 s (±0%) | 2 s (±0%) | **×2** | ×3 | 2 MiB | 4 MiB (×2) | 0.5 |" in text
    assert "- Addition, 2 frames: 2 times faster, below the target of 3." in text
    assert "Addition, 4 frames: 4 times" not in text
    assert "Not measured in this run, for want of time: Subtraction · 1 frame." in text
    assert "| 4 | 1,024 | 160 | 6 s | 2 s | ×3 | 1 GiB → 1 MiB |" in text
    for plot in ("time", "memory", "prefill", "tokens"):
        assert (tmp_path / f"speed_{plot}.svg").read_text().startswith("<?xml")
        assert f"speed_{plot}.svg" in text
    assert "Addition, slope 1.00" in (tmp_path / "speed_memory.svg").read_text()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("speed*.json")))
def test_the_published_page_is_that_of_its_json(name):
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert Path(RESULTS / f"{name}.md").read_text() == "\n".join(document(result, name)) + "\n"
