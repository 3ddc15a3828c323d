"""Prompts of text, pictures and videos, as a host's processor and chat template take them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from dynfocus_video.reader import VideoFrames

Prompt = Sequence[str | VideoFrames]


def still(clip: VideoFrames) -> bool:
    """Whether this is a picture: one frame, and no time passes."""
    return len(clip.frames) == 1 and clip.duration == 0


def clips_of(prompt: Prompt) -> list[VideoFrames]:
    """The videos and pictures of a prompt."""
    return [part for part in prompt if isinstance(part, VideoFrames)]


def message(prompt: Prompt) -> dict[str, Any]:
    """The prompt as a chat template takes it."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image" if still(part) else "video"}
        for part in prompt
    ]
    return {"role": "user", "content": content}


def visual_inputs(prompts: Sequence[Prompt], joined: int) -> dict[str, Any]:
    """The videos and pictures of a batch as a processor takes them; frames are sampled already.

    Args:
        prompts: The batch.
        joined: How many frames the host's encoder makes one of.
    """
    videos = [filled(clip, joined) for prompt in prompts for clip in clips_of(prompt) if not still(clip)]
    pictures = [[clip.frames[0].permute(2, 0, 1) for clip in clips_of(p) if still(clip)] for p in prompts]
    inputs: dict[str, Any] = {}
    if videos:
        inputs["videos"] = [clip.frames.permute(0, 3, 1, 2) for clip in videos]
        inputs["video_metadata"] = [metadata(clip) for clip in videos]
        inputs["do_sample_frames"] = False
    if any(pictures):
        inputs["images"] = pictures
    return inputs


def filled(clip: VideoFrames, joined: int) -> VideoFrames:
    """A video of fewer frames than are joined into one, its last frame repeated."""
    if len(clip.frames) >= joined:
        return clip
    number = [*range(len(clip.frames)), *[-1] * (joined - len(clip.frames))]
    return clip._replace(frames=clip.frames[number], timestamps=clip.timestamps[number])


def metadata(clip: VideoFrames) -> dict[str, Any]:
    """When the frames appear, for hosts that write timestamps or have positions in time."""
    fps = clip.source_fps or 1.0
    return {
        "fps": fps,
        "total_num_frames": max(round(clip.duration * fps), 1),
        "frames_indices": [round(float(second) * fps) for second in clip.timestamps],
        "duration": clip.duration,
    }


def picture_owners(prompts: Sequence[Prompt], slots: Bool[Tensor, "batch length"], tokens: int) -> list[int]:
    """Where a host sees frames as pictures: the video of every picture of the batch, -1 for none.

    Args:
        prompts: The batch.
        slots: Where its placeholders are. A frame is one run of them, and so is a picture beside a video, whatever
            its tiles.
        tokens: How many belong to a frame or tile.
    """
    videos = itertools.count()
    owners: list[int] = []
    for prompt, row in zip(prompts, slots, strict=True):
        runs: list[int] = []
        for clip in clips_of(prompt):
            runs += [-1] if still(clip) else [next(videos)] * len(clip.frames)
        places = row.nonzero().flatten()
        run = (places.diff(prepend=places[:1]) > 1).cumsum(0)[::tokens].tolist()
        beside_video = max(runs, default=-1) >= 0
        owners += [runs[number] if beside_video else -1 for number in run]
    return owners
