"""The controlled study's world as a task: videos are drawn when they are first asked for, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynfocus_lmms_eval.engine import resolve
from dynfocus_lmms_eval.tasks.folders import as_rows, home

FIRST_STORY, STORIES = 9_000_000, 24
"""Seeds no training of the study uses"""
WORLD = "dynfocus_reference.planted"


def rows(_: Any) -> Any:
    """One question of every kind about each story; the options turn from story to story."""
    return as_rows([row(FIRST_STORY + number, kind) for number in range(STORIES) for kind in kinds()])


def kinds() -> tuple[str, ...]:
    """Kinds of questions."""
    found: tuple[str, ...] = resolve(f"{WORLD}.questions:KINDS")
    return found


def row(story: int, kind: str) -> dict[str, Any]:
    """A question about a story."""
    question = resolve(f"{WORLD}.questions:ask")(resolve(f"{WORLD}.world:write_story")(story), kind, story)
    prompts = resolve(f"{WORLD}.questions:rotations")(question)
    options = 1 + len(question.wrong) if question.wrong else 0
    return {
        "story": story,
        "kind": kind,
        "question": prompts[story % len(prompts)],
        "answer": question.answer,
        "options": options,
    }


def video(document: dict[str, Any]) -> list[str]:
    """The story's file, written where it is missing."""
    path = Path(home()) / "dynfocus_planted" / f"story-{document['story']}.mp4"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        story = resolve(f"{WORLD}.world:write_story")(document["story"])
        resolve(f"{WORLD}.files:write_video")(story, path)
    return [str(path)]


def text(document: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question with its options."""
    return str(document["question"])


def score(document: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    """Right when the words are the same; `chance` is what guessing among the options would give."""
    right = " ".join(answers[0].lower().split()) == document["answer"].lower()
    chance = 1 / document["options"] if document["options"] else 0.0
    return {"accuracy": {"score": float(right), "kind": document["kind"]}, "chance": chance}


def mean_score(verdicts: Sequence[dict[str, Any]]) -> float:
    """The share of right answers."""
    return float(sum(verdict["score"] for verdict in verdicts) / len(verdicts))
