"""A table's own columns from samples; the paper's numbers agree with themselves."""

from __future__ import annotations

import pytest

pytest.importorskip("av")

from dynfocus_lmms_eval.columns import Outcome, columns_of, costs_of
from dynfocus_lmms_eval.printing import render, retained
from dynfocus_lmms_eval.tables import TABLES, table
from dynfocus_lmms_eval.tasks.videohallucer import said, score


def verdicts(metric: str, entries: list[dict]) -> list[dict]:
    return [{"doc_id": number, metric: entry} for number, entry in enumerate(entries)]


def test_open_answers():
    judged = [{"Correctness": "yes", "score": 5}, {"Correctness": "no", "score": 2}]
    outcome = Outcome({}, {"msvd_qa": verdicts("gpt_eval_accuracy", judged)})
    assert columns_of("1", outcome) == {"MSVD-QA Acc": 50.0, "MSVD-QA Score": 3.5}


def test_vcg_takes_consistency_from_the_results():
    names = ("correctness", "detailed_orientation", "context")
    generic = [{f"gpt_eval_score_{name}": {"score": n} for n, name in enumerate(names, start=2)}]
    temporal = [{"gpt_eval_score_temporal": {"score": 1}}]
    results = {"results": {"videochatgpt_consistency": {"gpt_eval_score_consistency,none": 5.0}}}
    outcome = Outcome(results, {"videochatgpt_gen": generic, "videochatgpt_temporal": temporal})
    assert columns_of("2", outcome) == {"CI": 2, "DO": 3, "CU": 4, "TU": 1, "CO": 5, "Avg.": 3}
    assert "Avg." not in columns_of("2", outcome._replace(results={}))


def test_lvbench_counts_a_question_in_each_of_its_kinds():
    rows = [{"question_type": ["reasoning", "summarization"]}, {"question_type": "reasoning"}]
    samples = [{"doc_id": 1, "lvbench_score": False}, {"doc_id": 0, "lvbench_score": True}]
    found = columns_of("3", Outcome({}, {"lvbench": samples}, {"lvbench": rows}))
    assert found == {"Rea": 50.0, "Sum": 100.0, "Overall": 50.0}


def test_mlvu_means_need_every_kind():
    kinds = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
    entries = [{"task_type": kind, "pred_answer": "A", "answer": "AB"[kind == "count"]} for kind in kinds]
    samples = {
        "mlvu_dev": verdicts("mlvu_percetion_score", entries),
        "mlvu_vs": verdicts("mlvu_generation_score", [{"score": 3.0}, {"score": 4.0}]),
        "mlvu_ssc": verdicts("mlvu_generation_score", [{"score": 5.5}]),
    }
    found = columns_of("4", Outcome({}, samples))
    assert (found["AC"], found["M-Avg"]) == (0.0, pytest.approx(600 / 7))
    assert (found["VS"], found["SSC"], found["G-Avg"]) == (3.5, 5.5, 4.5)
    short = columns_of("4", Outcome({}, {**samples, "mlvu_dev": samples["mlvu_dev"][:3], "mlvu_ssc": []}))
    assert set(short) == {"TR", "AR", "NQA", "VS"}


def test_videomme_by_length_and_subtitles():
    entries = [
        {"duration": "short", "score": 1.0},
        {"duration": "short", "score": 0.0},
        {"duration": "long", "score": 0},
    ]
    found = columns_of("5", Outcome({}, {"videomme_w_subtitle": verdicts("videomme_perception_score", entries)}))
    assert found == {"Short w/ subs": 50.0, "Long w/ subs": 0.0, "Overall w/ subs": pytest.approx(100 / 3)}


def test_a_pair_counts_where_both_are_right():
    def half(kind, pair, side, answer, given):
        return score({"kind": kind, "pair": pair, "side": side, "answer": answer}, [given])

    samples = [
        half("temporal", 0, "basic", "yes", "Yes."),
        half("temporal", 0, "hallucination", "no", "no, it is not"),
        half("temporal", 1, "basic", "yes", "yes"),
        half("temporal", 1, "hallucination", "no", "Yes"),
        half("semantic_detail", 0, "basic", "yes", "I see"),
    ]
    found = columns_of("14", Outcome({}, {"videohallucer": samples}))
    assert found == {"Temporal Basic": 100.0, "Temporal Halluc.": 50.0, "Temporal Final": 50.0}
    assert said("nothing to note") == ""


def test_costs_leave_cached_answers_out():
    cost = {"tokens": 90, "focus_frames": 2, "seconds_encode": 0.5, "seconds_prefill": 0.25}
    samples = [{"token_counts": [cost]}, {"token_counts": [None]}, {"token_counts": [{"unanswered": "why"}]}, {}]
    assert costs_of(Outcome({}, {"x": samples})) == cost
    assert costs_of(Outcome({}, {"x": [{}]})) == {}


@pytest.mark.parametrize("wanted", TABLES, ids=lambda wanted: wanted.name)
def test_the_papers_rows_have_the_tables_columns(wanted):
    for row in wanted.paper:
        assert set(row.numbers) <= set(wanted.columns)
        assert row.frames in (None, *wanted.frames)
        assert not wanted.judged or row.judge


def test_the_papers_means_are_means():
    for row in table("4").paper:
        n = row.numbers
        choice = [n[column] for column in ("TR", "AR", "NQA", "ER", "PQA", "AO", "AC")]
        assert n["M-Avg"] == pytest.approx(sum(choice) / 7, abs=0.08)
        assert n["G-Avg"] == pytest.approx((n["VS"] + n["SSC"]) / 2, abs=0.006)
    n = table("14").paper[1].numbers
    finals = [value for name, value in n.items() if name.endswith("Final")]
    assert n["Overall"] == pytest.approx(sum(finals) / 5, abs=0.11)
    for row in table("2").paper:
        assert row.numbers["Avg."] == pytest.approx(sum(list(row.numbers.values())[:5]) / 5, abs=0.011)


def outcome(right: float, *, version: str = "0.7.3", limit: int | None = None) -> Outcome:
    entries = [{"duration": "short", "score": right}]
    samples = verdicts("videomme_perception_score", entries)
    cost = {"tokens": 100 * right, "focus_frames": 1, "seconds_encode": 0, "seconds_prefill": 0}
    samples = [{**sample, "token_counts": [cost]} for sample in samples]
    return Outcome({"lmms_eval_version": version, "config": {"limit": limit}}, {"videomme": samples})


def test_retention_needs_both():
    both = render(table("5"), {(16, "baseline"): outcome(1.0), (16, "ours"): outcome(1.0)}, None)
    assert "Table 5: Video-MME, 16 frames, lmms-eval 0.7.3\n" in both
    assert "| retained | 100.0 % | – |" in both
    assert "| paper, DynFocus | 50.9 | 53.7 |" in both
    assert "| ours | 100.0 | – |" in both
    assert "retained" not in render(table("5"), {(16, "baseline"): None, (16, "ours"): outcome(1.0)}, None)


@pytest.mark.parametrize("other", [{"version": "0.7.4"}, {"limit": 3}])
def test_retention_needs_equal_runs(other):
    text = render(table("5"), {(16, "baseline"): outcome(1.0), (16, "ours"): outcome(1.0, **other)}, None)
    assert "| retained |" not in text
    assert "Nothing retained: baseline and ours were not run alike" in text


def test_a_baseline_of_nothing_retains_nothing():
    assert retained({"a": 3.0, "b": 1.0}, {"a": 4.0, "b": 0.0, "c": 5.0}) == {"a": 75.0}


def test_every_judged_number_has_its_judge(monkeypatch):
    monkeypatch.setenv("MODEL_VERSION", "stand-in")
    judged = verdicts("gpt_eval_accuracy", [{"Correctness": "yes", "score": 5}])
    text = render(table("1"), {(None, "ours"): Outcome({}, {"msvd_qa": judged})}, "5")
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("| ours")).endswith("| stand-in |")
    judges = [line.rsplit("|", 2)[1].strip() for line in lines if line.startswith("| paper")]
    assert judges == ["GPT Turbo-16k", "GPT Turbo-0613"]
    assert "Another judge: ours is stand-in, so the judged numbers do not compare with the paper's." in lines
    assert "The first 5 documents of every task: these are no results." in lines
