"""A table's own columns, from the samples files of lmms-eval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dynfocus_lmms_eval.tables import HALLUCER_KINDS
from dynfocus_lmms_eval.tasks.videohallucer import KINDS, columns

Sample = Mapping[str, Any]
LVBENCH_TYPES = {
    "entity recognition": "ER",
    "event understanding": "EU",
    "key information retrieval": "KIR",
    "temporal grounding": "TG",
    "reasoning": "Rea",
    "summarization": "Sum",
}
MLVU_TYPES = {
    "topic_reasoning": "TR",
    "anomaly_reco": "AR",
    "needle": "NQA",
    "ego": "ER",
    "plotQA": "PQA",
    "order": "AO",
    "count": "AC",
}


class Outcome(NamedTuple):
    """What one run of lmms-eval left."""

    results: Mapping[str, Any]
    samples: Mapping[str, Sequence[Sample]]
    """by task"""
    documents: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    """rows of the data sets whose samples do not say what the columns need"""


def columns_of(name: str, outcome: Outcome) -> dict[str, float]:
    """The columns of a table; those without any sample are left out, and so are means over them.

    Args:
        name: Of the table.
        outcome: Of its tasks.
    """
    found = {"1": _open, "2": _vcg, "3": _lvbench, "4": _mlvu, "5": _videomme, "14": _videohallucer}[name](outcome)
    return {column: value for column, value in found.items() if value is not None}


def costs_of(outcome: Outcome) -> dict[str, float]:
    """Means over the answers that were computed in this run; those from the cache say nothing about their cost."""
    costs = [
        cost
        for samples in outcome.samples.values()
        for sample in samples
        for cost in sample.get("token_counts") or []
        if cost and "tokens" in cost
    ]
    names = ("tokens", "focus_frames", "seconds_encode", "seconds_prefill")
    return {name: sum(cost[name] for cost in costs) / len(costs) for name in names} if costs else {}


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; nothing where a value is missing, or all are."""
    values = list(values)
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _share(rights: Iterable[bool]) -> float | None:
    return _mean([100.0 * right for right in rights])


def _open(outcome: Outcome) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for task, label in (("msvd_qa", "MSVD-QA"), ("msrvtt_qa", "MSRVTT-QA"), ("activitynetqa", "ANet-QA")):
        verdicts = [sample["gpt_eval_accuracy"] for sample in outcome.samples.get(task, ())]
        found[f"{label} Acc"] = _share("yes" in verdict["Correctness"].lower() for verdict in verdicts)
        found[f"{label} Score"] = _mean(float(verdict["score"]) for verdict in verdicts)
    return found


def _vcg(outcome: Outcome) -> dict[str, float | None]:
    named = {"CI": "correctness", "DO": "detailed_orientation", "CU": "context"}
    generic = outcome.samples.get("videochatgpt_gen", ())
    found = {
        column: _mean(float(sample[f"gpt_eval_score_{name}"]["score"]) for sample in generic)
        for column, name in named.items()
    }
    temporal = outcome.samples.get("videochatgpt_temporal", ())
    found["TU"] = _mean(float(sample["gpt_eval_score_temporal"]["score"]) for sample in temporal)
    # Pairs of answers are judged after the samples are written: consistency is in the results alone.
    judged = outcome.results.get("results", {}).get("videochatgpt_consistency", {})
    found["CO"] = judged.get("gpt_eval_score_consistency,none")
    return {**found, "Avg.": _mean(found.values())}


def _lvbench(outcome: Outcome) -> dict[str, float | None]:
    samples, rows = outcome.samples.get("lvbench", ()), outcome.documents.get("lvbench", ())
    rights: dict[str, list[bool]] = {column: [] for column in LVBENCH_TYPES.values()}
    for sample in samples:
        types = rows[sample["doc_id"]]["question_type"]
        for kind in [types] if isinstance(types, str) else types:
            rights[LVBENCH_TYPES[kind.strip().lower()]].append(bool(sample["lvbench_score"]))
    overall = _share(bool(sample["lvbench_score"]) for sample in samples)
    return {**{column: _share(values) for column, values in rights.items()}, "Overall": overall}


def _mlvu(outcome: Outcome) -> dict[str, float | None]:
    verdicts = [sample["mlvu_percetion_score"] for sample in outcome.samples.get("mlvu_dev", ())]
    choice = {
        column: _share(one["pred_answer"] == one["answer"] for one in verdicts if one["task_type"] == kind)
        for kind, column in MLVU_TYPES.items()
    }
    written = {
        column: _mean(sample["mlvu_generation_score"]["score"] for sample in outcome.samples.get(task, ()))
        for column, task in (("VS", "mlvu_vs"), ("SSC", "mlvu_ssc"))
    }
    return {**choice, **written, "M-Avg": _mean(choice.values()), "G-Avg": _mean(written.values())}


def _videomme(outcome: Outcome) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for task, subs in (("videomme", "w/o subs"), ("videomme_w_subtitle", "w/ subs")):
        verdicts = [sample["videomme_perception_score"] for sample in outcome.samples.get(task, ())]
        for part in ("Short", "Medium", "Long"):
            rights = [bool(verdict["score"]) for verdict in verdicts if verdict["duration"] == part.lower()]
            found[f"{part} {subs}"] = _share(rights)
        found[f"Overall {subs}"] = _share(bool(verdict["score"]) for verdict in verdicts)
    return found


def _videohallucer(outcome: Outcome) -> dict[str, float | None]:
    kinds = columns([sample["final"] for sample in outcome.samples.get("videohallucer", ())])
    found: dict[str, float | None] = {}
    for kind, label in zip(KINDS, HALLUCER_KINDS, strict=True):
        for name, part in (("basic", "Basic"), ("hallucinated", "Halluc."), ("final", "Final")):
            found[f"{label} {part}"] = kinds.get(kind, {}).get(name)
    return {**found, "Overall": _mean(found[f"{label} Final"] for label in HALLUCER_KINDS)}
