"""One row of the table, in a process of its own, so that a peak of memory belongs to it alone."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dynfocus_reference.config import ReferenceConfig, preset
from dynfocus_reference.cost.arms import Arm, become
from dynfocus_reference.cost.clock import forget_peak, now, peak_memory, watched
from dynfocus_reference.model import ReferenceModel

PROMPT, QUESTION, ANSWER = 64, 16, 32
"""Tokens of the prompt, of the question for the Q-Former, and of the answer in training."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        model: A preset; the connector has the paper's numbers of events and prototypes whatever the preset says.
        arm: What stands between the tower and the language model.
        frames: T.
        device, dtype: Where and in what.
        repeats: The fastest of so many runs counts, after one that does not.
    """

    model: str
    arm: Arm
    frames: int
    device: str
    dtype: str
    repeats: int


@dataclass(frozen=True)
class Cost:
    """What came of it; seconds as `clock.now` counts them, bytes as `clock.peak_memory` does."""

    tokens: int
    """that the language model reads for the video"""
    parts: dict[str, float]
    """seconds of each part until the first new token"""
    answer: float
    """all of it"""
    step: float
    """forward and backward of a training step"""
    loaded: int
    """bytes before anything is computed"""
    answer_peak: int
    step_peak: int


def config_of(name: str) -> ReferenceConfig:
    """A preset with the paper's connector."""
    return preset(name, connector={})


def build(case: Case) -> ReferenceModel:
    """The model with random weights, made where and as it computes."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(getattr(torch, case.dtype))
        with torch.device(case.device):
            model = ReferenceModel(config_of(case.model))
    finally:
        torch.set_default_dtype(before)
    become(model, case.arm)
    model.set_trainable([r"connector\.", r"language_model\."])
    return model


def inputs(model: ReferenceModel, frames: int, *, answer: bool) -> dict[str, Tensor]:
    """One question about a random video, with the answer that training needs."""
    size, device = model.config.image_size, model.device
    length = PROMPT + ANSWER * answer
    ids = torch.randint(3, model.config.text_config.vocab_size, (1, length), device=device)
    ids[0, 1] = model.config.placeholder_id
    batch = {
        "input_ids": ids,
        "frames": torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8, device=device),
        "clip_lengths": torch.tensor([frames], device=device),
        "question_ids": torch.randint(3, 300, (1, QUESTION), device=device),
    }
    supervised = torch.arange(length, device=device) >= PROMPT
    return {**batch, "labels": torch.where(supervised, ids, -100)} if answer else batch


def parts_of(model: ReferenceModel) -> dict[str, tuple[Any, str]]:
    """What is timed, in the words of Table 9; DPE's and CCE's parts where the model has them."""
    parts: dict[str, tuple[Any, str]] = {
        "tower": (model.vision, "forward"),
        "Q-Former": (model.qformer, "forward"),
        "Dyn. Enc.": (model.connector, "forward"),
        "prefill": (model.language_model, "forward"),
    }
    if hasattr(model.connector, "estimator"):
        parts |= {
            "T-DPC": (model.connector.estimator, "find_events"),
            "S-DPC": (model.connector.encoder.spatial, "cluster"),
            "Dyn. Select": (model.connector.estimator, "forward"),
        }
    return parts


def measure(case: Case) -> Cost:
    """Time, tokens and memory of one case."""
    model = build(case)
    device = model.device
    loaded = peak_memory(device)
    forget_peak(device)
    model.eval()
    runs = [_answer(model, case.frames) for _ in range(case.repeats + 1)][1:]
    fastest = min(runs, key=lambda parts: parts["all"])
    answer = fastest.pop("all")
    answer_peak = peak_memory(device)
    forget_peak(device)
    model.checkpoint_activations()
    model.train()
    step = min([_step(model, case.frames) for _ in range(case.repeats + 1)][1:])
    tokens = model.connector.num_tokens(case.frames, model.vision.num_patches)
    return Cost(tokens, fastest, answer, step, loaded, answer_peak, peak_memory(device))


@torch.no_grad()
def _answer(model: ReferenceModel, frames: int) -> dict[str, float]:
    """Seconds of every part from pictures to the first new token, and of "all"."""
    batch = inputs(model, frames, answer=False)
    start = now(model.device)
    with watched(parts_of(model), model.device) as seconds:
        model(**batch, logits_to_keep=1)
    return {**seconds, "all": now(model.device) - start}


def _step(model: ReferenceModel, frames: int) -> float:
    """Seconds of a forward and a backward; nothing is updated."""
    batch = inputs(model, frames, answer=True)
    start = now(model.device)
    model(**batch).loss.backward()
    took = now(model.device) - start
    model.zero_grad(set_to_none=True)
    return took


def main(case: str) -> None:
    """Print what `measure` says, or that it does not fit."""
    try:
        print(json.dumps(asdict(measure(Case(**json.loads(case))))))
    except torch.OutOfMemoryError:
        print("null")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
