"""Run by torchrun: several short runs in one pair of processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from dynfocus_reference.train import train
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.leaving import leave


def main(output: str, *runs: str) -> None:
    """Every run is NAME:STAGE:CONFIG and goes to `output`/NAME; what it logged goes to `output`/logs.json."""
    torch.set_num_threads(1)
    results = {}
    for run in runs:
        name, stage, config = run.split(":", 2)
        trainer = train(load_config(config, [f"zero={stage}", f"output={output}/{name}"]))
        results[name] = [entry for entry in trainer.state.log_history if "loss" in entry]
    if trainer.args.should_save:
        Path(output, "logs.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.exit(leave(0))
