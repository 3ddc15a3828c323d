"""What a request of lmms-eval asks: its text, its pictures and videos, and how to generate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dynfocus_lmms_eval.engine import Prompt
from dynfocus_video.reader import VideoFrames, read_video
from dynfocus_video.resizing import FrameSize, resize_frames
from dynfocus_video.sampling import Sampling

MARKER = "<image>"
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
DEFAULT_NEW_TOKENS = 128
ALLOWED = ("max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "repetition_penalty")
"""What of a task's generation_kwargs goes on to `generate`; the rest is about other models"""


class DecodeError(ValueError):
    """A visual input that cannot become frames."""


def generation_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The task's settings without those nobody should follow; greedy where it samples at temperature 0.

    Example:
        >>> generation_of({"until": ["\\n\\n"], "max_new_tokens": 16, "temperature": 0, "image_aspect_ratio": "pad"})
        {'max_new_tokens': 16, 'do_sample': False}
    """
    kept = {name: given[name] for name in ALLOWED if given.get(name) is not None}
    kept.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
    kept["do_sample"] = bool(kept.get("do_sample", float(kept.get("temperature", 0)) > 0))
    if kept["do_sample"] and kept.get("temperature") == 0:
        kept["do_sample"] = False
    if not kept["do_sample"]:
        kept.pop("temperature", None)
        kept.pop("top_p", None)
    return kept


def until_of(given: Mapping[str, Any]) -> list[str]:
    """Where answers end, by the task. lmms-eval's default, an empty line, is no wish of the task's."""
    until = given.get("until") or []
    until = [until] if isinstance(until, str) else list(until)
    return [] if until == ["\n\n"] else [stop for stop in until if stop]


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first place where it should have ended."""
    for stop in until:
        text = text.split(stop)[0]
    return text.strip()


def build_prompt(
    text: str, visuals: Sequence[Any], sampling: Sampling, size: FrameSize | None, most: int | None
) -> Prompt:
    """Visual inputs in front of the text, or in the places of as many `<image>` marks.

    Args:
        text: The request's context.
        visuals: Paths of videos and images, or PIL images.
        sampling: Which frames of a video.
        size: Of frames.
        most: Frames per video.

    Raises:
        DecodeError: a visual input that cannot be read.
    """
    clips = [read_visual(visual, sampling, size, most) for visual in visuals]
    pieces = text.split(MARKER)
    if not clips or len(pieces) != len(clips) + 1:
        return [*clips, text]
    mixed: list[str | VideoFrames] = [pieces[0]]
    for clip, piece in zip(clips, pieces[1:], strict=True):
        mixed += [clip, piece]
    return [part for part in mixed if not isinstance(part, str) or part.strip()] or [text]


def read_visual(visual: Any, sampling: Sampling, size: FrameSize | None, most: int | None) -> VideoFrames:
    """Frames of a file, or a PIL image as one frame.

    Raises:
        DecodeError: what cannot be read, or is something else.
    """
    if hasattr(visual, "convert"):
        return _still(np.array(visual.convert("RGB")), size)
    if not isinstance(visual, (str, os.PathLike)):
        raise DecodeError(f"dynfocus: expected a path or a PIL image, got {type(visual).__name__}. It has no sound.")
    try:
        if str(visual).lower().endswith(IMAGE_ENDINGS):
            return _still(read_video(visual, size=None).frames[0].numpy(), size)
        clip = read_video(visual, sampling, size=size)
        if most is not None and len(clip.frames) > most:
            clip = read_video(visual, Sampling(frames=most, rule=sampling.rule), size=size)
    except (ValueError, OSError) as error:
        raise DecodeError(str(error)) from error
    return clip


def _still(picture: np.ndarray, size: FrameSize | None) -> VideoFrames:
    frames = torch.from_numpy(np.ascontiguousarray(picture))[None]
    shape = (picture.shape[0], picture.shape[1])
    frames = frames if size is None else resize_frames(frames, size)
    return VideoFrames(frames, torch.zeros(1), 0.0, 0.0, shape, 1.0, None)
