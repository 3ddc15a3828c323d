"""`dynfocus cost`: every row of the table, and the page that they become."""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from dynfocus_connector.saving import replace_file
from dynfocus_reference.cost.arms import ARMS, Arm, become
from dynfocus_reference.cost.page import page
from dynfocus_reference.cost.row import Case, Cost, config_of
from dynfocus_reference.model_info import build_on_meta

TOO_BIG, NOT_RUN = "does not fit", "not run"
Outcome = Cost | str
"""What a row cost, or why nobody knows."""


def visual_tokens(model: str, arm: Arm, frames: int) -> int:
    """How many tokens the language model reads for a video, before anything is allocated."""
    empty = build_on_meta(config_of(model))
    become(empty, arm)
    return empty.connector.num_tokens(frames, empty.vision.num_patches)


def outcome(case: Case, max_tokens: int | None = None) -> Outcome:
    """Measure a case in a process of its own.

    Args:
        case: What to measure.
        max_tokens: Above so many visual tokens it is not run.

    Raises:
        RuntimeError: the process failed, but not for want of memory.
    """
    if max_tokens is not None and visual_tokens(case.model, case.arm, case.frames) > max_tokens:
        return NOT_RUN
    command = [sys.executable, "-m", "dynfocus_reference.cost.row", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        return TOO_BIG
    if done.returncode:
        raise RuntimeError(f"cost: expected {case} to be measured, got:\n{done.stderr[-2000:]}")
    numbers = json.loads(done.stdout.splitlines()[-1])
    return TOO_BIG if numbers is None else Cost(**numbers)


def hardware(device: str) -> str:
    """What measures, in words."""
    made = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device == "cpu":
        return f"one thread of {_processor()}, {made}"
    facts = torch.cuda.get_device_properties(device)
    return f"one {facts.name} ({facts.total_memory / 1e9:.0f} GB), CUDA {torch.version.cuda}, {made}"


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cases(arguments: argparse.Namespace) -> Iterable[Case]:
    """Every row, in the order of the table."""
    for frames in arguments.frames:
        for arm in ARMS:
            yield Case(arguments.model, arm, frames, arguments.device, arguments.dtype, arguments.repeats)


def run(arguments: argparse.Namespace) -> int:
    """Measure and write."""
    gpu = torch.cuda.is_available()
    arguments.device = arguments.device or ("cuda" if gpu else "cpu")
    on_gpu = arguments.device != "cpu"
    arguments.model = arguments.model or ("paper-7b" if on_gpu else "tiny")
    arguments.dtype = arguments.dtype or ("bfloat16" if on_gpu else "float32")
    rows = []
    for case in cases(arguments):
        rows.append((case, outcome(case, arguments.max_tokens)))
        print(f"{case.arm} {case.frames}: {rows[-1][1]}", file=sys.stderr, flush=True)
    text = page(rows, hardware(arguments.device), _command(arguments))
    replace_file(Path(arguments.out), lambda part: Path(part).write_text(text, encoding="utf-8"))
    print(f"written to {arguments.out}")
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """What regenerates the page on the same hardware."""
    words = ["dynfocus cost", f"--model {arguments.model}", f"--device {arguments.device}"]
    words += [f"--max-tokens {arguments.max_tokens}"] * (arguments.max_tokens is not None)
    return " ".join([*words, f"--out {arguments.out}"])
