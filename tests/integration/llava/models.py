"""The stand-ins as tests take them: of any mode, with or without a connector."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from dynfocus_llava import LlamaVidMixin, LlavaNextMixin
from tests.integration.llava.common import config
from tests.integration.llava.llama_vid_host import LlamaVid
from tests.integration.llava.llava_next_host import LlavaNext
from tests.integration.llava.prompts import Picture, Video, pixels

MODES = {
    "flat": ("flat", "one_token"),
    "spatial, one_token": ("spatial", "one_token"),
    "spatial, no_token": ("spatial", "no_token"),
    "unpad, grid": ("spatial_unpad", "grid"),
    "unpad, frame": ("spatial_unpad", "frame"),
    "unpad, one_token": ("spatial_unpad", "one_token"),
    "unpad, no_token": ("spatial_unpad", "no_token"),
}


class NextMixed(LlavaNextMixin, LlavaNext):
    pass


class VidMixed(LlamaVidMixin, LlamaVid):
    pass


def next_host(mode: str = "unpad, one_token", **changes: Any) -> LlavaNext:
    torch.manual_seed(3)
    merge, newline = MODES[mode]
    return LlavaNext(config(mm_patch_merge_type=merge, mm_newline_position=newline, **changes)).eval()


def vid_host(**changes: Any) -> LlamaVid:
    torch.manual_seed(3)
    values = {"compress_type": None, "mm_vision_select_feature": "patch", **changes}
    return LlamaVid(config(**values)).eval()


def mixed(plain: Any, connector: Any = "training-free", **settings: Any) -> Any:
    """A copy with a connector."""
    model = copy.deepcopy(plain)
    model.__class__ = NextMixed if isinstance(plain, LlavaNext) else VidMixed
    return model.use_connector(connector, **settings)


def prepared(model: Any, inputs: dict[str, Any]) -> tuple[Any, ...]:
    """What LLaVA-NeXT hands to its language model."""
    names = "input_ids", "position_ids", "attention_mask", "past_key_values", "labels", "images", "modalities"
    return model.prepare_inputs_labels_for_multimodal(*[inputs.get(name) for name in names])


def encode(model: Any, images: list[Video | Picture], prompts: list[list[str]]) -> list[list[Tensor]]:
    """LLaMA-VID's tokens, per sample and prompt."""
    clips = [pixels(image) for image in images]
    return model.encode_images(torch.cat(clips), prompts, [len(clip) for clip in clips])
