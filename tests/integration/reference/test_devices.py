"""Nothing is made on a device of its own, as in tests/unit/test_devices.py: the model and those who ask it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from dynfocus_reference import ReferenceModel
from dynfocus_reference.answering import ReferenceEngine
from dynfocus_reference.chat import Conversation
from dynfocus_reference.planted.recipe import planted_config, planted_processor
from dynfocus_reference.planted.world import render, write_story
from dynfocus_video.reader import VideoFrames
from tests.comparing import assert_makes_no_tensor_elsewhere

from .conftest import video_batch

LENGTHS = [12, 1, 30]
IDS = torch.tensor([[1, 5, 6, 7]])
BYTES = torch.randint(256, (sum(LENGTHS), 64, 64, 3), dtype=torch.uint8)
BATCHES: dict[str, dict[str, torch.Tensor]] = {
    "videos": video_batch(LENGTHS),
    "bytes": {**video_batch(LENGTHS), "frames": BYTES},
    "text": {"input_ids": IDS, "labels": IDS, "attention_mask": IDS > 1},
}


def step(model: Any, batch: dict[str, Any]) -> list[Any]:
    """Loss, logits and gradients."""
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return [output.loss, output.logits, [p.grad for p in model.parameters()]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BATCHES)
def test_step(model: Any, name: str, training: bool) -> None:
    assert_makes_no_tensor_elsewhere(partial(step, model.train(training), BATCHES[name]))


@pytest.mark.parametrize("name", BATCHES)
def test_generate(model: Any, name: str) -> None:
    batch = {key: value for key, value in BATCHES[name].items() if key != "labels"}
    assert_makes_no_tensor_elsewhere(partial(model.generate, **batch, max_new_tokens=3, pad_token_id=0))


def story(seed: int, length: int = 32) -> VideoFrames:
    frames = torch.from_numpy(render(write_story(seed, length)))
    return VideoFrames(frames, torch.arange(length).float(), float(length), 1.0, (48, 48), 1.0, None)


CLIP, ASKED = story(1), "What does the sign say?"


@pytest.fixture(scope="module")
def engine() -> ReferenceEngine:
    torch.manual_seed(0)
    return ReferenceEngine(ReferenceModel(planted_config()).eval(), planted_processor())


def test_answers(engine: ReferenceEngine) -> None:
    prompts = [[CLIP, ASKED], ["How many times does the lamp shine?"], [story(3), story(4, 40), "Which color?"]]

    def answers() -> list[str]:
        return [answer for answer, _ in engine.answer(prompts, {"max_new_tokens": 3, "do_sample": False})]

    assert_makes_no_tensor_elsewhere(answers)


def test_losses(engine: ReferenceEngine) -> None:
    assert_makes_no_tensor_elsewhere(lambda: engine.loss([CLIP, ASKED], "moon"))


def test_conversation(engine: ReferenceEngine) -> None:
    def talk() -> list[Any]:
        talking = Conversation(engine.model, engine.processor, CLIP.frames)
        return [(talking.ask(asked, max_new_tokens=3), talking.video) for asked in (ASKED, "Where?")]

    assert_makes_no_tensor_elsewhere(talk)
