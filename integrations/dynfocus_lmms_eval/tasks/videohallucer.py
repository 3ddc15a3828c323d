"""VideoHallucer: pairs of yes–no questions, a basic one and a hallucinated one; a pair counts where both are right.

The layout is the data set's own: a folder for each kind with `KIND.json` and `videos/`, in `$HF_HOME/videohallucer`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dynfocus_lmms_eval.tasks.folders import as_rows, find_video, home, read_json

SET = "videohallucer"
KINDS = ("object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual")
SIDES = ("basic", "hallucination")
LAYOUT = "KIND/KIND.json and KIND/videos/ for " + ", ".join(KINDS) + " in $HF_HOME/" + SET


def rows(_: Any) -> Any:
    """Both questions of every pair, one behind the other."""
    return as_rows(
        [
            {
                "kind": kind,
                "pair": number,
                "side": side,
                **{key: pair[side][key] for key in ("video", "question", "answer")},
            }
            for kind in KINDS
            for number, pair in enumerate(read_json(home() / SET / kind / f"{kind}.json", LAYOUT))
            for side in SIDES
        ]
    )


def video(document: dict[str, Any]) -> list[str]:
    """The file."""
    return [find_video(home() / SET / document["kind"] / "videos", document["video"])]


def text(document: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question, and how to answer."""
    return f"{document['question']}\nAnswer the question using 'yes' or 'no'."


def said(answer: str) -> str:
    """The first yes or no of an answer; nothing where there is none.

    Example:
        >>> said("Yes, there is."), said("I see nothing"), said("No. Yes?")
        ('yes', '', 'no')
    """
    found = re.search(r"\b(yes|no)\b", answer.lower())
    return found.group(1) if found else ""


def score(document: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    """Whether this half of a pair is right; the metrics are aggregated from all of them."""
    right = said(answers[0]) == document["answer"].strip().lower()
    half = {"kind": document["kind"], "pair": document["pair"], "side": document["side"], "score": float(right)}
    return dict.fromkeys(("basic", "hallucinated", "final"), half)


def columns(halves: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Basic, hallucinated and final accuracy of each kind, in percent; kinds without a whole pair are left out."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        pairs: dict[int, dict[str, float]] = {}
        for half in halves:
            if half["kind"] == kind:
                pairs.setdefault(half["pair"], {})[half["side"]] = half["score"]
        whole = [pair for pair in pairs.values() if len(pair) == len(SIDES)]
        if whole:
            count = len(whole) / 100
            found[kind] = {
                "basic": sum(pair["basic"] for pair in whole) / count,
                "hallucinated": sum(pair["hallucination"] for pair in whole) / count,
                "final": sum(min(pair.values()) for pair in whole) / count,
            }
    return found


def basic(halves: Sequence[dict[str, Any]]) -> float:
    """Mean over the kinds."""
    return _mean(halves, "basic")


def hallucinated(halves: Sequence[dict[str, Any]]) -> float:
    """Mean over the kinds."""
    return _mean(halves, "hallucinated")


def final(halves: Sequence[dict[str, Any]]) -> float:
    """Mean over the kinds: Table 14's Overall."""
    return _mean(halves, "final")


def _mean(halves: Sequence[dict[str, Any]], name: str) -> float:
    values = [kind[name] for kind in columns(halves).values()]
    return sum(values) / len(values) if values else 0.0
