"""How time is taken: processor time of one thread, wall time of several, device events on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Runs something once and says how long it took."""

    name: str

    def __call__(self, run: Callable[[], Any]) -> float:
        """Seconds."""


class ProcessorClock:
    """Processor time: wall time of an idle machine, whatever else runs on this one. For one thread."""

    name = "processor time"

    def __call__(self, run: Callable[[], Any]) -> float:
        """Seconds."""
        start = time.process_time()
        run()
        return time.process_time() - start


class WallClock:
    """Wall time, for several threads."""

    name = "wall time"

    def __call__(self, run: Callable[[], Any]) -> float:
        """Seconds."""
        start = time.perf_counter()
        run()
        return time.perf_counter() - start


class DeviceClock:
    """Time between two CUDA events around the run: launch gaps count, waiting for the host before it does not."""

    name = "device time"

    def __call__(self, run: Callable[[], Any]) -> float:
        """Seconds."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def clock_for(device: torch.device, threads: int) -> Clock:
    """The clock that is right there."""
    if device.type == "cuda":
        return DeviceClock()
    return ProcessorClock() if threads == 1 else WallClock()


def copies_for_cold_cache(size: int, cache: int) -> int:
    """How many equal inputs of `size` bytes, used in turn, push each other out of a cache of `cache` bytes."""
    return 1 if size > 2 * cache else -(-2 * cache // max(size, 1)) + 1


def rotated(inputs: tuple[Any, ...], cache: int, limit: int = 64) -> list[tuple[Any, ...]]:
    """Copies of the inputs' tensors to be used in turn, so that none is in the cache when its turn comes."""
    size = sum(value.nbytes for value in inputs if isinstance(value, torch.Tensor))
    copies = min(copies_for_cold_cache(size, cache), limit)
    clone = [
        tuple(value.clone() if isinstance(value, torch.Tensor) else value for value in inputs)
        for _ in range(copies - 1)
    ]
    return [inputs, *clone]


def cache_bytes(device: torch.device) -> int:
    """The last cache before memory that inputs are kept out of; 0 on a CPU, whose runs are longer than its caches."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
