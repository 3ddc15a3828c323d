"""Time of the parts of a model, and the peak of memory."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds: of the wall where a GPU works, after it has finished; of all this process's CPU time elsewhere."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Bytes: what PyTorch has held at most on a GPU since `forget_peak`; elsewhere what the process ever took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def forget_peak(device: torch.device) -> None:
    """A new peak begins, where that is possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def watched(parts: Mapping[str, tuple[Any, str]], device: torch.device) -> Iterator[dict[str, float]]:
    """Inside, the time of every part is added up; a part within another counts for itself alone.

    Args:
        parts: For every name an object and its method, such as ``{"tower": (model.vision, "forward")}``.
        device: Where they compute.

    Yields:
        Seconds of every part.
    """
    seconds = dict.fromkeys(parts, 0.0)
    inside: list[float] = []

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            start = now(device)
            result = method(*args, **kwargs)
            took = now(device) - start
            seconds[name] += took - inside.pop()
            if inside:
                inside[-1] += took
            return result

        return call

    for name, (owner, method) in parts.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        yield seconds
    finally:
        for owner, method in parts.values():
            delattr(owner, method)
