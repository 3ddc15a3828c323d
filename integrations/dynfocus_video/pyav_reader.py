"""Wanted frames out of a file with PyAV, one at a time, seeking only over long gaps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from dynfocus_video.container import open_container, video_stream
from dynfocus_video.scan import VideoScan

# A seek throws the decoder's state away; over a shorter gap decoding on is cheaper.
_SEEK_GAP = 32


class _Run(NamedTuple):
    """Wanted positions that are decoded in one go, from `seek_to` or from where the decoder stands."""

    seek_to: int | None
    wanted: list[int]


def decode_with_pyav(
    scan: VideoScan, indices: Int[np.ndarray, " taken"]
) -> Iterator[tuple[int, UInt8[np.ndarray, "height width 3"]]]:
    """Yield `(index, picture)` for the wanted frames in order, at full size and upright.

    A frame that cannot be decoded is replaced by the last one before it that can, or left out when that one was
    already given.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with open_container(scan.path) as container:
        stream = video_stream(container, scan.path)
        for run in _runs(scan, indices):
            if run.seek_to is not None:
                container.seek(run.seek_to, stream=stream)
            for position, frame in _on_screen(_decoded(container, stream, scan.counted), run.wanted):
                picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
                upright = np.rot90(picture, round((frame.rotation or 0) / 90) % 4)
                yield (
                    max(0, int(np.searchsorted(scan.positions, position, side="right")) - 1),
                    np.ascontiguousarray(upright),
                )


def _runs(scan: VideoScan, indices: Int[np.ndarray, " taken"]) -> list[_Run]:
    """Cut the wanted frames where a keyframe lies far enough behind the previous one to be worth a seek."""
    wanted = scan.positions[indices].tolist()
    if not scan.seekable or len(scan.keyframes) == 0 or not wanted:
        return [_Run(None, wanted)]
    keys = scan.keyframes[np.maximum(np.searchsorted(scan.keyframes, wanted, side="right") - 1, 0)]
    key_indices = np.searchsorted(scan.positions, keys)
    runs = [_Run(None, [])]
    reached = 0
    for position, index, key, key_index in zip(
        wanted, indices.tolist(), keys.tolist(), key_indices.tolist(), strict=True
    ):
        if key_index - reached > _SEEK_GAP:
            runs.append(_Run(key, []))
        runs[-1].wanted.append(position)
        reached = index
    return [run for run in runs if run.wanted]


def _decoded(container: Any, stream: Any, counted: bool) -> Iterator[tuple[int, Any]]:
    """`(position, frame)` of everything that decodes from here on; damage is stepped over."""
    from av.error import EOFError as EndOfFile
    from av.error import FFmpegError

    seen = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            frames = [] if packet.is_corrupt else packet.decode()
        except (StopIteration, EndOfFile):
            return
        except FFmpegError:
            if stream.codec_context is None:
                return
            continue
        for frame in frames:
            position = seen if counted or frame.pts is None else frame.pts
            seen += 1
            yield position, frame


def _on_screen(decoded: Iterator[tuple[int, Any]], wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """For each wanted position the newest frame at or before it, each frame at most once."""
    waiting = iter(wanted)
    target = next(waiting)
    held: tuple[int, Any] | None = None
    for position, frame in decoded:
        while position > target:
            if held is not None:
                yield held
                held = None
            following = next(waiting, None)
            if following is None:
                return
            target = following
        held = (position, frame)
        if position == target:
            yield held
            held = None
            following = next(waiting, None)
            if following is None:
                return
            target = following
    if held is not None:
        yield held
