"""What the machine is, and how fast it multiplies and copies right now."""

from __future__ import annotations

import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from tests.benchmark.speed.clock import Clock
from tests.benchmark.speed.operation import Setting


def describe(setting: Setting, clock: Clock) -> dict[str, Any]:
    """Hardware, versions, threads."""
    gpu = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else None
    return {
        "processor": processor_name(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "clock": clock.name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor_name() -> str:
    """As the operating system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def rates(setting: Setting, clock: Clock, size: int = 1024, copied: int = 2**26) -> dict[str, float]:
    """Multiply-adds of a square matrix product and bytes of a copy, per second (medians of 6)."""
    a, b = (torch.randn(size, size, device=setting.device, dtype=setting.dtype) for _ in range(2))
    source = torch.empty(copied, device=setting.device, dtype=torch.uint8).fill_(1)
    target = torch.empty_like(source)
    product = statistics.median(clock(lambda: a @ b) for _ in range(6))
    copy = statistics.median(clock(lambda: target.copy_(source)) for _ in range(6))
    return {"multiply_adds": size**3 / product, "copied_bytes": copied / copy}
