"""Means over seeds and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 1 to 9 degrees of freedom"""


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    half: float
    """half the width; NaN for a single value"""
    seeds: int

    @staticmethod
    def over(values: Sequence[float]) -> Interval:
        """Of one value per seed.

        Example:
            >>> Interval.over([0.9, 1.0, 0.95]).half.__round__(3)
            0.124

        Raises:
            ValueError: none, or more than ten.
        """
        if not 1 <= len(values) <= len(STUDENT) + 1:
            raise ValueError(f"Interval: expected 1 to {len(STUDENT) + 1} values, got {len(values)}.")
        mean = statistics.fmean(values)
        if len(values) == 1:
            return Interval(mean, math.nan, 1)
        half = STUDENT[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
        return Interval(mean, half, len(values))

    def above(self, other: Interval) -> bool:
        """Whether it lies above the other without touching it; never for single values."""
        return self.mean - self.half > other.mean + other.half

    def __str__(self) -> str:
        if math.isnan(self.half):
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.half:.2f}"
