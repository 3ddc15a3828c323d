"""`dynfocus extract-features`: the frozen tower's tokens of a whole set, so that no run has to compute them again.

Killed, it goes on with what is missing. Shards share one folder, and so do the processes of
`torchrun -m dynfocus_reference.extract CONFIG`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dynfocus_reference.commands import extract_arguments
from dynfocus_reference.data.shard import Shard
from dynfocus_reference.extraction import extract
from dynfocus_reference.training.config import from_values, load_config
from dynfocus_reference.training.settings import TrainConfig


def settings(arguments: argparse.Namespace) -> TrainConfig:
    """The run that a config describes, or one of a data file and a model.

    Raises:
        ValueError: a data file without a model.
    """
    if Path(arguments.set).suffix not in (".json", ".jsonl"):
        config = load_config(arguments.set, arguments.changes)
    elif arguments.model is None or arguments.changes:
        raise ValueError(
            f"extract-features: expected --model DIR and no key=value with a data file, got model {arguments.model} "
            f"and {arguments.changes}."
        )
    else:
        values = {
            "model": arguments.model,
            "output": "",
            "train": [],
            "sources": [{"path": arguments.set, "root": arguments.root}],
            "data": {"fps": arguments.fps, "max_frames": arguments.max_frames},
        }
        config = from_values(values, "extract-features")
    folder = arguments.output or config.data.features
    data = dataclasses.replace(config.data, features=folder)
    return dataclasses.replace(config, data=data, workers=arguments.workers)


def run(arguments: argparse.Namespace) -> int:
    """Extract, and say what was done; 1 where samples are bad."""
    cuda = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    report = extract(
        settings(arguments),
        dtype=getattr(torch, arguments.dtype),
        device=arguments.device or (cuda if torch.cuda.is_available() else "cpu"),
        shard=Shard.parse(arguments.shard),
        progress=True,
    )
    print(report)
    return 1 if report.bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """For launchers."""
    return run(extract_arguments(argparse.ArgumentParser(prog="dynfocus_reference.extract")).parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
