"""`dynfocus probe`: does the model look? What its answers lose when every sample is shown another one's video."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.fingerprint import agree
from dynfocus_reference.train import build
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.settings import TrainConfig


class Gap(NamedTuple):
    """Mean loss per supervised token, in nats."""

    samples: int
    own: float
    """shown the video that belongs to the sample"""
    other: float
    """shown the one of another sample of its batch"""

    def __str__(self) -> str:
        worth = f"the video is worth {self.other - self.own:.3f} nats per token"
        return f"{self.samples} samples: loss {self.own:.3f} with the own video, {self.other:.3f} with another: {worth}"


@torch.no_grad()
def probe(config: TrainConfig, samples: int = 64, device: str = "cpu") -> Gap:
    """Losses with the right and with the wrong video, over the same tokens, in evaluation mode.

    Args:
        config: The stage that has been trained, with `init_from_stage1` at its output and `carry="all"`; sources that
            it did not see tell more.
        samples: How many, drawn with `config.seed` from those with an image or a video and one placeholder.
        device: Where to compute.

    Raises:
        ValueError: fewer than two such samples.
    """
    unset_hf_deepspeed_config()
    model, processor = build(config)
    data = ConversationDataset(config.sources, processor, config.data)
    agree(model, data)
    model.eval().to(device)
    collate = Collator(processor.tokenizer.pad_token_id, processor.qformer_tokenizer.pad_token_id)
    shown = _shown(data, samples, config.seed)
    size = max(config.batch_size_per_gpu, 2)
    parts = np.array_split(np.arange(len(shown)), max(len(shown) // size, 1))
    sums = np.zeros(3)
    for part in parts:
        batch = collate([shown[i] for i in part])
        batch.pop("skipped")
        batch = {name: value.to(device) for name, value in batch.items()}
        targets = int((batch["labels"][:, 1:] != -100).sum())
        own = model(**batch).loss
        other = model(**{**batch, "clip_index": batch["clip_index"].roll(1)}).loss
        sums += targets * np.array([1.0, float(own), float(other)])
    return Gap(len(shown), sums[1] / sums[0], sums[2] / sums[0])


def _shown(data: ConversationDataset, wanted: int, seed: int) -> list[dict]:
    """Usable samples with exactly one placeholder, in a seeded order."""
    found: list[dict] = []
    for index in np.random.default_rng(seed).permutation(len(data)):
        sample = data[int(index)]
        if len(sample.get("questions", ())) == 1:
            found.append(sample)
        if len(found) == wanted:
            break
    if len(found) < 2:
        raise ValueError(f"probe: expected at least 2 samples with one image or video each, got {len(found)}.")
    return found


def run(arguments: argparse.Namespace) -> int:
    """Print the gap."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(probe(load_config(arguments.config, arguments.changes), arguments.samples, device))
    return 0
