"""Wanted frames out of a file with decord: the same pictures as PyAV's, on files that are whole and not AV1."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from dynfocus_video.errors import DecoderUnavailableError, UnreadableVideoError
from dynfocus_video.scan import VideoScan

# Pictures decord hands over at once; this many lie in memory at full size.
_BATCH = 8


def decode_with_decord(
    scan: VideoScan, indices: Int[np.ndarray, " taken"]
) -> Iterator[tuple[int, UInt8[np.ndarray, "height width 3"]]]:
    """Yield `(index, picture)` for the wanted frames in order, at full size.

    Raises:
        DecoderUnavailableError: decord is not installed.
        UnreadableVideoError: decord cannot decode the file (AV1, damage), or would give other frames than asked for.
    """
    try:
        import decord
    except ImportError as error:
        raise DecoderUnavailableError(
            "read_video: expected decord to be installed for decoder='decord', got no such module. "
            "Run pip install decord (Linux x86-64), or use decoder='pyav'."
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(scan.path), num_threads=1)
        _refuse_shifted(scan, len(reader))
        available = indices[indices < len(reader)].tolist()
        for start in range(0, len(available), _BATCH):
            chunk = available[start : start + _BATCH]
            yield from zip(chunk, reader.get_batch(chunk).asnumpy(), strict=True)
    except (RuntimeError, decord.DECORDError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UnreadableVideoError(
            f"read_video: expected a video that decord can decode, got {str(scan.path)!r} ({reason}). "
            "decord reads neither AV1 nor damaged files; use decoder='pyav' (--decoder pyav)."
        ) from error


def _refuse_shifted(scan: VideoScan, counted: int) -> None:
    """decord 0.6.0 silently gives wrong pictures where seeking is inexact (MPEG-TS) or it counts other frames."""
    if not (scan.indexed and counted == len(scan.times)):
        raise UnreadableVideoError(
            f"read_video: expected MP4, Matroska, WebM or AVI of {len(scan.times)} frames for decoder='decord', "
            f"got {str(scan.path)!r}, where decord counts {counted} and finds frames by guessing. Use decoder='pyav'."
        )
