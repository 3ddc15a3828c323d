"""What can go wrong with a video file, an encoder or its weights; every message says what to do."""

from __future__ import annotations


class VideoError(ValueError):
    """A video could not become frames."""


class VideoNotFoundError(VideoError):
    """Nothing lies at the path."""


class VideoIsDirectoryError(VideoError):
    """The path names a folder."""


class EmptyVideoError(VideoError):
    """The file has no bytes."""


class NotAVideoError(VideoError):
    """The file is something else: text, a document, an unknown container."""


class NoVideoStreamError(VideoError):
    """A media file without pictures: sound only, or sound with a cover image."""


class UnreadableVideoError(VideoError):
    """A video of which nothing can be decoded, or that the operating system will not open."""


class TruncatedVideoError(VideoError):
    """A part of the video is lost and the caller asked for all of it (`strict`)."""


class NoFramesError(VideoError):
    """Sampling left no frame."""


class DecoderUnavailableError(VideoError):
    """The requested decoder is unknown or not installed."""


class EncoderError(ValueError):
    """An encoder is unknown, or its weights do not fit or cannot be had."""
