"""Every benchmark of the guide, from its annotations to its result file, on a few fake rows."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from tests.integration.lmms_eval.hub import judge, write_all
from tests.integration.lmms_eval.models import save_random
from tests.integration.lmms_eval.running import Run, run

pytestmark = pytest.mark.lmms_eval

JUDGED = ("activitynetqa", "msvd_qa", "msrvtt_qa")
GENERATED = {"videochatgpt_gen": 2, "videochatgpt_temporal": 2, "videochatgpt_consistency": 2}
OTHERS = {"lvbench": 6, "mlvu_dev": 7, "videomme": 3, "videomme_w_subtitle": 3, "videohallucer": 20}
TASKS = ("activitynetqa", "msvd_qa", "msrvtt_qa", "videochatgpt", "mlvu_vs", "mlvu_ssc", *OTHERS)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    work, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    write_all(work, home)
    model = save_random(tmp_path_factory.mktemp("model"))
    with judge() as (url, asked):
        variables = {"OPENAI_API_URL": url, "OPENAI_API_KEY": "none", "MODEL_VERSION": "stand-in", "HF_HOME": str(home)}
        tasks = ",".join(TASKS)
        done = run(Path(work), f"pretrained={model},frames=4", tasks, "--batch_size", "4", **variables)
    return done, asked


def test_every_task_writes_its_results(evaluated):
    done, _ = evaluated
    assert done.results, done.log[-4000:]
    expected = {**dict.fromkeys(JUDGED, 2), **GENERATED, **OTHERS, "mlvu_vs": 1, "mlvu_ssc": 1}
    assert {task: len(samples) for task, samples in done.samples.items()} == expected


def test_every_answer_says_what_it_cost(evaluated):
    done, _ = evaluated
    for task in done.samples:
        for cost in done.costs(task):
            # 3 or 4 frames of which K = ceil(0.25 T) = 1 is in focus: 15 tokens, and 2 for each of the others
            assert cost["frames"] in (3, 4)
            assert (cost["tokens"], cost["focus_frames"]) == (15 + 2 * (cost["frames"] - 1), 1)
            assert cost["seconds_encode"] > 0
            assert cost["seconds_prefill"] > 0


@pytest.mark.parametrize("task", JUDGED)
def test_open_answers_are_judged(evaluated, task):
    done, _ = evaluated
    assert done.scores(task) == {"gpt_eval_accuracy": 50.0, "gpt_eval_score": 3.0}


def test_the_judge_stands_beside_its_score(evaluated):
    done, asked = evaluated
    assert set(asked) == {"stand-in"}
    for task in ("msvd_qa", "msrvtt_qa", "mlvu_vs", "mlvu_ssc"):
        verdicts = [value for sample in done.samples[task] for value in sample.values() if isinstance(value, dict)]
        assert verdicts
        assert {verdict["judge"] for verdict in verdicts} == {"stand-in"}


def test_generations_are_judged(evaluated):
    done, _ = evaluated
    scores = [value for task in GENERATED for value in done.scores(task).values()]
    assert scores == [4.0] * 5
    assert done.scores("mlvu_vs") == {"mlvu_generation_score": 6.0}
    assert done.scores("mlvu_ssc") == {"mlvu_generation_score": 8.5}


def test_subtitles_reach_the_prompt(evaluated):
    done, _ = evaluated
    inputs = {task: done.samples[task][0]["input"] for task in ("videomme", "videomme_w_subtitle")}
    assert "hello there" in inputs["videomme_w_subtitle"]
    assert "hello there" not in inputs["videomme"]
