"""Command lines of lmms-eval in a process of their own, and what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ALONE = [sys.executable, "-m", "lmms_eval"]
TWICE = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_eval"]


class Run(NamedTuple):
    """What is left of a run."""

    status: int
    log: str
    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]
    """by task"""

    def scores(self, task: str) -> dict[str, Any]:
        """The metrics of a task, without deviations."""
        found = self.results["results"][task]
        return {name.split(",")[0]: value for name, value in found.items() if "stderr" not in name and "," in name}

    def answers(self, task: str) -> list[str]:
        """In the order of the documents."""
        return [sample["filtered_resps"] for sample in sorted(self.samples[task], key=lambda one: one["doc_id"])]

    def costs(self, task: str) -> list[dict[str, Any] | None]:
        """Of each document, in order; None where the answer comes from the cache."""
        return [sample["token_counts"][0] for sample in sorted(self.samples[task], key=lambda one: one["doc_id"])]


def run(
    work: Path,
    model_args: str,
    tasks: str,
    *more: str,
    launcher: Sequence[str] = ALONE,
    out: str = "out",
    **environment: str,
) -> Run:
    """One evaluation; nothing about it is checked here."""
    command = [*launcher, "--model", "dynfocus", "--model_args", model_args, "--tasks", tasks, "--log_samples"]
    done = subprocess.run(
        [*command, "--output_path", str(work / out), "--verbosity", "DEBUG", *more],
        cwd=work,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Run(done.returncode, done.stdout + done.stderr, *read(work / out))


def read(out: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The only results file below a folder, and the samples beside it; nothing where there is none."""
    found = sorted(out.rglob("*_results.json"))
    if not found:
        return {}, {}
    samples = {
        path.stem.partition("_samples_")[2]: [json.loads(line) for line in path.read_text().splitlines()]
        for path in found[-1].parent.glob("*_samples_*.jsonl")
    }
    return json.loads(found[-1].read_text()), samples
