"""Training runs of the preset `tiny`: their files, their processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from .conftest import talk

REPOSITORY = Path(__file__).parents[3]
COLOURS = ("red", "blue", "green", "cyan", "pink", "grey", "gold", "teal")


def write_run(folder, records, **changes):
    """A run of the preset `tiny` as a file."""
    (folder / "set.json").write_text(json.dumps(records))
    values = {
        "model": "tiny",
        "output": str(folder / "out"),
        "train": ["dynamic", "projector", "language_model"],
        "sources": [{"path": "set.json"}],
        "data_root": str(folder),
        "learning_rate": 1e-3,
        "global_batch_size": 4,
        "batch_size_per_gpu": 2,
        "max_steps": 4,
        "zero": 0,
        "bf16": False,
        "save_steps": 2,
        "workers": 0,
        "report_to": [],
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def shown(clips, number, question="Which colour?"):
    return talk(f"<image>\n{question}", f"{COLOURS[number]} ball", video=str(clips / f"{number % 4}.mp4"))


def mixture(clips):
    """Four videos and four texts."""
    return [shown(clips, i) for i in range(4)] + [talk(f"Say {i}", f"number {i}") for i in range(4)]


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def launch(*arguments, processes=2):
    """Start torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}")
    return start(*torchrun, *arguments)


def start(*arguments):
    """Start Python."""
    paths = [str(REPOSITORY), *(str(REPOSITORY / name) for name in ("integrations", "reference_model"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def zero_runs(folder, *runs):
    """Short runs of two processes, NAME:STAGE:CONFIG each; what they logged."""
    finish(launch(Path(__file__).with_name("zero_worker.py"), folder, *runs))
    return json.loads((folder / "logs.json").read_text())


def kill(process):
    """kill -9 for the launcher and its workers, which have sessions of their own."""
    import psutil

    launcher = psutil.Process(process.pid)
    for one in [launcher, *launcher.children(recursive=True)]:
        one.kill()
    process.communicate()


def finish(process, seconds=900):
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, output[-3000:]
    return output
