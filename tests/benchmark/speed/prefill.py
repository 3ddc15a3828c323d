"""The end of the chain: what a language model pays for the tokens before and after, in time and in memory."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any, NamedTuple

import torch

from dynfocus_connector import DynFocusConfig, build_connector
from tests.benchmark.speed.clock import Clock

PATCHES = 256
LAYERS = 2
FRAMES, LONGEST = (4, 8, 16, 32, 64, 256, 1024), 4096


class Shape(NamedTuple):
    """What decides the memory of keys and values."""

    layers: int
    key_value_heads: int
    head_dim: int

    def cache_bytes(self, tokens: int, bytes_per_number: int = 2) -> int:
        """Keys and values of every layer, in bfloat16."""
        return 2 * self.layers * self.key_value_heads * self.head_dim * tokens * bytes_per_number


SHAPES = {
    "Qwen2-0.5B": Shape(24, 2, 64),
    "Qwen2-7B": Shape(28, 4, 128),
    "Vicuna-7B": Shape(32, 32, 128),
}


def tokens_after(frames: int) -> int:
    """Of the paper's preset."""
    return build_connector(DynFocusConfig.paper(), device="meta").num_tokens(frames, PATCHES)


def small_qwen(device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The first `LAYERS` layers of a model shaped like Qwen2-0.5B, with random weights and no vocabulary."""
    from transformers import Qwen2Config, Qwen2Model

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=LAYERS,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=2**18,
    )
    return Qwen2Model(config).to(device, dtype).eval()


def measure_prefill(
    device: torch.device, dtype: torch.dtype, clock: Clock, frames: tuple[int, ...], longest: int
) -> list[dict[str, Any]]:
    """For each T the tokens, the prefill (median of 3, both in turn) and the cache, before and after.

    Sequences of more than `longest` tokens are counted, not run.
    """
    model = small_qwen(device, dtype)
    return [_row(model, clock, length, longest) for length in frames]


@torch.no_grad()
def _row(model: torch.nn.Module, clock: Clock, frames: int, longest: int) -> dict[str, Any]:
    counts = {"before": frames * PATCHES, "after": tokens_after(frames)}
    weight = next(model.parameters())
    inputs = {
        name: torch.randn(1, count, 896, device=weight.device, dtype=weight.dtype)
        for name, count in counts.items()
        if count <= longest
    }
    times: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(3):
        for name, embeds in inputs.items():
            times[name].append(clock(partial(model, inputs_embeds=embeds, use_cache=False)))
    return {
        "frames": frames,
        "tokens": counts,
        "prefill": {name: statistics.median(seconds) for name, seconds in times.items()},
        "cache_bytes": {
            shape: {name: SHAPES[shape].cache_bytes(count) for name, count in counts.items()} for shape in SHAPES
        },
    }
