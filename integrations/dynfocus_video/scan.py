"""A first pass over a file's packets, without decoding: when frames appear, where one may seek, what is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dynfocus_video.container import checked_file, open_container, video_stream
from dynfocus_video.errors import UnreadableVideoError

_INDEXED_FORMATS = ("mov", "mp4", "matroska", "webm", "avi")
_UNNOTICED_SECONDS = 0.5  # headers round, and sound may end before the header's duration


class VideoScan(NamedTuple):
    """What the packets tell. Times are seconds from the first frame; positions are in the stream's own time base."""

    path: Path
    times: Float[np.ndarray, " frames"]
    positions: Int[np.ndarray, " frames"]
    keyframes: Int[np.ndarray, " keys"]
    duration: float
    average_fps: float
    counted: bool  # positions count frames, because the stream carries no timestamps
    indexed: bool  # the container finds frames exactly
    seekable: bool  # and the file is whole
    readable_share: float
    loss: str | None


def scan_video(path: str | os.PathLike[str]) -> VideoScan:
    """Read the packets of the first real video stream.

    Raises:
        VideoError: the subclass says why: missing, a directory, empty, no video, no video stream, unreadable.
    """
    path = checked_file(path)
    with open_container(path) as container:
        stream = video_stream(container, path)
        packets, reached, broken = _read_packets(container, stream)
        if not packets:
            raise UnreadableVideoError(
                f"read_video: expected a video with at least one whole frame, got {str(path)!r} with none. "
                "The file is cut off or damaged; fetch it again."
            )
        return _summarise(path, container, stream, packets, reached, broken)


class _Packet(NamedTuple):
    position: int | None
    length: int
    is_keyframe: bool


def _read_packets(container: Any, stream: Any) -> tuple[list[_Packet], float, bool]:
    """The whole video packets, the second that any stream reaches, and whether the file ends in the middle of one."""
    from av.error import FFmpegError

    packets: list[_Packet] = []
    reached, broken = 0.0, False
    try:
        for packet in container.demux():
            position = packet.dts if packet.pts is None else packet.pts
            if packet.is_corrupt:
                broken = True
            elif packet.size and not packet.is_discard:
                if position is not None and packet.time_base is not None:
                    reached = max(reached, float((position + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index == stream.index:
                    packets.append(_Packet(position, packet.duration or 0, packet.is_keyframe))
    except FFmpegError:
        broken = True
    return packets, reached, broken


def _summarise(
    path: Path, container: Any, stream: Any, packets: list[_Packet], reached: float, broken: bool
) -> VideoScan:
    fps = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)
    counted = any(packet.position is None for packet in packets)
    keyframes = np.zeros(0, dtype=np.int64)
    if counted:
        positions, unit, last = np.arange(len(packets)), 1 / fps, 1.0
    else:
        positions = np.unique(np.array([packet.position for packet in packets], dtype=np.int64))
        keyframes = np.unique(np.array([p.position for p in packets if p.is_keyframe], dtype=np.int64))
        unit = float(stream.time_base)
        last = max(packets, key=lambda packet: packet.position or 0).length or 1 / (fps * unit)
    times = (positions - positions[0]) * unit
    share, loss = _what_is_missing(container, stream, len(packets), reached, broken)
    indexed = not counted and any(name in container.format.name.split(",") for name in _INDEXED_FORMATS)
    duration = float(times[-1] + last * unit)
    return VideoScan(
        path=path,
        times=times,
        positions=positions,
        keyframes=keyframes,
        duration=duration,
        # Matroska declares any rate it likes for a variable one.
        average_fps=len(times) / duration if len(times) > 1 and not counted else fps,
        counted=counted,
        indexed=indexed,
        seekable=indexed and loss is None,
        readable_share=share,
        loss=loss,
    )


def _what_is_missing(container: Any, stream: Any, found: int, reached: float, broken: bool) -> tuple[float, str | None]:
    """The readable share, and a sentence when it is less than everything."""
    # MP4 lists every frame in its index; stream.frames would also count those that an edit list hides. PyAV below 17.1
    # does not show the index: seconds, below, tell what is missing then.
    listed = len(getattr(stream, "index_entries", ())) if "mp4" in container.format.name.split(",") else 0
    if listed > found:
        return found / listed, f"truncated: {found} of {listed} frames ({found / listed:.0%}) can be read"
    if container.duration is None:
        return 1.0, "truncated: the file ends in the middle of a frame" if broken else None
    promised = container.duration / 1e6
    start = (container.start_time or 0) / 1e6
    if promised - (reached - start) > _UNNOTICED_SECONDS or broken:
        share = min(1.0, max(0.0, (reached - start) / promised)) if promised > 0 else 1.0
        return share, f"truncated: {reached - start:.1f} of {promised:.1f} s ({share:.0%}) can be read"
    return 1.0, None
