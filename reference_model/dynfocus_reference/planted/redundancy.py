"""Appendix A on this world: how much repeats and how much is beside the question, as `estimate_redundancy` sees it and
as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynfocus_connector import estimate_redundancy
from dynfocus_connector.redundancy import TokenReduction
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.questions import Question, ask
from dynfocus_reference.planted.shared_space import SharedSpace, share_space, text_features
from dynfocus_reference.planted.tables import EVIDENCE, rows
from dynfocus_video.atomic import replace_together

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
REDUCTIONS: tuple[TokenReduction, ...] = get_args(TokenReduction)
FILE = "redundancy.json"


class Asked(NamedTuple):
    """A question with evidence, in the space that frames and words share."""

    frames: Float[Tensor, "frames width"]
    text: Float[Tensor, "tokens width"]
    question: Question


def measure(train: Memory, test: Memory) -> dict[str, Any]:
    """Both ratios at several thresholds, and the truth: shares of frames, means over the test stories.

    Temporal: by the tower's mean patch. The truth is the share of frames, all but the last, whose next frame belongs to
    the same scene. Answer-irrelevant: in a space learned from the captions of the training stories. The truth is the
    share of frames that do not show the evidence. `nearest` is how often the frame most like question and answer does.
    """
    pooled = test.tokens[:, :, test.first_patch :].float().mean(2)
    temporal = {
        str(limit): _mean(estimate_redundancy(frames, temporal_threshold=limit).temporal for frames in pooled)
        for limit in THRESHOLDS
    }
    asked = _asked(share_space(train), test)
    return {
        "stories": len(test),
        "length": test.length,
        "temporal": temporal,
        "same scene": _mean([(np.diff(story.event) == 0).mean() for story in test.stories]),
        "questions": len(asked),
        "irrelevant": {how: {str(limit): _irrelevant(asked, limit, how) for limit in THRESHOLDS} for how in REDUCTIONS},
        "without evidence": _mean([1 - len(_evidence(each)) / test.length for each in asked]),
        "nearest": {how: _mean([_nearest(each, how) in _evidence(each) for each in asked]) for how in REDUCTIONS},
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


@torch.no_grad()
def _asked(space: SharedSpace, memory: Memory) -> list[Asked]:
    found = []
    for number, story in enumerate(memory.stories):
        frames = space.frames(memory.patches(torch.tensor([number]))[0])
        for kind in EVIDENCE:
            question = ask(story, kind, number)
            found.append(Asked(frames, text_features(space, f"{question.text} {question.answer}"), question))
    return found


def _evidence(asked: Asked) -> range:
    assert asked.question.evidence is not None
    return range(*asked.question.evidence)


def _irrelevant(asked: list[Asked], limit: float, how: TokenReduction) -> float:
    options: dict[str, Any] = {"temporal_threshold": limit, "relevance_threshold": limit, "reduction": how}
    return _mean(estimate_redundancy(each.frames, each.text, **options).answer_irrelevant or 0.0 for each in asked)


def _nearest(asked: Asked, how: TokenReduction) -> int:
    cosine = torch.cosine_similarity(asked.frames[:, None], asked.text[None], dim=-1)
    return int((cosine.amax(1) if how == "max" else cosine.mean(1)).argmax())


def write_redundancy(train: Memory, test: Memory, folder: Path) -> None:
    """Into the folder of results."""
    text = json.dumps(measure(train, test), indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    replace_together({folder / FILE: lambda part: part.write_text(text, encoding="utf-8")})


def redundancy_table(folder: Path) -> str:
    """What the file says."""
    path = folder / FILE
    head = "## Redundancy (Appendix A)\n\n"
    if not path.is_file():
        return head + "Not run yet.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    irrelevant = found["irrelevant"]
    body = [
        [limit, f"{value:.2f}", *(f"{irrelevant[how][limit]:.2f}" for how in REDUCTIONS)]
        for limit, value in found["temporal"].items()
    ]
    body.append(["truth", f"{found['same scene']:.2f}", *[f"{found['without evidence']:.2f}"] * len(REDUCTIONS)])
    header = ("threshold", "temporal", *(f"answer-irrelevant, {how} over words" for how in REDUCTIONS))
    return f"""{head}Shares of the frames of {found["stories"]} stories of {found["length"]} frames.
*Temporal*: frames that look like the next one, by the tower's mean patch; in truth, those followed by a frame of the
same scene (lamp and ball change within scenes). *Answer-irrelevant*: frames unlike the words of question and answer,
over {found["questions"]} questions about boards; in truth, those that do not show the board in question. Words and
frames share a space, the stand-in for CLIP, which was learned from captions of the training stories.

{rows(header, body)}
The frame most like question and answer shows the evidence in {found["nearest"]["max"]:.0%} (max) and
{found["nearest"]["mean"]:.0%} (mean) of the questions: word by word, “red” is a background as well as a board.
"""
