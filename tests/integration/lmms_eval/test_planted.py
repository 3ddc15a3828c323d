"""`lmms-eval --model dynfocus --tasks planted` from the command line: alone, in two processes, killed and resumed.

The shipped checkpoint answers as the study says it does.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("lmms_eval")

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.fingerprint import fingerprint
from dynfocus_lmms_eval.tasks.planted import by_kind
from dynfocus_reference.planted import checkpoint_folder
from tests.integration.lmms_eval.models import save_random
from tests.integration.lmms_eval.running import TWICE, Run, run

pytestmark = pytest.mark.lmms_eval
DOCUMENTS, ASKED_STORIES = 19, 12
"""prompts about one story: six kinds in 4, 4, 1, 4, 4 and 2 rotations"""
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


@pytest.mark.skipif(not (checkpoint_folder() / "config.json").is_file(), reason="the study's checkpoint is not shipped")
def test_the_shipped_model_answers_as_the_study_says(place):
    """Through files, codec and lmms-eval, and from the stories' own pixels."""
    from dynfocus_reference import ReferenceModel, ReferenceProcessor
    from dynfocus_reference.planted.arms import ARMS
    from dynfocus_reference.planted.evaluation import evaluate
    from dynfocus_reference.planted.memory import Memory
    from dynfocus_reference.planted.questions import KINDS
    from dynfocus_reference.planted.study import TEST_STORIES
    from dynfocus_reference.planted.world import write_story

    stories = [write_story(TEST_STORIES + number) for number in range(ASKED_STORIES)]
    model = ReferenceModel.from_pretrained(checkpoint_folder()).eval()
    processor = ReferenceProcessor.from_pretrained(checkpoint_folder())
    said = evaluate(ARMS["dynfocus"], model, Memory(model, stories), processor, KINDS)
    done = run(
        place.work,
        "pretrained=planted",
        "planted",
        "--limit",
        str(DOCUMENTS * ASKED_STORIES),
        "--batch_size",
        "19",
        out="shipped",
        HF_HOME=str(place.home),
    )
    assert done.results, done.log[-4000:]
    found = by_kind([sample["accuracy"] for sample in done.samples["planted"]])
    scores = done.scores("planted")
    assert scores["single"] > 2 * scores["chance"]
    assert found["salience"] > 0.5
    # A question may fall the other way: files are lossy, and here the connector reads the options too.
    for kind, score in said.items():
        assert found[kind] == pytest.approx(score.accuracy, abs=2.5 / ASKED_STORIES), kind
    assert {cost["tokens"] for cost in done.costs("planted")} == {score.tokens for score in said.values()}
