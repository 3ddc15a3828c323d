"""The hosts: what is special about each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from dynfocus_transformers.adapters import Batch, HostAdapter, Visual, register_host, square, thw

FEATURE_CHOICE = ("vision_feature_layer", "vision_feature_select_strategy")


@register_host
class LlavaOnevision(HostAdapter):
    """Square frames, one newline token at the end of each video."""

    model_type = "llava_onevision"
    video_keys = ("pixel_values_videos", *FEATURE_CHOICE)
    image_keys = ("pixel_values", "image_sizes", "batch_num_images", "vision_aspect_ratio", *FEATURE_CHOICE)
    other_keys = ("image_sizes_videos",)

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        frames = batch["pixel_values_videos"].shape[1]
        return [Visual(rows, frames, square(len(rows) - 1, frames)) for rows in output.pooler_output]


@register_host
class LlavaNextVideo(HostAdapter):
    """Square frames, nothing else."""

    model_type = "llava_next_video"
    oldest = "5.21"
    video_keys = ("pixel_values_videos", *FEATURE_CHOICE)
    image_keys = ("pixel_values", "image_sizes", *FEATURE_CHOICE)
    ends = "answers"

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        frames = batch["pixel_values_videos"].shape[1]
        return [Visual(rows, frames, square(len(rows), frames)) for rows in output.pooler_output]


@register_host
class VideoLlava(HostAdapter):
    """Square frames with a class token each; the encoder returns frames, not videos."""

    model_type = "video_llava"
    oldest = "5.21"
    video_keys = ("pixel_values_videos", "vision_feature_layer")
    image_keys = ("pixel_values", *FEATURE_CHOICE)
    ends = "answers"

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        videos, frames = batch["pixel_values_videos"].shape[:2]
        rows = output.pooler_output.unflatten(0, (videos, frames))
        grid = square(rows.shape[2] - 1, 1)
        return [Visual(video.flatten(0, 1), frames, grid, class_tokens=1) for video in rows]


@register_host
class Qwen2_5_VL(HostAdapter):
    """Any grid, merged 2 × 2 in the tower; M-RoPE."""

    model_type = "qwen2_5_vl"
    video_keys = ("pixel_values_videos", "video_grid_thw")
    image_keys = ("pixel_values", "image_grid_thw")
    other_keys = ("second_per_grid_ts",)

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        grids = thw(batch["video_grid_thw"], self.config.vision_config.spatial_merge_size)
        return [Visual(rows, *grid) for rows, grid in zip(output.pooler_output, grids, strict=True)]


@register_host
class Qwen3VL(Qwen2_5_VL):
    """As Qwen2.5-VL, with timestamps between frames, and features for the first layers of the language model."""

    model_type = "qwen3_vl"
    takes_encoder_outputs = True

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        levels = zip(*output.deepstack_features, strict=True)
        pairs = zip(super().visuals(output, batch), levels, strict=True)
        return [visual._replace(levels=tuple(level)) for visual, level in pairs]


@register_host
class VideoLlama3(HostAdapter):
    """Any grid; its own pruner must be off."""

    model_type = "video_llama_3"
    video_keys = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
    image_keys = ("pixel_values", "image_grid_thw", "image_merge_sizes")
    other_keys = ("video_compression_mask",)
    processor_options: ClassVar[Mapping[str, Any]] = {"use_token_compression": False}

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        mask = batch.get("video_compression_mask")
        if mask is not None and not bool(mask.all()):
            raise ValueError(
                f"compress_batch: expected all {mask.numel()} tokens of the video, got a video_compression_mask that "
                f"drops {int((~mask.bool()).sum())}. Call the processor with use_token_compression=False."
            )
        grids = thw(batch["video_grid_thw"], batch["video_merge_sizes"])
        return [Visual(rows, *grid) for rows, grid in zip(output.pooler_output, grids, strict=True)]


class FramesAsPictures(HostAdapter):
    """Hosts that see a video as pictures with a line of text before each."""

    modality = "image"
    image_keys = ()
    gap = (6, 32)
    """how many tokens lie between the placeholders of two frames; tiles and pictures lie closer"""

    def encode(self, batch: Batch) -> Any:
        keys = {key: batch[key] for key in self.video_keys if batch.get(key) is not None}
        return self.core.get_image_features(**keys, return_dict=True)

    def frames(self, output: Any) -> Tensor:
        """All pictures of the batch: [pictures, tokens, dim]."""
        return output.pooler_output

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        pictures = self.frames(output)
        count, tokens = pictures.shape[:2]
        owner = batch.get("dynfocus_videos")
        slots = (batch["input_ids"] == self.placeholder).flatten().nonzero().flatten()
        if owner is None and slots.numel() == count * tokens:
            owner = self.chains(slots.view(count, tokens), batch["input_ids"].shape[1]).tolist()
        owner = [-1] * count if owner is None else owner
        if len(owner) != count:
            raise ValueError(f"compress_batch: expected dynfocus_videos for {count} pictures, got {len(owner)}.")
        return [self.visual(pictures[run], video) for run, video in runs(owner)]

    @staticmethod
    def visual(pictures: Tensor, video: int) -> Visual:
        if video < 0:
            return Visual(pictures.flatten(0, 1))
        return Visual(pictures.flatten(0, 1), len(pictures), square(pictures.shape[1], 1))

    def chains(self, slots: Int[Tensor, "pictures tokens"], length: int) -> Int[Tensor, " pictures"]:
        """Which video every picture belongs to, -1 for none: frames follow each other at the distance of a line."""
        first, last = slots[:, 0], slots[:, -1]
        whole = last - first == slots.shape[1] - 1
        between = first[1:] - last[:-1] - 1
        linked = (between >= self.gap[0]) & (between <= self.gap[1]) & (first[1:] // length == last[:-1] // length)
        linked = linked & whole[1:] & whole[:-1]
        edge = linked.new_zeros(1)
        starts = torch.cat([edge, linked]).logical_not()
        part = torch.cat([edge, linked]) | torch.cat([linked, edge])
        return torch.where(part, starts.cumsum(0), -1)


def runs(owner: list[int]) -> list[tuple[slice, int]]:
    """Neighbours of one video together, pictures one by one."""
    found: list[tuple[slice, int]] = []
    for index, video in enumerate(owner):
        if found and video >= 0 and found[-1][1] == video:
            found[-1] = (slice(found[-1][0].start, index + 1), video)
        else:
            found.append((slice(index, index + 1), video))
    return found


@register_host
class InternVL(FramesAsPictures):
    """`Frame1: <img>…</img>`."""

    model_type = "internvl"
    video_keys = ("pixel_values", *FEATURE_CHOICE)


@register_host
class SmolVLM(FramesAsPictures):
    """`Frame from 00:01:` before every frame."""

    model_type = "smolvlm"
    video_keys = ("pixel_values", "pixel_attention_mask")
    pictures_beside_videos = False

    def frames(self, output: Any) -> Tensor:
        rows = torch.cat(list(output.pooler_output))
        return rows.unflatten(0, (-1, self.core.image_seq_len))
