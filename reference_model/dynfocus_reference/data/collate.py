"""Samples to a batch: padded prompts, packed frames, and the names of what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynfocus_reference.config import IGNORED_LABEL


class Collator:
    """Builds the arguments of `ReferenceModel.forward`, plus `skipped`: messages about bad samples.

    A batch of bad samples alone becomes one without targets, so that all ranks take the same steps; its loss is 0.

    Args:
        pad_id: The padding token of the language model.
        question_pad_id: The padding token of the Q-Former.
    """

    def __init__(self, pad_id: int, question_pad_id: int) -> None:
        self.pad_id = pad_id
        self.question_pad_id = question_pad_id

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        good = [sample for sample in samples if "bad" not in sample]
        batch: dict[str, Any] = self._text(good)
        shown = [sample for sample in good if sample["frames"] is not None]
        if shown:
            batch |= self._visuals(shown)
        return {**batch, "skipped": [sample["bad"] for sample in samples if "bad" in sample]}

    def _text(self, good: list[dict[str, Any]]) -> dict[str, Tensor]:
        nothing = {"input_ids": numbers([self.pad_id]), "labels": numbers([IGNORED_LABEL])}
        rows = good or [nothing]
        ids = [row["input_ids"] for row in rows]
        real = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence(real, batch_first=True),
            "labels": pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED_LABEL),
        }

    def _visuals(self, shown: list[dict[str, Any]]) -> dict[str, Tensor]:
        questions = [question for sample in shown for question in sample["questions"]]
        real = [torch.ones_like(question, dtype=torch.bool) for question in questions]
        clip = [number for number, sample in enumerate(shown) for _ in sample["questions"]]
        return {
            "frames": torch.cat([sample["frames"] for sample in shown]),
            "clip_lengths": numbers([len(sample["frames"]) for sample in shown]),
            "clip_index": numbers(clip),
            "question_ids": pad_sequence(questions, batch_first=True, padding_value=self.question_pad_id),
            "question_mask": pad_sequence(real, batch_first=True),
        }


def numbers(values: list[int]) -> Int[Tensor, " values"]:
    """On the CPU, where samples are made."""
    return torch.tensor(values, device="cpu")
