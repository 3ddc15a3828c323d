"""Runs write one file each, are never repeated, and the page says what the files say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from dynfocus_reference.planted import study
from dynfocus_reference.planted.arms import ARMS
from dynfocus_reference.planted.intervals import Interval
from dynfocus_reference.planted.page import page, write_page
from dynfocus_reference.planted.pretraining import pretrain, pretrained
from dynfocus_reference.planted.recipe import planted_model, planted_processor
from dynfocus_reference.planted.results import Key, Result, missing, read_results
from dynfocus_reference.planted.settings import SETTINGS, Setting
from dynfocus_reference.planted.tables import Table, targets
from dynfocus_reference.planted.training import Schedule
from dynfocus_reference.planted.warmup import PLAN

DOCS = Path(__file__).parents[4] / "docs" / "results"
TINY = Setting(
    "tiny", {"dynfocus": ARMS["dynfocus"]}, range(1), Schedule(2, 4, 1e-3), stories=4, samples=8, test_stories=2
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """As if pretraining had been done."""
    folder = tmp_path_factory.mktemp("cache")
    planted_model(0).save_pretrained(folder / "pretrained")
    planted_processor().save_pretrained(folder / "pretrained")
    return folder


def pretrain_a_little(cache, seed=0):
    plan = [part._replace(schedule=Schedule(1, 2, 1e-3)) for part in PLAN]
    sizes = {"tower_steps": 1, "tower_stories": 2, "stories": 3, "shorts": 3, "questions": plan[0].schedule, "items": 8}
    return pretrain(cache, plan=plan, **sizes, seed=seed)


def test_pretraining_depends_on_its_seed_alone(tmp_path):
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number + 100)
        folder = pretrain_a_little(tmp_path / str(number), seed)
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_pretraining_is_done_once(tmp_path):
    folder = pretrain_a_little(tmp_path)
    assert {"model.safetensors", "config.json", "losses.json"} <= {path.name for path in folder.iterdir()}
    assert list(json.loads((folder / "losses.json").read_text())) == [
        "tower",
        "questions",
        *(part.name for part in PLAN),
    ]
    pretrained(tmp_path)
    time = (folder / "model.safetensors").stat().st_mtime_ns
    pretrain(tmp_path)
    assert (folder / "model.safetensors").stat().st_mtime_ns == time
    with pytest.raises(ValueError, match=r"of seed 1 in .*, got seed 0"):
        pretrain(tmp_path, seed=1)


def test_a_run_writes_its_results_and_is_repeatable(tmp_path, cache):
    study.ground.cache_clear()
    results = study.run(TINY, ARMS["dynfocus"], 0, tmp_path / "a", cache)
    assert read_results(tmp_path / "a") == results
    assert [result.arm for result in results] == ["dynfocus", "shuffled video"]
    assert results[0].tokens == 103
    assert study.trained_folder(cache, TINY, "dynfocus", 0).is_dir()
    study.ground.cache_clear()
    again = study.run(TINY, ARMS["dynfocus"], 0, tmp_path / "b", cache)
    assert [dataclasses.replace(r, seconds=0) for r in again] == [dataclasses.replace(r, seconds=0) for r in results]


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path, cache):
    study.ground.cache_clear(), study.memories.cache_clear()
    study.use("cuda")
    try:
        results = study.run(TINY, ARMS["dynfocus"], 0, tmp_path, cache)
    finally:
        study.use("cpu")
        study.ground.cache_clear(), study.memories.cache_clear()
    assert results[0].tokens == 103
    assert read_results(tmp_path) == results


def test_what_is_there_is_not_run_again(tmp_path, cache, monkeypatch):
    monkeypatch.setitem(SETTINGS, "tiny", TINY)
    result = Result("tiny", "dynfocus", 0, {}, 1.0, 1.0, 1, 1, 32)
    result.write(tmp_path)
    keys = [Key("tiny", "dynfocus", 0), Key("tiny", "dynfocus", 1)]
    assert missing(keys, tmp_path) == keys[1:]
    study.run_all(["tiny"], tmp_path, cache, 1)
    assert read_results(tmp_path) == [result]


def test_weights_made_anew_have_to_be_made(tmp_path):
    assert study.home(SETTINGS["main"], tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"planted\.pretraining --cache"):
        study.main(["anew", "--cache", str(tmp_path), "--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()
    (tmp_path / "anew" / "pretrained").mkdir(parents=True)
    assert study.home(SETTINGS["anew"], tmp_path) == tmp_path / "anew"


def made_up(arm: str, seed: int, right: float, recall: float | None, setting: str = "main") -> Result:
    kinds = ("salience", "by_question", "detail", "order", "count", "motion")
    score = {"accuracy": right + seed / 100, "recall": recall, "precision": recall, "tokens": 103.0}
    return Result(setting, arm, seed, {kind: dict(score) for kind in kinds}, 103.0, 5.0, 10, 10, 32)


def test_the_page_tells_what_was_found_and_what_was_not_run(tmp_path):
    for seed in range(3):
        made_up("dynfocus", seed, 0.9, 0.97).write(tmp_path)
        made_up("uniform frames", seed, 0.3, 0.2).write(tmp_path)
        made_up("oracle frames", seed, 1.0, 1.0).write(tmp_path)
    text = page(tmp_path)["planted.md"]
    assert "| dynfocus | 0.91 ± 0.02 |" in text
    table = Table(read_results(tmp_path))
    assert table.closed("dynfocus") == pytest.approx((0.6 / 0.7, 0.0, 3), abs=1e-6)
    verdicts = [line for line in targets(table, Table([])).splitlines() if line.startswith("| ")]
    assert "| yes |" in next(line for line in verdicts if "recall ≥ 0.95 on salience" in line)
    assert "| yes |" in next(line for line in verdicts if "salience questions better than uniform" in line)
    assert "| not run yet |" in next(line for line in verdicts if "better than mean pooling" in line)


def test_the_page_puts_weights_made_anew_beside_those_of_the_package(tmp_path):
    assert "## With weights made anew" in page(tmp_path)["planted.md"]
    for seed in range(3):
        made_up("dynfocus", seed, 0.9, 1.0).write(tmp_path)
        made_up("dynfocus", seed, 0.4, 0.5, "anew").write(tmp_path)
    cells = ", ".join(["0.91 ± 0.02", "0.41 ± 0.02"])
    assert f"| dynfocus | {' | '.join([cells] * 4)} | 1.00 ± 0.00, 0.50 ± 0.00 | 3 |" in page(tmp_path)["planted.md"]


def test_intervals_that_touch_are_not_apart():
    assert Interval(0.9, 0.04, 5).above(Interval(0.8, 0.05, 5))
    assert not Interval(0.9, 0.05, 5).above(Interval(0.8, 0.05, 5))
    assert not Interval.over([0.9]).above(Interval.over([0.1, 0.1]))
    with pytest.raises(ValueError, match="1 to 10 values, got 0"):
        Interval.over([])


def test_the_committed_page_is_what_the_committed_files_say(tmp_path):
    write_page(DOCS / "planted", tmp_path)
    for name in ("planted.md", "planted.svg"):
        assert (tmp_path / name).read_text() == (DOCS / name).read_text(), name
