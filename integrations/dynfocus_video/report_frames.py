"""What is said about each frame: its numbers, and in a sentence why it was kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from dynfocus_connector import FrameSelection


class FrameFacts(NamedTuple):
    """One sampled frame, in words and numbers a page can show."""

    number: int
    time: float
    until: float
    clock: str
    event: int
    is_focus: bool
    is_peak: bool
    importance: float | None
    """log γ, None for an exact copy of a better frame"""
    height: float
    """importance between 0 and 1 within the video"""
    score: float | None
    """of the frame's event"""
    tokens: int
    why: str

    def for_script(self) -> dict[str, Any]:
        """What the page's script needs, under short names."""
        return {
            "clock": self.clock,
            "event": self.event,
            "focus": self.is_focus,
            "importance": "a copy" if self.importance is None else signed(self.importance),
            "score": "–" if self.score is None else f"{self.score:.2f}",
            "tokens": self.tokens,
            "start": round(self.time, 4),
            "why": self.why,
        }


def signed(value: float) -> str:
    """Two decimals with a true minus sign, and no minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def describe_frames(
    selection: FrameSelection,
    timestamps: Sequence[float],
    tokens_per_frame: Sequence[int],
    scored_by: str,
    duration: float | None = None,
) -> list[FrameFacts]:
    """Facts of every frame of one video, in time order."""
    times = [float(time) for time in timestamps]
    ends = [*times[1:], max(duration or 0.0, times[-1] + _typical_step(times))]
    events = _Events(selection, scored_by)
    heights = _heights(events.importance)
    clock = clock_for(ends[-1], _typical_step(times))
    facts = []
    for t, time in enumerate(times):
        facts.append(
            FrameFacts(
                number=t,
                time=time,
                until=ends[t],
                clock=clock(time),
                event=events.of[t],
                is_focus=events.is_focus[t],
                is_peak=t in events.rank_of_peak,
                importance=events.importance[t] if math.isfinite(events.importance[t]) else None,
                height=heights[t],
                score=events.score_of(t),
                tokens=int(tokens_per_frame[t]),
                why=events.why(t, int(tokens_per_frame[t]), [clock(other) for other in events.peaks_of(times, t)]),
            )
        )
    return facts


class _Events:
    """The selection of one video as plain lists."""

    def __init__(self, selection: FrameSelection, scored_by: str) -> None:
        self.scored_by = scored_by
        self.of: list[int] = selection.event[0].tolist()
        self.is_focus: list[bool] = selection.is_focus[0].tolist()
        self.importance: list[float] = selection.log_importance[0].double().tolist()
        self.scores: list[float] = selection.scores[0].double().tolist()
        self.peaks: list[int] = selection.prototype_index[0].tolist()
        real = [label for label, peak in enumerate(self.peaks) if peak >= 0]
        order = sorted(real, key=lambda label: (-self.scores[label], not self.is_focus[self.peaks[label]], label))
        self.rank_of_peak = {self.peaks[label]: rank for rank, label in enumerate(order, start=1)}
        self.num_focus = sum(self.is_focus)
        self.members = {label: self.of.count(label) for label in real}

    def score_of(self, t: int) -> float | None:
        return self.scores[self.of[t]] if 0 <= self.of[t] < len(self.scores) else None

    def peaks_of(self, times: Sequence[float], t: int) -> list[float]:
        """The time of the frame that stands for this frame's event."""
        label = self.of[t]
        return [times[self.peaks[label]]] if 0 <= label < len(self.peaks) and self.peaks[label] >= 0 else []

    def why(self, t: int, tokens: int, peak_clock: list[str]) -> str:
        """Why frame t was, or was not, put in focus."""
        cost = "no tokens" if tokens == 0 else f"{tokens} token{'s' if tokens > 1 else ''}"
        label, rank = self.of[t], self.rank_of_peak.get(t)
        if self.is_focus[t] and rank is None:
            return f"Kept in detail ({cost}): it was chosen without asking for the peaks of events."
        if self.is_focus[t] and self.num_focus == len(self.peaks):
            return f"Kept in detail ({cost}): it stands for event {label}{self._size(label)}; every event is in focus."
        if self.is_focus[t]:
            return (
                f"Kept in detail ({cost}): it stands for event {label}{self._size(label)}, number {rank} of "
                f"{len(self.rank_of_peak)}; the best {self.num_focus} are in focus. An event ranks by {self.scored_by}."
            )
        if rank is not None:
            return (
                f"Kept coarsely ({cost}): it stands for event {label}{self._size(label)}, but that is only number "
                f"{rank} of {len(self.rank_of_peak)}, and the best {self.num_focus} are in focus."
            )
        if not peak_clock:
            return f"Kept coarsely ({cost}): it belongs to no event."
        return f"Kept coarsely ({cost}): it belongs to event {label}, for which the frame at {peak_clock[0]} stands."

    def _size(self, label: int) -> str:
        members = self.members.get(label, 1)
        return "" if members == 1 else f" ({members} frames)"


def clock_for(longest: float, step: float) -> _Clock:
    """How times are written in a video of this length and sampling step."""
    return _Clock(longest >= 3600, 0 if step >= 0.95 else 1 if step >= 0.095 else 2)


class _Clock(NamedTuple):
    hours: bool
    decimals: int

    def __call__(self, seconds: float) -> str:
        scale = 10**self.decimals
        ticks = round(max(seconds, 0.0) * scale)
        whole, rest = divmod(ticks, scale)
        minutes, second = divmod(whole, 60)
        text = f"{minutes // 60}:{minutes % 60:02d}:{second:02d}" if self.hours else f"{minutes}:{second:02d}"
        return f"{text}.{rest:0{self.decimals}d}" if self.decimals else text


def _typical_step(times: Sequence[float]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0


def _heights(importance: Sequence[float]) -> list[float]:
    """log γ between 0 and 1 over the frames that have one; copies of a better frame stand at 0."""
    finite = [value for value in importance if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = high - low
    return [0.0 if not math.isfinite(value) else (value - low) / span if span > 0 else 1.0 for value in importance]
