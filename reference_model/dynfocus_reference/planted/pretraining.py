"""What every arm begins with, made once: a tower that sees and a language model that reads (stage 1)."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.asking import read_questions
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.recipe import planted_model, planted_processor
from dynfocus_reference.planted.tower import train_tower
from dynfocus_reference.planted.training import Schedule
from dynfocus_reference.planted.warmup import PLAN, Part, short_memory, warm_up
from dynfocus_reference.planted.world import write_story
from dynfocus_reference.processing import ReferenceProcessor

FOLDER, ANEW = "pretrained", "anew"
"""of weights, and of those that were made anew, in a cache of the study"""
SHIPPED = Path(__file__).parent / FOLDER
"""what the results in docs/results/planted.md began with"""
QUESTIONS = Schedule(300, 64, 5e-3)
SEED = 0
STORIES, SHORT_STORIES = 2 * 10**6, 3 * 10**6
"""numbers of the first story of each"""


def pretrain(
    cache: Path,
    *,
    tower_steps: int = 450,
    tower_stories: int = 300,
    stories: int = 500,
    shorts: int = 600,
    questions: Schedule = QUESTIONS,
    plan: Sequence[Part] = PLAN,
    items: int = 4000,
    seed: int = SEED,
) -> Path:
    """Write the pretrained model, its seed and the losses of its stages, unless they are there.

    Raises:
        ValueError: weights of another seed are there.
    """
    folder = cache / FOLDER
    if folder.is_dir():
        there = json.loads((folder / "seed.json").read_text(encoding="utf-8"))
        if there != seed:
            raise ValueError(f"pretrain: expected no weights or those of seed {seed} in {folder}, got seed {there}.")
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model, processor = planted_model(seed), planted_processor()
    losses = {"tower": train_tower(model, steps=tower_steps, stories=tower_stories)}
    memory = Memory(model, [write_story(STORIES + number) for number in range(stories)])
    short = short_memory(model, shorts, SHORT_STORIES)
    losses["questions"] = read_questions(model, memory, processor, questions, seed)
    losses |= warm_up(model, memory, short, processor, plan, seed, items)
    part = Path(tempfile.mkdtemp(dir=cache))
    model.save_pretrained(part)
    processor.save_pretrained(part)
    means = {
        name: [round(float(np.mean(row[at : at + 50])), 3) for at in range(0, len(row), 50)]
        for name, row in losses.items()
    }
    (part / "losses.json").write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    (part / "seed.json").write_text(json.dumps(seed) + "\n", encoding="utf-8")
    part.rename(folder)
    return folder


def pretrained(cache: Path) -> tuple[ReferenceModel, ReferenceProcessor]:
    """The pretrained model of a cache, or else the one that comes with the project; and its processor."""
    folder = cache / FOLDER if (cache / FOLDER).is_dir() else SHIPPED
    model = ReferenceModel.from_pretrained(folder).to(torch.get_default_device())
    return model, ReferenceProcessor.from_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m dynfocus_reference.planted.pretraining", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("out/planted"), help="that of the study")
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights and the order of samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(pretrain(options.cache / ANEW, seed=options.seed))
