"""The main job: a video file and a question in, tokens out, with everything needed to show why."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dynfocus_connector import CompressedVideo, DynFocusConnector, TokenBudget, check_features
from dynfocus_connector.budget import evenly
from dynfocus_video.choosing import choose_connector
from dynfocus_video.compression import Compression as Compression
from dynfocus_video.encoders import Encoder, load_encoder
from dynfocus_video.features import EncodedVideo, Stopwatch, encode_stream, seen_share, wait_for
from dynfocus_video.reader import iter_frames
from dynfocus_video.sampling import Sampling


def compress_video(
    path: str | os.PathLike[str],
    *,
    question: str | None = None,
    sampling: Sampling | None = None,
    decoder: str = "pyav",
    encoder: str | Encoder = "embedded",
    weights: str | None = None,
    text_encoder: str | None = None,
    preset: str | None = None,
    num_prototypes: int | None = None,
    focus_ratio: float | None = None,
    budget: TokenBudget | None = None,
    checkpoint: str | None = None,
    strict: bool = False,
    device: str = "cpu",
    thumbnails: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Compression:
    """Compress a video file.

    Args:
        path: Any file FFmpeg can read.
        question: What will be asked about the video; it counts only with a text encoder.
        sampling: Which frames are looked at; one per second by default.
        decoder: "pyav" or "decord".
        encoder: "embedded", "timm:NAME", or an object that encodes.
        weights: A file with the encoder's weights.
        text_encoder: A transformers CLIP, by name or folder, whose space the encoder shares.
        preset, num_prototypes, focus_ratio, checkpoint: As in `choose_connector`.
        budget: Tokens for the video. Where it cannot even pay for the gist of every frame, its `when_short` decides.
        strict: Refuse a file of which a part is lost.
        device: Where to compute.
        thumbnails: Whether to keep small pictures, for a report.
        progress: Called with (frames done, frames planned).

    Raises:
        ValueError: a file that is no whole video, an encoder or checkpoint that does not fit, a budget that is too
            small, features that are not finite.

    Example:
        >>> from dynfocus_video.clips import demo_clip
        >>> result = compress_video(demo_clip("bikes.mp4"), sampling=Sampling(fps=5.0))
        >>> len(result.timestamps), len(result.focus_times), len(result.video.tokens)
        (50, 20, 860)
    """
    watch = Stopwatch()
    stream = iter_frames(path, sampling, decoder=decoder, size=None, strict=strict)
    with watch.stage("load"):
        trained, asked = checkpoint is not None, bool(question) and text_encoder is not None
        vision = _load_encoder(encoder, weights, asked and not trained, device)
        text = None
        if question and text_encoder is not None:
            text = _encode_question(question, text_encoder, vision, trained, device)
            wait_for(text)
        connector = choose_connector(
            vision.dim,
            preset=preset,
            num_prototypes=num_prototypes,
            focus_ratio=focus_ratio,
            checkpoint=checkpoint,
            dim_text=None if text is None else text.shape[-1],
            device=device,
        )
    keep = _frames_within(budget, connector, stream.planned, vision.grid)
    encoded = encode_stream(stream, vision, keep=keep, thumbnails=thumbnails, progress=progress, watch=watch)
    check_features(encoded.features, name="compress_video")
    with watch.stage("compress"):
        affordable = _fixed(budget, stream.planned, keep, encoded, vision.grid)
        video = _compress(connector, encoded, text, vision.grid, affordable, device)
        wait_for(video.tokens)
    return Compression(
        video=video,
        timestamps=encoded.timestamps,
        tokens_per_frame=video.frame_index.bincount(minlength=len(encoded.timestamps)).cpu(),
        thumbnails=encoded.thumbnails,
        config=connector.config,
        encoder=vision.name,
        grid=vision.grid,
        seen=seen_share(vision.frame_size, *stream.source_size),
        duration=stream.duration,
        sampled_frames=stream.planned,
        truncated=stream.truncated,
        training_free=not trained,
        question=question or None,
        text_encoder=text_encoder if text is not None else None,
        seconds=watch.seconds,
    )


def _load_encoder(encoder: str | Encoder, weights: str | None, project: bool, device: str) -> Encoder:
    return (
        load_encoder(encoder, weights=weights, project=project, device=device) if isinstance(encoder, str) else encoder
    )


def _encode_question(
    question: str, text_encoder: str, vision: Encoder, trained: bool, device: str
) -> Float[Tensor, "1 queries dim_text"]:
    """The question as a trained connector reads it, token by token; else as one direction in the frames' own space."""
    from dynfocus_video.text_encoder import load_text_encoder, require_joint_space

    tower = load_text_encoder(text_encoder, device=device)
    if trained:
        return tower.encode([question])[0]
    require_joint_space(vision, tower)
    return tower.embed([question])[:, None]


def _frames_within(
    budget: TokenBudget | None, connector: DynFocusConnector, planned: int, grid: tuple[int, int]
) -> list[int] | None:
    """The sampled frames that a short budget leaves, known before one is decoded; None for all."""
    if budget is None:
        return None
    plan = connector.plan(grid[0] * grid[1], budget, planned)[0]
    return evenly(planned, plan.num_frames) if plan.num_frames < planned else None


def _fixed(
    budget: TokenBudget | None, planned: int, keep: list[int] | None, encoded: EncodedVideo, grid: tuple[int, int]
) -> TokenBudget | None:
    """The same budget in tokens: a share is one of all sampled frames that decode, not of those left by resampling."""
    if budget is None or budget.ratio is None:
        return budget
    decoded = round(planned * len(encoded.timestamps) / (planned if keep is None else len(keep)))
    allowed = budget.tokens_for(decoded, grid[0] * grid[1])
    return TokenBudget(max_tokens=max(allowed, 1), when_short=budget.when_short)


@torch.inference_mode()
def _compress(
    connector: DynFocusConnector,
    encoded: EncodedVideo,
    text: Tensor | None,
    grid: tuple[int, int],
    budget: TokenBudget | None,
    device: str,
) -> CompressedVideo:
    frames = encoded.features[None].to(device)
    question = None if text is None else text.to(device=frames.device, dtype=frames.dtype)
    video: CompressedVideo = connector(frames, question, grid=grid, budget=budget, keep_merging=True)
    return video
