"""`lmms-eval --model dynfocus --tasks planted` from the command line: alone, in two processes, killed and resumed.

The shipped checkpoint answers as the study says it does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("lmms_eval")

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.fingerprint import fingerprint
from dynfocus_lmms_eval.tasks.planted import STORIES, by_kind
from dynfocus_reference import ReferenceModel, ReferenceProcessor
from dynfocus_reference.planted import checkpoint_folder
from dynfocus_reference.planted.arms import ARMS
from dynfocus_reference.planted.evaluation import Score, evaluate
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.questions import KINDS
from dynfocus_reference.planted.ship import ARM
from dynfocus_reference.planted.study import TEST_STORIES
from dynfocus_reference.planted.world import write_story
from tests.integration.lmms_eval.models import save_random
from tests.integration.lmms_eval.running import TWICE, Run, run

pytestmark = pytest.mark.lmms_eval
ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs/guides/lmms_eval.md"
DOCUMENTS = 19
"""prompts about one story: six kinds in 4, 4, 1, 4, 4 and 2 rotations"""
ASKED_STORIES = 8
"""of the task's, as in the guide"""
DYING = '''
"""The reference model, which dies with its fifth answer where a file says so."""

import os
import signal
from pathlib import Path

from dynfocus_reference.answering import load as load_reference


def load(**arguments):
    engine = load_reference(**arguments)
    answer, given = engine.answer, [0]

    def answer_or_die(prompts, generation):
        given[0] += len(prompts)
        if given[0] == 5 and Path("die").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(prompts, generation)

    engine.answer = answer_or_die
    return engine
'''


class Place(NamedTuple):
    """Where the runs of this file happen."""

    work: Path
    home: Path
    model: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folders = [tmp_path_factory.mktemp(name) for name in ("work", "home", "model")]
    (folders[0] / "dying.py").write_text(DYING)
    return Place(folders[0], folders[1], save_random(folders[2]))


def planted(place: Place, out: str, model_args: str = "", *more: str, **options) -> Run:
    arguments = f"pretrained={place.model}{model_args}"
    return run(
        place.work, arguments, "planted", "--limit", str(DOCUMENTS), *more, out=out, HF_HOME=str(place.home), **options
    )


@pytest.fixture(scope="module")
def alone(place: Place) -> Run:
    done = planted(place, "alone", "", "--batch_size", "4")
    assert done.results, done.log[-4000:]
    return done


def test_answers_and_their_costs_are_written(alone):
    assert alone.status == 0
    assert len(alone.answers("planted")) == DOCUMENTS
    assert len(set(alone.answers("planted"))) > 2
    scores = alone.scores("planted")
    assert set(scores) == {"accuracy", "single", "chance"}
    assert scores["chance"] == pytest.approx((4 * 4 / 4 + 2 / 2) / DOCUMENTS)
    for cost in alone.costs("planted"):
        # K = 3 of 32 frames in focus, 15 tokens each, 2 for every other one
        assert (cost["tokens"], cost["focus_frames"], cost["frames"]) == (103, 3, 32)
        assert min(cost["seconds_encode"], cost["seconds_prefill"]) > 0
    kinds = {sample["accuracy"]["kind"] for sample in alone.samples["planted"]}
    assert kinds == {"salience", "by_question", "detail", "order", "count", "motion"}


def test_without_the_connector_every_patch_is_read(place):
    plain = planted(place, "plain", ",connector=none", "--batch_size", "4")
    assert plain.results, plain.log[-4000:]
    assert {cost["tokens"] for cost in plain.costs("planted")} == {32 * 36}


def test_two_processes_give_the_same(place, alone):
    both = planted(place, "both", "", "--batch_size", "4", launcher=TWICE)
    assert both.results, both.log[-4000:]
    assert both.answers("planted") == alone.answers("planted")
    assert both.scores("planted") == alone.scores("planted")
    assert "Running on rank 1" in both.log


def test_a_killed_run_goes_on_where_it_stopped(place, alone):
    weights = fingerprint(ModelArguments.parse(pretrained=str(place.model)))
    more = ("--batch_size", "1", "--use_cache", str(place.work / "cache"))
    options = {"LMMS_CACHE_RUN_ID": "one", "PYTHONPATH": str(place.work)}
    (place.work / "die").touch()
    killed = planted(place, "killed", f",host=dying:load,weights={weights}", *more, **options)
    assert (killed.status, killed.results) == (-9, {})
    (place.work / "die").unlink()
    resumed = planted(place, "killed", f",host=dying:load,weights={weights}", *more, **options)
    assert resumed.results, resumed.log[-4000:]
    assert f"4/{DOCUMENTS} cache hits" in resumed.log
    assert [cost is None for cost in resumed.costs("planted")] == [True] * 4 + [False] * (DOCUMENTS - 4)
    assert resumed.answers("planted") == alone.answers("planted")
    assert resumed.scores("planted") == alone.scores("planted")


@pytest.fixture(scope="module")
def reported() -> dict[str, float]:
    """The accuracy of the shipped model by kind of question, from the file that the study wrote."""
    result = json.loads((ROOT / "docs/results/planted/shipped/question-scorer-seed0.json").read_text())
    assert (result["arm"], result["stories"]) == (ARM, STORIES)
    return {kind: score["accuracy"] for kind, score in result["kinds"].items()}


def study(stories: int) -> dict[str, Score]:
    """The study's own evaluation of the shipped model about its first stories."""
    model = ReferenceModel.from_pretrained(checkpoint_folder()).eval()
    memory = Memory(model, [write_story(TEST_STORIES + number) for number in range(stories)])
    return evaluate(ARMS[ARM], model, memory, ReferenceProcessor.from_pretrained(checkpoint_folder()), KINDS)


def ask_shipped(place: Place, stories: int) -> Run:
    limit = ("--limit", str(DOCUMENTS * stories), "--batch_size", str(DOCUMENTS))
    done = run(place.work, "pretrained=planted", "planted", *limit, out=f"shipped-{stories}", HF_HOME=str(place.home))
    assert done.results, done.log[-4000:]
    return done


def test_the_shipped_model_is_the_one_of_the_report(reported):
    assert {kind: round(score.accuracy, 4) for kind, score in study(STORIES).items()} == reported


def test_the_shipped_model_answers_as_the_study_says(place):
    """Through files, lmms-eval and generation, and from the stories' own pixels."""
    done, said = ask_shipped(place, ASKED_STORIES), study(ASKED_STORIES)
    assert by_kind([sample["accuracy"] for sample in done.samples["planted"]]) == {
        kind: pytest.approx(score.accuracy) for kind, score in said.items()
    }
    scores = done.scores("planted")
    assert min(scores["accuracy"], scores["single"]) > 3 * scores["chance"]
    assert {cost["tokens"] for cost in done.costs("planted")} == {score.tokens for score in said.values()}
    for name, value in scores.items():
        assert re.search(rf"\|{name} *\|↑  \|{value:.4f}\|", GUIDE.read_text()), f"the guide prints another {name}"


@pytest.mark.slow
def test_all_of_the_task_gives_what_the_study_reports(place, reported):
    found = by_kind([sample["accuracy"] for sample in ask_shipped(place, STORIES).samples["planted"]])
    assert {kind: round(share, 4) for kind, share in found.items()} == reported
