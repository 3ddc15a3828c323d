"""Which frames of a video are looked at: a pure function from the times of all frames to the indices of some."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

# A tick and a frame that fall together must stay together after both were rounded to a container's time base.
_TICK_SLACK = 1e-4


class Sampling(NamedTuple):
    """How to sample: `fps` pictures per second, or `frames` of them spread evenly over the whole video.

    `rule="timestamp"` takes the picture that is on screen at each tick `0, 1/fps, 2/fps, …` (the nearest frame at or
    before it), which is right for a variable frame rate. `rule="index"` takes every n-th frame,
    `step = max(1, round(average_fps / fps))`, which is the paper's rule. No frame is taken twice: a picture that
    stays on screen for many ticks, or a video slower than `fps`, gives fewer frames.

    With `frames`, the timestamp rule looks at the middles of that many equal stretches of time, and the index rule
    at evenly spaced indices from the first frame to the last; `fps` must then be None or is left out.

    Example:
        >>> Sampling(fps=2.0).indices(np.arange(10) / 4, duration=2.5, average_fps=4.0)
        array([0, 2, 4, 6, 8])
        >>> Sampling(frames=2).indices(np.arange(10) / 4, duration=2.5, average_fps=4.0)
        array([2, 7])
    """

    fps: float | None = None
    frames: int | None = None
    rule: Literal["timestamp", "index"] = "timestamp"

    def checked(self) -> Sampling:
        """The same sampling with the default of one picture per second filled in.

        Raises:
            ValueError: a rate or count that is not positive, both at once, or an unknown rule.
        """
        if self.rule not in ("timestamp", "index"):
            raise ValueError(f"Sampling: expected rule 'timestamp' or 'index', got {self.rule!r}.")
        if self.fps is not None and self.frames is not None:
            raise ValueError(f"Sampling: expected fps or frames, got both: fps={self.fps}, frames={self.frames}.")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"Sampling: expected fps > 0, got {self.fps}. 1 is a picture per second.")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"Sampling: expected frames >= 1, got {self.frames}.")
        return self._replace(fps=1.0) if self.fps is None and self.frames is None else self

    def indices(
        self, times: Float[np.ndarray, " frames"], *, duration: float, average_fps: float
    ) -> Int[np.ndarray, " taken"]:
        """The frames to take, ascending and without repetition.

        Args:
            times: seconds from the first frame at which each frame appears, ascending.
            duration: seconds from the first frame's appearance to the last one's end.
            average_fps: frames per second of the source; used by `rule="index"`.
        """
        plan = self.checked()
        if len(times) == 0:
            return np.zeros(0, dtype=np.int64)
        if plan.rule == "index":
            return _by_index(len(times), plan, average_fps)
        last_shown = np.searchsorted(times, plan.ticks(duration) + _TICK_SLACK, side="right") - 1
        return np.unique(np.maximum(last_shown, 0)).astype(np.int64)

    def ticks(self, duration: float) -> Float[np.ndarray, " ticks"]:
        """The seconds at which `rule="timestamp"` looks at the screen; for `fps` the first is 0."""
        if self.frames is not None:
            return (np.arange(self.frames) + 0.5) * (duration / self.frames)
        assert self.fps is not None
        return np.arange(max(1, math.ceil(duration * self.fps - _TICK_SLACK))) / self.fps


def _by_index(available: int, plan: Sampling, average_fps: float) -> Int[np.ndarray, " taken"]:
    """Every n-th frame, or `frames` evenly spaced ones of `available`."""
    if plan.frames is not None:
        return np.unique(np.rint(np.linspace(0, available - 1, plan.frames)).astype(np.int64))
    assert plan.fps is not None
    return np.arange(0, available, max(1, round(average_fps / plan.fps)), dtype=np.int64)
