"""`lmms-eval --model dynfocus --tasks planted` from the command line: alone, in two processes, killed and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("lmms_eval")

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.fingerprint import fingerprint
from tests.integration.lmms_eval.models import save_random
from tests.integration.lmms_eval.running import TWICE, Run, run

DOCUMENTS = 12
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
    assert set(scores) == {"accuracy", "chance"}
    assert 0.2 < scores["chance"] < 0.4
    for cost in alone.costs("planted"):
        # K = 2 of 32 frames in focus, 15 tokens each, 2 for every other one
        assert (cost["tokens"], cost["focus_frames"], cost["frames"], cost["batch"]) == (90, 2, 32, 4)
        assert min(cost["seconds_encode"], cost["seconds_prefill"]) > 0
    kinds = {sample["accuracy"]["kind"] for sample in alone.samples["planted"]}
    assert kinds == {"salience", "by_question", "detail", "order", "count", "motion"}


def test_two_processes_give_the_same(place, alone):
    both = planted(place, "both", "", "--batch_size", "4", launcher=TWICE)
    assert both.results, both.log[-4000:]
    assert both.answers("planted") == alone.answers("planted")
    assert both.scores("planted") == alone.scores("planted")
    assert "Running on rank 1" in both.log


def test_the_baseline_is_one_word_away(place, alone):
    plain = planted(place, "plain", ",connector=none", "--batch_size", "4")
    assert plain.results, plain.log[-4000:]
    assert {(cost["tokens"], cost["focus_frames"]) for cost in plain.costs("planted")} == {(32 * 36, 32)}
    assert plain.scores("planted")["chance"] == alone.scores("planted")["chance"]


def test_a_killed_run_goes_on_where_it_stopped(place, alone):
    weights = fingerprint(ModelArguments.parse(pretrained=str(place.model)))
    more = ("--batch_size", "1", "--use_cache", str(place.work / "cache"))
    options = {"LMMS_CACHE_RUN_ID": "one", "PYTHONPATH": str(place.work)}
    refused = planted(place, "killed", ",host=dying:load", *more, **options)
    assert f"expected weights={weights}, the fingerprint of the files, got none" in refused.log
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
