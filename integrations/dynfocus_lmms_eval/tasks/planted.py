"""The controlled study's world as a task: videos are drawn when they are first asked for, and nothing is downloaded.

Stories, pixels, questions and measure are those by which the study measures its seed 0, and the shipped model: one
question of every kind about each story, in every rotation of its options, right where it is right in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dynfocus_lmms_eval.engine import resolve
from dynfocus_lmms_eval.tasks.folders import as_rows, home

STORIES, LENGTH = 60, 32
WORLD = "dynfocus_reference.planted"


def rows(_: Any) -> Any:
    """All prompts, story by story."""
    first = resolve(f"{WORLD}.study:TEST_STORIES")
    return as_rows([row for number in range(STORIES) for row in prompts(first + number, number)])


def prompts(story: int, number: int) -> Iterator[dict[str, Any]]:
    """Every rotation of one question of every kind; `number` draws the questions."""
    written = resolve(f"{WORLD}.world:write_story")(story, LENGTH)
    for kind in resolve(f"{WORLD}.questions:KINDS"):
        question = resolve(f"{WORLD}.questions:ask")(written, kind, number)
        turned = resolve(f"{WORLD}.questions:rotations")(question)
        options = len(question.wrong) + 1 if question.wrong else 0
        common = {"story": story, "kind": kind, "answer": question.answer, "options": options, "turns": len(turned)}
        yield from ({**common, "turn": turn, "question": text} for turn, text in enumerate(turned))


def video(document: dict[str, Any]) -> list[str]:
    """The story's file, written where it is missing."""
    path = Path(home()) / "dynfocus_planted" / f"story-{document['story']}-lossless.mp4"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        story = resolve(f"{WORLD}.world:write_story")(document["story"], LENGTH)
        resolve(f"{WORLD}.files:write_video")(story, path, lossless=True)
    return [str(path)]


def text(document: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question with its options."""
    return str(document["question"])


def score(document: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    """Right when the words are the same; `chance` is what guessing among the options would give for one prompt."""
    right = " ".join(answers[0].lower().split()) == document["answer"].lower()
    one = {"score": float(right), **{name: document[name] for name in ("story", "kind", "turns")}}
    return {"accuracy": one, "single": float(right), "chance": 1 / document["options"] if document["options"] else 0.0}


def by_kind(prompted: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The share of questions that are right in every rotation, for each kind; questions not asked in all are left out.

    Example:
        >>> asked = [{"story": 1, "kind": "motion", "turns": 2, "score": score} for score in (1.0, 0.0)]
        >>> by_kind(asked), by_kind(asked[:1])
        ({'motion': 0.0}, {})
    """
    questions: dict[tuple[str, int], list[float]] = {}
    for one in prompted:
        questions.setdefault((one["kind"], one["story"]), []).append(one["score"])
    turns = {one["kind"]: one["turns"] for one in prompted}
    whole = {key: min(scores) for key, scores in questions.items() if len(scores) == turns[key[0]]}
    kinds = {kind: [right for (name, _), right in whole.items() if name == kind] for kind in turns}
    return {kind: sum(rights) / len(rights) for kind, rights in kinds.items() if rights}


def accuracy(prompted: Sequence[dict[str, Any]]) -> float:
    """The mean over the kinds."""
    kinds = by_kind(prompted).values()
    return sum(kinds) / len(kinds) if kinds else 0.0
