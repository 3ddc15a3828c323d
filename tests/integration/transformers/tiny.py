"""Tiny hosts with random weights, and prompts for them: 16 tokens per frame, width 32, 2 layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor

WIDTH, VOCAB, PATCHES = 32, 128, 16
PAD, END, VIDEO, IMAGE, OPEN, CLOSE = 0, 2, 100, 101, 102, 103
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
TOKENS = {"video_token_id": VIDEO, "image_token_id": IMAGE}


def installed(version: str) -> bool:
    """Whether the transformers at hand is so new."""
    return Version(transformers.__version__) >= Version(version)


@dataclass(frozen=True)
class Video:
    """A part of a prompt: a video of so many frames (of Qwen-like hosts: pairs of frames), `seed` names its pixels."""

    frames: int = 6
    seed: int = 0
    grid: tuple[int, int] = (4, 4)


@dataclass(frozen=True)
class Picture:
    """A part of a prompt: a picture."""

    seed: int = 0


Part = Video | Picture | list[int]


@dataclass(frozen=True)
class Tiny:
    """How to build one host and its inputs."""

    name: str
    build: Callable[[], Any]
    pixels: Callable[[list[Video], list[Picture]], dict[str, Any]]
    video_ids: Callable[[Video], list[int]]
    picture_ids: Callable[[Picture], list[int]]
    placeholder: int = VIDEO
    ragged: bool = False
    types: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)

    def model(self, seed: int = 0) -> Any:
        """The host, in evaluation mode."""
        torch.manual_seed(seed)
        model = self.build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.generation_config.eos_token_id = END
        model.generation_config.pad_token_id = PAD
        return model

    def batch(self, *rows: list[Part], left: bool = True, labels: bool = False) -> dict[str, Any]:
        """Inputs as the host's processor would make them; labels from the last text part of every row."""
        ids, targets = [], []
        for row in rows:
            parts = [self.part_ids(part) for part in row]
            ids.append(list(chain.from_iterable(parts)))
            targets.append([-100] * (len(ids[-1]) - len(parts[-1])) + parts[-1])
        batch: dict[str, Any] = {
            "input_ids": padded(ids, PAD, left),
            "attention_mask": padded([[1] * len(row) for row in ids], 0, left),
        }
        if labels:
            batch["labels"] = padded(targets, -100, left)
        if self.types:
            batch["mm_token_type_ids"] = 2 * (batch["input_ids"] == VIDEO) + (batch["input_ids"] == IMAGE)
            batch["mm_token_type_ids"] = batch["mm_token_type_ids"].int()
        flat = [part for row in rows for part in row]
        videos = [part for part in flat if isinstance(part, Video)]
        pictures = [part for part in flat if isinstance(part, Picture)]
        if self.placeholder == IMAGE:
            return {**batch, **self.inputs, **frames_and_pictures(self.name, rows)}
        return {**batch, **self.pixels(videos, pictures)}

    def part_ids(self, part: Part) -> list[int]:
        if isinstance(part, Video):
            return self.video_ids(part)
        if isinstance(part, Picture):
            return self.picture_ids(part)
        return list(part)


def padded(rows: list[list[int]], fill: int, left: bool) -> Tensor:
    longest = max(len(row) for row in rows)
    gaps = [[fill] * (longest - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)])


def noise(seed: int, *shape: int) -> Tensor:
    """Pixels: a slow scene change plus noise, so that frames differ and resemble their neighbours."""
    generator = torch.Generator().manual_seed(1000 + seed)
    steps = torch.randn(shape, generator=generator)
    return 0.5 * steps + 0.5 * steps.cumsum(0)


def text(seed: int, length: int = 5) -> list[int]:
    """Ids of a text."""
    generator = torch.Generator().manual_seed(2000 + seed)
    return torch.randint(10, 90, (length,), generator=generator).tolist()


def stacked(side: int) -> Callable[[list[Video], list[Picture]], dict[str, Any]]:
    """Pixels of hosts that take videos as [videos, frames, 3, side, side]."""

    def pixels(videos: list[Video], pictures: list[Picture]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if videos:
            made["pixel_values_videos"] = torch.stack([noise(v.seed, v.frames, 3, side, side) for v in videos])
        if pictures:
            made["pixel_values"] = torch.stack([noise(p.seed, 1, 3, side, side)[0] for p in pictures])
        return made

    return pixels


def anyres(side: int) -> Callable[[list[Video], list[Picture]], dict[str, Any]]:
    """The same, pictures as tiles [pictures, tiles, 3, side, side] with their sizes: two tiles and the whole."""

    def pixels(videos: list[Video], pictures: list[Picture]) -> dict[str, Any]:
        made = stacked(side)(videos, [])
        if pictures:
            made["pixel_values"] = torch.stack([noise(p.seed, 2, 3, side, side) for p in pictures])
            made["image_sizes"] = torch.tensor([[side, side]] * len(pictures))
        return made

    return pixels


def patches(patch_dim: int, *, merge_sizes: bool) -> Callable[[list[Video], list[Picture]], dict[str, Any]]:
    """Pixels of hosts that take patches and a grid (t, h, w), merged 2 × 2."""

    def one_kind(parts: list[Video], suffix: str, kind: str) -> dict[str, Any]:
        if not parts:
            return {}
        grids = [(v.frames, 2 * v.grid[0], 2 * v.grid[1]) for v in parts]
        rows = [noise(v.seed, t, h * w, patch_dim).flatten(0, 1) for v, (t, h, w) in zip(parts, grids, strict=True)]
        made = {f"pixel_values{suffix}": torch.cat(rows), f"{kind}_grid_thw": torch.tensor(grids)}
        if merge_sizes:
            made[f"{kind}_merge_sizes"] = torch.tensor([2] * len(parts))
        return made

    def pixels(videos: list[Video], pictures: list[Picture]) -> dict[str, Any]:
        still = [Video(1, p.seed, (2, 3)) for p in pictures]
        return {**one_kind(videos, "_videos", "video"), **one_kind(still, "", "image")}

    return pixels


def frames_and_pictures(name: str, rows: tuple[list[Part], ...]) -> dict[str, Any]:
    """Pixels of hosts that see frames as pictures, in the order of the prompt."""
    side = {"internvl": 56, "smolvlm": 32}[name]
    made = []
    for row in rows:
        frames = [noise(part.seed, part.frames, 3, side, side) for part in row if isinstance(part, Video)]
        single = [noise(part.seed, 1, 3, side, side) for part in row if isinstance(part, Picture)]
        order = [part for part in row if not isinstance(part, list)]
        videos, stills = iter(frames), iter(single)
        made.append([next(videos) if isinstance(part, Video) else next(stills) for part in order])
    tensors = [torch.cat(row) for row in made if row]
    if not tensors:
        return {}
    if name == "internvl":
        return {"pixel_values": torch.cat(tensors)}
    longest = max(len(row) for row in tensors)
    filled = [torch.cat(row) if row else torch.zeros(0, 3, side, side) for row in made]
    return {"pixel_values": torch.stack([torch.cat([r, r.new_zeros(longest - len(r), 3, side, side)]) for r in filled])}


def run(count: int, extra: int = 0) -> Callable[[Video], list[int]]:
    """One run of placeholders between markers."""
    return lambda video: [OPEN, *[VIDEO] * (video.frames * count + extra), CLOSE]


def grid_run(video: Video) -> list[int]:
    return [OPEN, *[VIDEO] * (video.frames * video.grid[0] * video.grid[1]), CLOSE]


def stamped(video: Video) -> list[int]:
    """A timestamp before every frame."""
    count = video.grid[0] * video.grid[1]
    frames = [[60 + i % 30, 61, OPEN, *[VIDEO] * count, CLOSE] for i in range(video.frames)]
    return list(chain.from_iterable(frames))


def named_frames(video: Video) -> list[int]:
    """A line of text before every frame, as InternVL and SmolVLM write it."""
    frames = [[70, 71, 60 + i % 30, 72, 73, OPEN, *[IMAGE] * PATCHES, CLOSE] for i in range(video.frames)]
    return list(chain.from_iterable(frames))


def picture_run(count: int) -> Callable[[Picture], list[int]]:
    return lambda picture: [OPEN, *[IMAGE] * count, CLOSE]


def llava_onevision() -> Any:
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 56, "patch_size": 7},
        text_config={"model_type": "qwen2", **TEXT},
        **TOKENS,
        image_grid_pinpoints=[[56, 56]],
        vision_feature_layer=-1,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def llava_next_video() -> Any:
    config = transformers.LlavaNextVideoConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 56, "patch_size": 7},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[56, 56]],
        vision_feature_layer=-1,
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config)


def video_llava() -> Any:
    config = transformers.VideoLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 28, "patch_size": 7},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-1,
    )
    return transformers.VideoLlavaForConditionalGeneration(config)


def qwen2_5_vl() -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "out_hidden_size": WIDTH,
        "tokens_per_second": 2,
    }
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE}, **TOKENS, tie_word_embeddings=False
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl() -> Any:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {**MROPE, "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": rope}, **TOKENS, tie_word_embeddings=False
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def internvl() -> Any:
    vision = {"model_type": "internvl_vision", **VISION, "image_size": [56, 56], "patch_size": [7, 7]}
    config = transformers.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **TEXT}, image_token_id=IMAGE
    )
    return transformers.InternVLForConditionalGeneration(config)


def smolvlm() -> Any:
    config = transformers.SmolVLMConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 4},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    return transformers.SmolVLMForConditionalGeneration(config)


def video_llama3() -> Any:
    config = transformers.VideoLlama3Config(
        vision_config={**VISION, "patch_size": 4}, text_config={"model_type": "qwen2", **TEXT}, **TOKENS
    )
    return transformers.VideoLlama3ForConditionalGeneration(config)


HOSTS = {
    host.name: host
    for host in (
        Tiny("llava_onevision", llava_onevision, anyres(56), run(PATCHES, 1), picture_run(64 + 64 + 8)),
        Tiny("llava_next_video", llava_next_video, anyres(56), run(PATCHES), picture_run(64 + 64 + 8)),
        Tiny("video_llava", video_llava, stacked(28), run(PATCHES + 1), picture_run(PATCHES)),
        Tiny(
            "qwen2_5_vl", qwen2_5_vl, patches(96, merge_sizes=False), grid_run, picture_run(6), ragged=True, types=True
        ),
        Tiny("qwen3_vl", qwen3_vl, patches(96, merge_sizes=False), stamped, picture_run(6), ragged=True, types=True),
        Tiny("internvl", internvl, stacked(56), named_frames, picture_run(PATCHES), IMAGE, ragged=True),
        Tiny("smolvlm", smolvlm, stacked(32), named_frames, picture_run(PATCHES), IMAGE, ragged=True),
        Tiny("video_llama_3", video_llama3, patches(48, merge_sizes=True), stamped, picture_run(6), ragged=True),
    )
}
