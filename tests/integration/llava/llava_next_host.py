"""A small stand-in for LLaVA-NeXT: the same methods, arguments and order of calls, written from what they do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from tests.integration.llava.common import CACHE, IGNORE, PLACEHOLDER, VISION, WIDTH, Piece, Tower, joined


class IdentityMap(nn.Module):
    """What lies at vision_resampler when nobody asked for one."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


class NextModel(LlamaModel):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.vision_tower = Tower()
        self.vision_resampler = IdentityMap()
        self.mm_projector = nn.Linear(VISION, WIDTH)
        if "unpad" in config.mm_patch_merge_type:
            self.image_newline = nn.Parameter(torch.randn(WIDTH))

    def get_vision_tower(self) -> Tower:
        return self.vision_tower


class NextForCausalLM:
    """The multimodal half of a LLaVA-NeXT model."""

    def get_vision_tower(self) -> Tower:
        return self.get_model().get_vision_tower()

    def encode_images(self, images: Tensor) -> Tensor:
        return self.get_model().mm_projector(self.get_model().get_vision_tower()(images))

    def get_2dPool(self, image_feature: Tensor, stride: int = 2) -> Tensor:
        frames, _, width = image_feature.shape
        side = self.get_vision_tower().num_patches_per_side
        grid = image_feature.view(frames, side, side, -1).permute(0, 3, 1, 2).contiguous()
        if self.config.mm_spatial_pool_mode == "average":
            grid = nn.functional.avg_pool2d(grid, stride)
        else:
            size = [math.ceil(side / stride)] * 2
            grid = nn.functional.interpolate(grid, size=size, mode="bilinear")
        return grid.permute(0, 2, 3, 1).reshape(frames, -1, width)

    def add_token_per_grid(self, image_feature: Tensor) -> Tensor:
        frames, patches, width = image_feature.shape
        side = math.isqrt(patches)
        rows = image_feature.reshape(frames * side, side, width)
        newline = self.model.image_newline.expand(len(rows), 1, width)
        return torch.cat([rows, newline], 1).flatten(0, 1)

    def add_token_per_frame(self, image_feature: Tensor) -> Tensor:
        newline = self.model.image_newline.expand(len(image_feature), 1, -1)
        return torch.cat([image_feature, newline], 1)

    def close_video(self, feature: Tensor, merge: str) -> Tensor:
        position = getattr(self.config, "mm_newline_position", "one_token")
        if position == "grid":
            return self.add_token_per_grid(feature)
        if position == "frame":
            return self.add_token_per_frame(feature).flatten(0, 1)
        rows = feature.flatten(0, 1)
        if position == "one_token" and "unpad" in merge:
            rows = torch.cat([rows, self.model.image_newline[None]])
        return rows

    def visual_rows(self, images: list[Tensor], modalities: list[str]) -> list[Tensor]:
        images = [image[None] if image.ndim == 3 else image for image in images]
        videos = [number for number, modality in enumerate(modalities) if modality == "video"]
        encoded = torch.split(self.encode_images(torch.cat(images)), [len(image) for image in images])
        features = [self.get_2dPool(one) if number in videos else one for number, one in enumerate(encoded)]
        merge = self.config.mm_patch_merge_type
        if merge == "flat":
            return [feature.flatten(0, 1) for feature in features]
        rows = []
        for number, feature in enumerate(features):
            if number in videos:
                rows.append(self.close_video(feature, merge))
            elif "unpad" in merge:
                rows.append(torch.cat([feature[0], self.model.image_newline[None]]))
            else:
                rows.append(feature[0])
        return rows

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Any,
        modalities: Any = ("image",),
        image_sizes: Any = None,
    ) -> tuple[Any, ...]:
        if images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        modalities = [modalities] if isinstance(modalities, str) else modalities
        if isinstance(images, list):
            visual = self.visual_rows(images, modalities)
        else:
            visual = list(self.encode_images(images))
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        known = torch.full_like(input_ids, IGNORE) if labels is None else labels
        rows = []
        for ids, own, real in zip(input_ids, known, mask, strict=True):
            rows.append(self.spliced(ids[real], own[real], visual))
        limit = getattr(self.config, "tokenizer_model_max_length", None)
        left = getattr(self.config, "tokenizer_padding_side", "right") == "left"
        embeds, new_labels, new_mask = joined(rows, limit, left)
        new_labels = None if labels is None else new_labels.long()
        new_mask = None if attention_mask is None else new_mask.to(attention_mask.dtype)
        return None, None, new_mask, past_key_values, embeds, new_labels

    def spliced(self, ids: Tensor, labels: Tensor, visual: list[Tensor]) -> list[Piece]:
        """Takes from the front of `visual`; a prompt without placeholders takes one and uses none of it."""
        places = (ids == PLACEHOLDER).nonzero()[:, 0].tolist()
        embed = self.get_model().embed_tokens
        if not places:
            return [Piece(torch.cat([embed(ids), visual.pop(0)[0:0]]), labels)]
        pieces = []
        for start, end in zip([-1, *places], [*places, len(ids)], strict=True):
            pieces.append(Piece(embed(ids[start + 1 : end]), labels[start + 1 : end]))
            if end < len(ids):
                rows = visual.pop(0)
                pieces.append(Piece(rows, labels.new_full((len(rows),), IGNORE)))
        return pieces


class LlavaNext(LlamaForCausalLM, NextForCausalLM):
    def __init__(self, config: LlamaConfig) -> None:
        LlamaForCausalLM.__init__(self, config)
        self.model = NextModel(config)
        self.post_init()

    def get_model(self) -> NextModel:
        return self.model

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        images: Any = None,
        modalities: Any = ("image",),
        **options: Any,
    ) -> Any:
        past_key_values = options.pop(CACHE, None)
        if inputs_embeds is None:
            (input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels) = (
                self.prepare_inputs_labels_for_multimodal(
                    input_ids, position_ids, attention_mask, past_key_values, labels, images, modalities, None
                )
            )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            **{CACHE: past_key_values},
            **options,
        )

    @torch.no_grad()
    def generate(self, inputs: Any = None, images: Any = None, modalities: Any = ("image",), **options: Any) -> Any:
        mask = options.pop("attention_mask", None)
        (_, _, mask, _, embeds, _) = self.prepare_inputs_labels_for_multimodal(
            inputs, None, mask, None, None, images, modalities, image_sizes=None
        )
        return super().generate(attention_mask=mask, inputs_embeds=embeds, **options)
