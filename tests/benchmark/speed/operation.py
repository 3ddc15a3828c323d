"""One row of the benchmark: what is run, what it is compared with, and what it costs on paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class Setting(NamedTuple):
    """Where, and in which type."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Operation:
    """Our path and its plain twin on the same inputs.

    `agree` raises AssertionError where the two outputs differ. `gate_inputs` stand in for `inputs` there when the
    twin's own formulation is ill-posed on them.
    """

    name: str
    """a row of the paper's Table 9, or a name of ours"""
    case: str
    """its sizes"""
    inputs: Callable[[Setting], tuple[Any, ...]]
    ours: Callable[..., Any]
    twin: Callable[..., Any]
    agree: Callable[[Any, Any], None]
    multiply_adds: float
    """that no implementation of this arithmetic can avoid; of a Gram matrix, one triangle"""
    traffic: float
    """bytes that must be read and written once, in float32"""
    parameters: int = 0
    frames: int | None = None
    """the place of the row on the axis T of the plots"""
    series: str | None = None
    """the curve it belongs to"""
    target: float | None = None
    """times faster than the twin"""
    memory_target: float | None = None
    """times less memory than the twin"""
    why: str = ""
    """the reason, shown where a target is missed"""
    gate_inputs: Callable[[Setting], tuple[Any, ...]] | None = None
    note: str = ""
    group: str | None = None
    """rows of one group share their inputs and their twin, which is then run once for all"""
    extras: Callable[[], dict[str, float]] | None = None
    """numbers that are no times"""
    twin_share: float = 1.0
    """of its work that the twin does, where all of it would take minutes: its time and memory count for the whole"""

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return f"{self.name} · {self.case}"
