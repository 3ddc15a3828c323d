"""Stories and questions as samples of training and evaluation, from the tower's tokens computed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from dynfocus_reference.data.conversation import encode
from dynfocus_reference.data.records import Turn
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.questions import Kind, ask, rotations
from dynfocus_reference.planted.world import Story, render
from dynfocus_reference.processing import ReferenceProcessor


@torch.no_grad()
def look(model: ReferenceModel, stories: Sequence[Story]) -> Float[Tensor, "stories frames all dim"]:
    """The frozen tower's tokens of every frame, in half precision."""
    return torch.stack([model.see(torch.from_numpy(render(story))).half() for story in stories])


def encoded(prompt: str, answer: str | None, processor: ReferenceProcessor, place: str = "front") -> dict[str, Any]:
    """One question about one visual input, as `ConversationDataset` gives it, without its frames."""
    turn = Turn(prompt, answer, True)
    text = encode([turn], processor.tokenizer, places=[place])  # type: ignore[list-item]
    questions = [processor.question(question) for question in text.questions]
    return {"input_ids": text.input_ids, "labels": text.labels, "questions": questions}


class PlantedSamples(Dataset):
    """Question after question, of kinds in turn, about stories drawn at random; item i is the same in every run.

    Args:
        stories, features: Story by story.
        processor: Of the words.
        kinds: Of questions.
        count: Items.
        seed: Draws story, question, rotation and the place of the video (front or end, as Sec. 3.4 says).
    """

    def __init__(
        self,
        stories: Sequence[Story],
        features: Float[Tensor, "stories frames all dim"],
        processor: ReferenceProcessor,
        kinds: Sequence[Kind],
        count: int,
        seed: int = 0,
    ) -> None:
        self.stories, self.features, self.processor = stories, features, processor
        self.kinds, self.count, self.seed = tuple(kinds), count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng([self.seed, int(index)])
        number = int(random.integers(len(self.stories)))
        question = ask(self.stories[number], self.kinds[index % len(self.kinds)], int(random.integers(2**31)))
        prompts = rotations(question)
        prompt = prompts[int(random.integers(len(prompts)))]
        place = ("front", "end")[int(random.integers(2))]
        return {**encoded(prompt, question.answer, self.processor, place), "frames": self.features[number].float()}
