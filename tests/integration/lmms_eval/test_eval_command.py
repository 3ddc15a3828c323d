"""`dynfocus eval`: what is missing is said first, both arms run alike, the table is the table's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("av")

from dynfocus_lmms_eval.eval_command import TABLE_NAMES
from dynfocus_lmms_eval.judge import ask_judge, judge_problem, read_scores
from dynfocus_lmms_eval.tables import TABLES
from dynfocus_video.cli import main
from tests.integration.lmms_eval.hub import judge, write_all


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home with every data set, a folder called model, and no judge."""
    (tmp_path / "home").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "dynfocus_reference"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("OPENAI_API_KEY", "OPENAI_API_URL", "MODEL_VERSION", "API_TYPE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def dry(table: str, *more: str) -> int:
    return main(["eval", table, "pretrained=model,max_tokens=64", "--dry-run", *more])


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_missing_data_is_said_before_anything_runs(world, capsys, table):
    assert main(["eval", table, "pretrained=model"]) == 1
    said = capsys.readouterr().err
    assert f"eval: expected all that table {table} needs, got nothing for: " in said
    (found,) = [one for one in TABLES if one.name == table]
    assert all(f"{task}: " in said for task in found.tasks)
    assert ("a judge: OPENAI_API_KEY is not set" in said) == found.judged


@pytest.mark.lmms_eval
def test_every_table_has_a_command(world, capsys, monkeypatch):
    write_all(world, world / "home")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert {name: dry(name) for name in TABLE_NAMES} == dict.fromkeys(TABLE_NAMES, 0)
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    pace = {
        frames: sum(f",{frames}," in command for command in commands)
        for frames in ("frames=200", "frames=16", "frames=32", "fps=1.0")
    }
    assert pace == {"frames=200": 2, "frames=16": 4, "frames=32": 2, "fps=1.0": 6}


@pytest.mark.lmms_eval
def test_the_baseline_is_the_same_without_a_connector(world, capsys):
    write_all(world, world / "home")
    assert dry("5", "--limit", "3", "--processes", "2") == 0
    baseline, ours = [line.split() for line in capsys.readouterr().out.splitlines()]
    model = {name: line[line.index("--model_args") + 1] for name, line in (("baseline", baseline), ("ours", ours))}
    assert "connector=none" in model["baseline"]
    assert "max_tokens" not in model["baseline"]
    assert "max_tokens=64" in model["ours"]
    weights = [arguments.rpartition("weights=")[2] for arguments in model.values()]
    assert weights[0] == weights[1]
    for line in (baseline, ours):
        assert line[2:5] == ["-m", "torch.distributed.run", "--standalone"]
        assert line[line.index("--limit") + 1] == "3"
        assert line[line.index("--tasks") + 1] == "videomme,videomme_w_subtitle"


def test_arguments_that_make_no_sense(world, capsys):
    assert main(["eval", "5", "pretrained"]) == 1
    assert "expected name=value, separated by commas, got 'pretrained'" in capsys.readouterr().err
    assert main(["eval", "5", "pretrained=model,max_frames=3"]) == 1
    assert "got max_frames" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["eval", "6", "pretrained=model"])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "OPENAI_API_KEY is not set"),
        ({"OPENAI_API_KEY": "k", "API_TYPE": "azure"}, "API_TYPE is 'azure', and this needs 'openai'"),
        ({"OPENAI_API_KEY": "k", "OPENAI_API_URL": "http://x/v1"}, "the whole address is wanted"),
        ({"OPENAI_API_KEY": "k"}, None),
    ],
)
def test_judges_that_cannot_be_asked(world, monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    problem = judge_problem()
    assert (problem is None) if said is None else said in str(problem)
    if said is not None:
        with pytest.raises(RuntimeError, match="expected a judge, got none"):
            ask_judge("", "")


def test_a_judge_is_asked_and_read(world, monkeypatch):
    with judge() as (url, asked):
        for name, value in {"OPENAI_API_KEY": "k", "OPENAI_API_URL": url, "MODEL_VERSION": "stand-in"}.items():
            monkeypatch.setenv(name, value)
        reply = ask_judge("Give score_accuracy and score_relevance.", "this")
    assert asked == ["stand-in"]
    assert read_scores(reply, ("score_accuracy", "score_relevance"), lowest=1, highest=5) == [3.5, 5.0]
    assert read_scores('"score_accuracy": 9', ("score_accuracy",), lowest=1, highest=5) == [5.0]
    with pytest.raises(ValueError, match="expected a number for score_accuracy, got 'none'"):
        read_scores("none", ("score_accuracy",), lowest=1, highest=5)


@pytest.mark.lmms_eval
def test_a_table_is_filled(world, capsys):
    from tests.integration.lmms_eval.models import save_random

    write_all(world, world / "home")
    save_random(world / "model")
    command = ["eval", "14", "pretrained=model", "--batch-size", "4", "--out", "here"]
    status = main(command)
    said = capsys.readouterr()
    assert status == 0, said
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in said.out.splitlines() if line.startswith("| ")}
    assert {"| baseline", "| ours", "| retained", "| paper, DynFocus†"} <= set(rows)
    assert (rows["| baseline"][-2], rows["| ours"][-2]) == (str(3 * 36), str(15 + 2 * 2))
    assert rows["| retained"][-2] == f"{100 * 19 / 108:.1f} %"
    assert sorted(path.name for path in Path("here/table-14/by-fps").iterdir()) == ["baseline", "ours"]
    assert main([*command, "--only", "ours"]) == 0
    assert "| retained" in capsys.readouterr().out


@pytest.mark.lmms_eval
def test_a_run_without_results_is_no_success(world, capsys):
    write_all(world, world / "home")
    (world / "model" / "config.json").write_text("{}")
    assert main(["eval", "14", "pretrained=model", "--only", "ours"]) == 1
    said = capsys.readouterr()
    assert "no results: " in said.err
    assert "| ours" not in said.out
