"""Run by torchrun: several short runs in one pair of processes, with samples dealt out in file order."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.utils.data import SequentialSampler

from dynfocus_reference.train import train
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.trainer import ReferenceTrainer


def main(config: str, output: str, stages: str) -> None:
    """One run per ZeRO stage; losses and a checksum of the trained weights go to `output`/losses.json."""
    torch.set_num_threads(1)
    ReferenceTrainer._get_train_sampler = lambda self, dataset=None: SequentialSampler(self.train_dataset)
    results = {}
    for stage in stages.split(","):
        trainer = train(load_config(config, [f"zero={stage}", f"output={output}/zero{stage}"]))
        results[stage] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if trainer.args.should_save:
        Path(output, "losses.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
