"""The pieces of the report's HTML. Everything that comes from outside passes through `escape`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from dynfocus_video.report_frames import FrameFacts, clock_for, signed
from dynfocus_video.thumbnails import size_of

# Colours repeat, numbers do not; consecutive events always differ.
EVENT_COLOURS = 6


def summary(
    title: str, question: str | None, notes: Sequence[str], facts: Mapping[str, str], frames: Sequence[FrameFacts]
) -> str:
    """The head of the page: which video, which question, what must be known about the result."""
    focus = sum(frame.is_focus for frame in frames)
    parts = [f"<h1>{escape(title)}</h1>"]
    if question:
        parts.append(f'<p class="question"><span class="visually-hidden">Question: </span>{escape(question)}</p>')
    parts.append(
        f'<p class="lead">{focus} of {len(frames)} sampled frames {"is" if focus == 1 else "are"} in focus and kept in '
        "detail; the others shrink to the gist.</p>"
    )
    if notes:
        parts.append('<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    if facts:
        rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
        parts.append(f'<dl class="facts">{rows}</dl>')
    return "\n".join(parts)


def key_figures(frames: Sequence[FrameFacts], grid: tuple[int, int]) -> str:
    """Four numbers that tell the result."""
    tokens, patches = sum(frame.tokens for frame in frames), len(frames) * grid[0] * grid[1]
    events = len({frame.event for frame in frames if frame.event >= 0})
    figures = (
        (f"{tokens:,}", "tokens"),
        (share(tokens, patches), f"of all {patches:,} patches"),
        (f"{sum(frame.is_focus for frame in frames):,}", f"focus frames of {len(frames):,}"),
        (f"{events:,}", "event" if events == 1 else "events"),
    )
    return "".join(f"<div><dd>{value}</dd><dt>{escape(label)}</dt></div>" for value, label in figures)


def share(part: int, whole: int) -> str:
    """A percentage with as many digits as it deserves."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def filmstrip(frames: Sequence[FrameFacts], pictures: Sequence[bytes | None]) -> str:
    """All frames in time order: focus frames large, the others small."""
    return "".join(_frame_button(frame, picture) for frame, picture in zip(frames, pictures, strict=True))


def _frame_button(frame: FrameFacts, picture: bytes | None) -> str:
    kind = "focus frame" if frame.is_focus else "peripheral frame"
    label = f"Frame {frame.number} at {frame.clock}, {kind}, event {frame.event}, {frame.tokens} tokens"
    image = '<span class="blank"></span>'
    if picture is not None:
        wide, tall = size_of(picture)
        source = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        image = f'<img src="{source}" width="{wide}" height="{tall}" alt="" decoding="async">'
    if picture is None and not frame.is_focus:
        return ""
    caption = f'<span class="when" aria-hidden="true">{frame.clock}</span>' if frame.is_focus else ""
    return (
        f'<li class="{"focus" if frame.is_focus else "rod"}"><button type="button" tabindex="-1" '
        f'data-frame="{frame.number}" class="{colour(frame.event)}" aria-label="{label}" title="{frame.clock}">'
        f'{image}<span class="badge" aria-hidden="true">{frame.event if frame.is_focus else ""}</span>{caption}'
        "</button></li>"
    )


def colour(event: int) -> str:
    """The class that carries an event's colour."""
    return f"e{event % EVENT_COLOURS}" if event >= 0 else "none"


def level_switch(levels: Sequence[int]) -> str:
    """Radio buttons: the plain picture, or the prototypes of one level."""
    choices = [("-1", "Picture"), *((str(i), f"{count} parts") for i, count in enumerate(levels))]
    chosen = "0" if levels else "-1"
    return "".join(
        f'<label><input type="radio" name="level" value="{value}"{" checked" if value == chosen else ""}>'
        f"<span>{name}</span></label>"
        for value, name in choices
    )


def token_bill(frames: Sequence[FrameFacts], grid: tuple[int, int]) -> str:
    """Bars: these tokens, two tokens per frame, all patches."""
    patches, count = grid[0] * grid[1], len(frames)
    tokens = sum(frame.tokens for frame in frames)
    rows = (
        ("this", "This result", tokens, _per_frame(frames)),
        ("", "2 tokens per frame", 2 * count, "every frame alike, none in detail"),
        ("", "All patches", patches * count, f"{patches} per frame"),
    )
    longest = max(amount for _, _, amount, _ in rows) or 1
    return "".join(
        f'<tr class="{kind}"><th scope="row">{name}<small>{detail}</small></th><td class="number">{amount:,}</td>'
        f'<td class="bar" aria-hidden="true"><i style="width:{max(100 * amount / longest, 0.2):.2f}%"></i></td></tr>'
        for kind, name, amount, detail in rows
    )


def _per_frame(frames: Sequence[FrameFacts]) -> str:
    """ "20 × 40 + 30 × 2" """
    counts: dict[int, int] = {}
    for frame in frames:
        counts[frame.tokens] = counts.get(frame.tokens, 0) + 1
    ordered = sorted(counts.items(), reverse=True)
    return " + ".join(f"{number} × {tokens}" for tokens, number in ordered[:4]) + (" + …" if len(ordered) > 4 else "")


def frame_table(frames: Sequence[FrameFacts]) -> str:
    """The chart and the filmstrip as rows of text."""
    return "".join(
        f"<tr{' class=focus' if frame.is_focus else ''}><td>{frame.number}</td><td>{frame.clock}</td>"
        f"<td>{frame.event}</td><td>{'focus' if frame.is_focus else 'peripheral'}</td>"
        f"<td>{'a copy' if frame.importance is None else signed(frame.importance)}</td>"
        f"<td>{'–' if frame.score is None else f'{frame.score:.2f}'}</td><td>{frame.tokens}</td></tr>"
        for frame in frames
    )


def axis(frames: Sequence[FrameFacts]) -> list[tuple[float, str]]:
    """Round times to write under the chart, with their places between 0 and 1."""
    end = frames[-1].until
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000)
    step = next((step for step in steps if end / step <= 8), end / 4)
    clock = clock_for(end, step)
    return [(i * step / end, clock(i * step)) for i in range(int(end / step) + 1) if i * step <= 0.97 * end]
