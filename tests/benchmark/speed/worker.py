"""Runs paths of rows, each in a process of its own: the peak of its memory, and its time whenever it is asked.

    python worker.py PACKAGES TESTS SETTING

`PACKAGES` is the checkout whose dynfocus_connector runs, `TESTS` the one whose benchmark runs it. A line {"key":
…, "path": …} starts a process, an empty line asks it for one more run, "done" ends it. All but the last are answered
in JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUESTS = open(0, "rb", buffering=0)  # noqa: SIM115
"""standard input, of which no process reads ahead what is meant for another"""


def main(packages: str, tests: str, setting: str) -> None:
    """Load everything, then fork for every request: a fork that has run nothing is as good as a fresh process."""
    sys.path[:0] = [packages]
    import dynfocus_connector

    assert Path(packages).resolve() in Path(dynfocus_connector.__file__).resolve().parents
    sys.path[0] = tests
    import tests.benchmark.speed.operations

    while request := REQUESTS.readline():
        child = os.fork()
        if not child:
            end_with(lambda: serve(**json.loads(request), **json.loads(setting)))
        os.waitpid(child, 0)


def end_with(run: Callable[[], None]) -> None:
    """The end of a child; what it fails with is its last answer."""
    try:
        run()
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)


def serve(key: str, path: str, device: str, dtype: str, threads: int) -> None:
    """Build the inputs, run once for the memory, then whenever a line is read."""
    import torch

    from tests.benchmark.speed.clock import clock_for
    from tests.benchmark.speed.operation import Setting
    from tests.benchmark.speed.operations import all_operations, find

    torch.set_num_threads(threads)
    setting = Setting(torch.device(device), getattr(torch, dtype))
    for small in all_operations(quick=True):  # loads code, so that the peak is that of tensors
        getattr(small, path)(*small.inputs(setting))
    run, given, clock = getattr(find(key), path), find(key).inputs(setting), clock_for(setting.device, threads)
    before = start_peak(setting)
    seconds = clock(lambda: run(*given))
    say({"peak_bytes": end_peak(setting) - before, "seconds": seconds})
    while REQUESTS.readline() != b"done\n":
        say({"seconds": clock(lambda: run(*given))})


def say(values: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps(values), flush=True)


def start_peak(setting: Any) -> int:
    """Forget earlier peaks; bytes in use now."""
    import torch

    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def end_peak(setting: Any) -> int:
    """Most bytes in use since `start_peak`."""
    import torch

    return torch.cuda.max_memory_allocated() if setting.device.type == "cuda" else status_bytes("VmHWM")


def status_bytes(field: str) -> int:
    """A line of /proc/self/status; the peak of the process where there is no such file."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:4])
