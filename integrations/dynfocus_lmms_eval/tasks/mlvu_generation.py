"""MLVU's generation tasks: video summary (VS) and sub-scene captioning (SSC), scored 2 to 10; G-Avg is their mean.

The layout is the data set's own: `json/9_summary.json`, `json/8_sub_scene.json` and `video/` with a folder for each, in
`$HF_HOME/mlvu_generation`. The criteria are MLVU's, the words of the prompts are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dynfocus_lmms_eval.judge import ask_judge, judge_name, read_scores
from dynfocus_lmms_eval.tasks.folders import as_rows, find_video, home, read_json, text_of

SET = "mlvu_generation"
LAYOUT = "json/9_summary.json, json/8_sub_scene.json, video/9_summary/ and video/8_sub_scene/ in $HF_HOME/" + SET


class Rubric(NamedTuple):
    """What the judge of one task is told."""

    source: str
    """name of its annotations and of its folder of videos"""
    system: str
    names: tuple[str, str]


SUMMARY = Rubric(
    "9_summary",
    "You grade summaries of videos against a reference summary. Give two whole numbers from 1 to 5. "
    "score_completeness: how much of the video's main content is there; 1 hardly any, 2 some, 3 most, 4 nearly all, "
    "5 all of it. score_reliability: how right and how clear it is; 1 several errors and contradictions, confused; "
    "2 several errors, some contradictions; 3 minor errors, mostly clear; 4 negligible errors, clear; 5 no error. "
    "A detail that the reference lacks counts as no error unless it contradicts the reference. Explain each number "
    "first, then end with a line of JSON: {'score_completeness': number, 'score_reliability': number}",
    ("score_completeness", "score_reliability"),
)
SUB_SCENE = Rubric(
    "8_sub_scene",
    "You grade an answer about a scene of a video. Give two numbers from 1 to 5. score_accuracy: grade each scoring "
    "point on its own, 1 where it is missed, 3 where the answer touches it without being fully right, 5 where it is "
    "met; then average over the points. score_relevance: how the answer keeps to the question, whether it is correct "
    "or not; 1 off topic, 2 in part, with much else, 3 on topic but unsure, 4 on topic and confident, 5 nothing but "
    "the topic and certain. Explain each number first, then end with a line of JSON: {'score_accuracy': number, "
    "'score_relevance': number}",
    ("score_accuracy", "score_relevance"),
)


def summary_rows(_: Any) -> Any:
    """VS."""
    return rows(SUMMARY)


def sub_scene_rows(_: Any) -> Any:
    """SSC."""
    return rows(SUB_SCENE)


def rows(rubric: Rubric) -> Any:
    """Questions with reference answers, and scoring points where a set has them."""
    entries = read_json(home() / SET / "json" / f"{rubric.source}.json", LAYOUT)
    return as_rows(
        [
            {
                "source": rubric.source,
                "video_name": entry["video"],
                "question": entry["question"],
                "answer": entry["answer"],
                "points": _points(entry.get("scoring_points")),
            }
            for entry in entries
        ]
    )


def _points(points: Any) -> str:
    return "\n".join(map(str, points)) if isinstance(points, (list, tuple)) else str(points or "")


def video(document: dict[str, Any]) -> list[str]:
    """The file."""
    return [find_video(home() / SET / "video" / document["source"], document["video_name"])]


def text(document: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question."""
    return text_of(document["question"], lmms_eval_specific_kwargs)


def score(document: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    """The sum of the judge's two numbers, 2 to 10, both of them, and the judge's name."""
    rubric = SUMMARY if document["source"] == SUMMARY.source else SUB_SCENE
    reference = (
        f"Reference: {document['answer']}"
        if rubric is SUMMARY
        else f"Question: {document['question']}\nScoring points: {document['points'] or document['answer']}"
    )
    reply = ask_judge(rubric.system, f"{reference}\nAnswer to grade: {answers[0]}")
    parts = read_scores(reply, rubric.names, lowest=1, highest=5)
    named = dict(zip(rubric.names, parts, strict=True))
    return {"mlvu_generation_score": {"score": sum(parts), **named, "judge": judge_name()}}


def mean_score(verdicts: Sequence[dict[str, Any]]) -> float:
    """The mean, 2 to 10."""
    return sum(verdict["score"] for verdict in verdicts) / len(verdicts)
