"""Workers from the outside: the memory of a row's two paths, and two revisions run in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmark.speed.measure import PATHS, summary
from tests.benchmark.speed.operation import Operation

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("worker.py")
EVERY_TENSOR_GIVES_ITS_PAGES_BACK = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_MMAP_MAX_": "1000000"}
"""for glibc: else a peak below what earlier runs left behind would read as 0"""


class Worker:
    """A process of one checkout that runs paths of rows in children."""

    def __init__(self, packages: Path, environment: dict[str, str] | None = None, **setting: Any) -> None:
        command = [sys.executable, str(WORKER), str(packages), str(ROOT), json.dumps(setting)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def start(self, operation: Operation, path: str) -> dict[str, float]:
        """A child that runs this path: its first run."""
        return self._ask(json.dumps({"key": operation.key, "path": path}))

    def again(self) -> float:
        """Seconds of one more run."""
        return self._ask("")["seconds"]

    def done(self) -> None:
        """End the child."""
        self._write("done")

    def close(self) -> None:
        """End the worker."""
        self.process.communicate()

    def _ask(self, line: str) -> dict[str, float]:
        self._write(line)
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"Worker: expected a line of JSON, got the end of the process ({self.process.wait()}).")
        values = json.loads(answer)
        if "error" in values:
            raise RuntimeError(f"Worker: expected a run of {line}, got {values['error']}.")
        return values

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@contextmanager
def worker(packages: Path, environment: dict[str, str] | None = None, **setting: Any) -> Iterator[Worker]:
    """A worker that ends with the block."""
    process = Worker(packages, environment, **setting)
    try:
        yield process
    finally:
        process.close()


def peaks(process: Worker, group: list[Operation]) -> list[dict[str, float]]:
    """Bytes that our path of each row and their common twin take beyond the inputs."""

    def peak(operation: Operation, path: str) -> float:
        bytes_used = process.start(operation, path)["peak_bytes"]
        process.done()
        return bytes_used

    twin = peak(group[0], PATHS[1]) / group[0].twin_share
    return [{PATHS[0]: peak(operation, PATHS[0]), PATHS[1]: twin} for operation in group]


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A worktree of that revision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "revision")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(path), revision], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def compare(here: Worker, there: Worker, operation: Operation, repeats: int = 5) -> dict[str, Any]:
    """Our path of two checkouts, run in turn: seconds and memory of both, and how many times faster the first is."""
    processes = {"here": here, "there": there}
    first: dict[str, dict[str, float]] = {}
    times: dict[str, list[float]] = {name: [] for name in processes}
    try:
        for name, process in processes.items():
            first[name] = process.start(operation, PATHS[0])
        for _ in range(repeats):
            for name, process in processes.items():
                times[name].append(process.again())
    finally:
        for name in first:
            processes[name].done()
    row: dict[str, Any] = {name: summary(seconds) for name, seconds in times.items()}
    memory = {f"{name}_peak_bytes": run["peak_bytes"] for name, run in first.items()}
    return {**row, **memory, "ratio": row["there"]["median"] / row["here"]["median"]}
