"""The Q-Former learns to read questions before the language model learns to see: the stand-in for a pretrained one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.questions import KINDS
from dynfocus_reference.planted.samples import collate, training_pool
from dynfocus_reference.planted.training import Schedule, optimise
from dynfocus_reference.planted.vocabulary import words
from dynfocus_reference.processing import ReferenceProcessor


def read_questions(
    model: ReferenceModel, memory: Memory, processor: ReferenceProcessor, schedule: Schedule, seed: int
) -> list[float]:
    """Teach the queries which words a question has, whatever frame they look at; no label says which frame answers it.

    The head that names the words is thrown away.
    """
    pool = training_pool(memory.stories, processor, KINDS, 2000, seed)
    random = np.random.default_rng([seed, 6])
    model.set_trainable([r"qformer\."])
    model.qformer.words = head = nn.Linear(model.qformer.query_tokens.shape[-1], len(words()))

    def step() -> Tensor:
        batch = collate([pool[i] for i in random.choice(len(pool), schedule.batch, replace=False)])
        frame = torch.as_tensor(random.integers(memory.length, size=schedule.batch))
        queries = model.ask(memory.tokens[batch.story, frame].float(), batch.asked, batch.asked_mask)
        present = torch.zeros(schedule.batch, len(words())).scatter(1, batch.asked, batch.asked_mask.float())
        return nn.functional.binary_cross_entropy_with_logits(head(queries.mean(1)), present) * 20

    losses = optimise(model, (step for _ in range(schedule.steps)), schedule)
    del model.qformer.words
    return losses
