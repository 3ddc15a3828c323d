"""Hosts with random weights for hosts_pay.py: two of published shape, one whose parts are as large as a CPU bears, and
two made small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

VIDEO, IMAGE, END = 100, 101, 2
QUESTION = 24
"""words before the video, and again behind it"""


@dataclass(frozen=True)
class Shape:
    """One host: `grid` patches per side of a frame, merged 2 × 2 into tokens."""

    name: str
    family: Callable[[Shape], Any]
    text: dict[str, Any]
    vision: dict[str, Any]
    grid: int
    patch: int
    heavy: bool = False
    """so slow on a CPU that only single requests are run there"""

    @property
    def tokens(self) -> int:
        """Of a frame; Qwen makes one frame of two."""
        return (-(-self.grid // 2)) ** 2

    def build(self, device: str, dtype: torch.dtype) -> Any:
        """The host, on its device from the start."""
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model = transformers.AutoModelForImageTextToText.from_config(self.family(self), dtype=dtype)
        finally:
            torch.set_default_dtype(torch.float32)
        model.generation_config.pad_token_id = 0
        model.generation_config.eos_token_id = None
        return model.eval()

    def batch(self, frames: int, requests: int, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a processor returns for so many prompts with a video each: scenes of 16 frames, and noise."""
        qwen = self.family is qwen2_5_vl
        steps = frames // 2 if qwen else frames
        torch.manual_seed(frames)
        size = (self.grid**2, 6 * self.patch**2) if qwen else (3, self.grid * self.patch, self.grid * self.patch)
        scenes = torch.randn(requests, -(-frames // 16), *size, device=device, dtype=dtype)
        pixels = scenes.repeat_interleave(8 if qwen else 16, 1)[:, :steps]
        pixels = pixels + 0.3 * torch.randn(requests, steps, *size, device=device, dtype=dtype)
        words = torch.randint(200, 1000, (requests, QUESTION), device=device)
        slots = torch.full((requests, steps * self.tokens + (not qwen)), VIDEO, device=device)
        ids = torch.cat([words, slots, words], 1)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not qwen:
            return {**batch, "pixel_values_videos": pixels}
        grids = torch.tensor([[steps, self.grid, self.grid]] * requests, device=device)
        types = 2 * (ids == VIDEO).int()
        flat = {"pixel_values_videos": pixels.flatten(0, 2), "video_grid_thw": grids, "mm_token_type_ids": types}
        return {**batch, **flat}


def llava_onevision(shape: Shape) -> Any:
    """SigLIP, 2 × 2 pooling, Qwen2."""
    side = shape.grid * shape.patch
    vision = {"model_type": "siglip_vision_model", "image_size": side, "patch_size": shape.patch, **shape.vision}
    return transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", **shape.text},
        video_token_id=VIDEO,
        image_token_id=IMAGE,
        image_grid_pinpoints=[[side, side]],
        vision_feature_layer=-1,
    )


def qwen2_5_vl(shape: Shape) -> Any:
    """A tower with windows that merges 2 × 2, Qwen2 with M-RoPE."""
    half = shape.text["hidden_size"] // shape.text["num_attention_heads"] // 2
    sections = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
    window = {"window_size": 8 * shape.patch, "patch_size": shape.patch, "out_hidden_size": shape.text["hidden_size"]}
    return transformers.Qwen2_5_VLConfig(
        vision_config={**window, **shape.vision},
        text_config={"rope_parameters": rope, **shape.text},
        video_token_id=VIDEO,
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )


def text(width: int, inner: int, layers: int, heads: int, vocabulary: int, shared: int = 4) -> dict[str, Any]:
    """Qwen2's way, with `shared` key-value heads."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocabulary}
    heads_of = {"num_attention_heads": heads, "num_key_value_heads": shared}
    return {**sizes, **heads_of, "max_position_embeddings": 131072, "eos_token_id": END, "bos_token_id": 1}


def siglip(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """Sizes of SigLIP."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads}


def tower(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """Sizes of Qwen's tower; every fourth layer and the last sees everything."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "depth": layers, "num_heads": heads}
    return {
        **sizes,
        "fullatt_block_indexes": sorted({*range(layers // 4 - 1, layers, max(layers // 4, 1)), layers - 1}),
    }


QWEN2_7B = text(3584, 18944, 28, 28, 152064)
QWEN2_HALF = text(896, 4864, 24, 14, 151936, shared=2)
QWEN2_SMALL = text(256, 1024, 4, 8, 2048)
FULL = (
    Shape("LLaVA-OneVision-7B", llava_onevision, QWEN2_7B, siglip(1152, 4304, 26, 16), 27, 14),
    Shape("Qwen2.5-VL-7B", qwen2_5_vl, QWEN2_7B, tower(1280, 3420, 32, 16), 28, 14),
)
SMALL = (
    Shape("LLaVA-OneVision, 0.5B", llava_onevision, QWEN2_HALF, siglip(768, 3072, 12, 12), 14, 16, heavy=True),
    Shape("LLaVA-OneVision, small", llava_onevision, QWEN2_SMALL, siglip(96, 384, 3, 4), 14, 4),
    Shape("Qwen2.5-VL, small", qwen2_5_vl, QWEN2_SMALL, tower(96, 384, 4, 4), 14, 4),
)
