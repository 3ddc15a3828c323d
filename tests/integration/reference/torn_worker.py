"""Train once per moment, each time in a child that kills itself in the middle of a write."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_reference.train import train
from dynfocus_reference.training import checkpoint
from dynfocus_reference.training.config import load_config

SECOND = "checkpoint-4"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def torn(write: Callable[..., Any], path_of: Callable[..., Any], where: str) -> Callable[..., Any]:
    """`write`, but of a file in `where` half is written, and then nothing ever again."""

    def halfway(*args: Any, **kwargs: Any) -> Any:
        result = write(*args, **kwargs)
        path = Path(path_of(*args))
        if where in path.parts:
            os.truncate(path, path.stat().st_size // 2)
            die()
        return result

    return halfway


def in_weights() -> None:
    checkpoint.save_file = torn(checkpoint.save_file, lambda state, path: path, SECOND)


def in_optimizer() -> None:
    torch.save = torn(torch.save, lambda value, path: path, SECOND)


def in_marker() -> None:
    checkpoint._write_durably = torn(checkpoint._write_durably, lambda path, text: path, SECOND)


def in_rotation() -> None:
    def remove(folder: Path, **kwargs: Any) -> None:
        (Path(folder) / "trained.safetensors").unlink()
        die()

    shutil.rmtree = remove


def in_export() -> None:
    ReferenceProcessor.save_pretrained = lambda self, folder: die()


MOMENTS = {
    "weights": in_weights,
    "optimizer": in_optimizer,
    "marker": in_marker,
    "rotation": in_rotation,
    "export": in_export,
}


def main(config: str, output: str) -> None:
    torch.set_num_threads(1)
    for moment, arrange in MOMENTS.items():
        child = os.fork()
        if child == 0:
            arrange()
            train(load_config(config, [f"output={output}/{moment}", "keep_checkpoints=1"]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{moment}: the child was not killed: {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
