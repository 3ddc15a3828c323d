"""The report's chart: importance and score of every frame, events, and tokens, over time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from dynfocus_video.report_frames import FrameFacts
from dynfocus_video.report_markup import axis, colour

_WIDE = 1000.0
_LEAST_HEIGHT = 3.0


def timeline(frames: Sequence[FrameFacts]) -> str:
    """Three lanes that share one time axis. The drawings stretch; all text is HTML and keeps its size."""
    ticks = "".join(f'<span style="left:{100 * place:.2f}%">{text}</span>' for place, text in axis(frames))
    return (
        f'<div class="lane importance"><svg viewBox="0 0 {_WIDE:g} 100" preserveAspectRatio="none" aria-hidden="true">'
        f"{_bars(frames)}{_score_line(frames)}</svg></div>"
        f'<div class="lane events" aria-hidden="true">{_event_runs(frames)}</div>'
        f'<div class="lane tokens"><svg viewBox="0 0 {_WIDE:g} 100" preserveAspectRatio="none" aria-hidden="true">'
        f"{_token_bars(frames)}</svg></div>"
        f'<div class="axis" aria-hidden="true">{ticks}</div>'
    )


def _place(frame: FrameFacts, frames: Sequence[FrameFacts]) -> tuple[float, float]:
    """Left edge and width of a frame's stretch of time."""
    end = frames[-1].until
    left = frame.time / end * _WIDE
    return left, max(frame.until / end * _WIDE - left, 0.05)


def _bars(frames: Sequence[FrameFacts]) -> str:
    """One path per colour and kind: a chart of thousands of frames stays a few elements."""
    paths: dict[tuple[bool, str], list[str]] = {}
    for frame in frames:
        left, width = _place(frame, frames)
        gap = 0.14 * width
        height = _LEAST_HEIGHT + frame.height * (96 - _LEAST_HEIGHT)
        step = f"M{left + gap / 2:.2f} 100v-{height:.1f}h{width - gap:.2f}v{height:.1f}z"
        paths.setdefault((frame.is_focus, colour(frame.event)), []).append(step)
    return "".join(
        f'<path class="{"focus" if focus else "rod"} {name}" d="{"".join(steps)}"/>'
        for (focus, name), steps in sorted(paths.items())
    )


def _score_line(frames: Sequence[FrameFacts]) -> str:
    """The score of each frame's event, as steps."""
    steps = []
    pen_up = True
    for frame in frames:
        if frame.score is None:
            pen_up = True
            continue
        left, width = _place(frame, frames)
        height = 100 - _LEAST_HEIGHT - frame.score * (96 - _LEAST_HEIGHT)
        steps.append(f"{'M' if pen_up else 'L'}{left:.2f} {height:.1f}h{width:.2f}")
        pen_up = False
    return f'<path class="score" d="{"".join(steps)}"/>'


def _event_runs(frames: Sequence[FrameFacts]) -> str:
    """Neighbouring frames of one event as one numbered block."""
    runs = []
    for event, members in groupby(frames, key=lambda frame: frame.event):
        run = list(members)
        left, _ = _place(run[0], frames)
        width = sum(_place(run[-1], frames)) - left
        number = f"<b>{event}</b>" if width >= 0.012 * _WIDE else ""
        runs.append(
            f'<span class="{colour(event)}{" held" if any(f.is_focus for f in run) else ""}" '
            f'style="left:{left / 10:.3f}%;width:{width / 10:.3f}%">{number}</span>'
        )
    return "".join(runs)


def _token_bars(frames: Sequence[FrameFacts]) -> str:
    most = max((frame.tokens for frame in frames), default=0) or 1
    steps = []
    for frame in frames:
        left, width = _place(frame, frames)
        height = 100 * frame.tokens / most
        if height:
            steps.append(f"M{left + 0.07 * width:.2f} 100v-{height:.1f}h{0.86 * width:.2f}v{height:.1f}z")
    return f'<path d="{"".join(steps)}"/>'
