"""Opening a file: every way in which it is not a video gets its own error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dynfocus_video.errors import (
    DecoderUnavailableError,
    EmptyVideoError,
    NotAVideoError,
    NoVideoStreamError,
    UnreadableVideoError,
    VideoIsDirectoryError,
    VideoNotFoundError,
)


def checked_file(path: str | os.PathLike[str]) -> Path:
    """The path, when it is a file with bytes that do not look like text."""
    path = Path(path)
    if path.is_dir():
        raise VideoIsDirectoryError(
            f"read_video: expected a video file, got the directory {str(path)!r}. Name a file in it."
        )
    if not path.exists():
        raise VideoNotFoundError(
            f"read_video: expected an existing file, got {str(path)!r}. Check the spelling of the path."
        )
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise UnreadableVideoError(
            f"read_video: expected a readable file, got {str(path)!r} ({error.strerror}). Check its permissions."
        ) from error
    if not head:
        raise EmptyVideoError(
            f"read_video: expected a video, got the empty file {str(path)!r} (0 bytes). Fetch it again."
        )
    # Playlists and scripts are text too, and FFmpeg would follow the addresses in them.
    if _looks_like_text(head):
        raise NotAVideoError(f"read_video: expected a video, got {str(path)!r}, which is text. Name a video file.")
    return path


def _looks_like_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head[: len(head) - 4 if len(head) == 4096 else len(head)].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > 0 and error.reason == "unexpected end of data"
    return True


def open_container(path: Path) -> Any:
    """`av.open`, with errors that say what the file probably is."""
    try:
        import av
    except ImportError as error:
        raise DecoderUnavailableError(
            "read_video: expected PyAV to be installed, got no module 'av'. "
            "Run: pip install 'dynfocus-connector[video]'"
        ) from error
    try:
        return av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:8] in (b"ftyp", b"mdat", b"moov") or head[:4] == b"\x1a\x45\xdf\xa3":
            raise UnreadableVideoError(
                f"read_video: expected a whole video, got {str(path)!r}, cut off before its index (the MP4 'moov' box "
                "or the Matroska header), so that no frame can be decoded. Fetch it again, or write it with "
                "-movflags +faststart."
            ) from error
        raise NotAVideoError(
            f"read_video: expected a video, got {str(path)!r} ({path.stat().st_size} bytes), whose container FFmpeg "
            "does not recognise. Name a video file."
        ) from error


def video_stream(container: Any, path: Path) -> Any:
    """The first video stream that is not a cover picture."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = "AUTO"
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no stream at all"
    raise NoVideoStreamError(
        f"read_video: expected a video stream, got {str(path)!r} with {kinds}. Name a file that has pictures."
    )
