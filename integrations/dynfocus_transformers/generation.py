"""`generate` of a host with a connector."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dynfocus_transformers.adapters import Batch, HostAdapter, adapter_for
from dynfocus_transformers.caches import CACHE, cache_given, is_filled
from dynfocus_transformers.checks import check_prompt
from dynfocus_transformers.compress import compress
from dynfocus_transformers.gather import Gather, gather_batch, plan_gather

MEMORY = "dynfocus_kept"


@torch.no_grad()
def generate_compressed(
    model: Any,
    host_generate: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    call: Mapping[str, Any] | None,
) -> Any:
    """Compress once, then the host's own generate; the prompt in front of the result is the one that came in."""
    if args:
        kwargs = {**dict(zip(inspect.signature(host_generate).parameters, args, strict=False)), **kwargs}
    if kwargs.get("input_ids") is None and kwargs.get("inputs") is not None:
        kwargs["input_ids"] = kwargs.pop("inputs")
    adapter = adapter_for(model)
    cache = cache_given(kwargs)
    cached = is_filled(cache)
    if cached and getattr(cache, MEMORY, None) is not None:
        inputs, gather = resume(adapter, kwargs, cache, call)
    elif adapter.has_video(kwargs):
        inputs, gather = begin(model, adapter, kwargs, cached, call)
    else:
        return host_generate(**kwargs)
    result = host_generate(**lengths(model, inputs, kwargs["input_ids"].shape[1] - gather.origin.shape[1]))
    remember(getattr(result, CACHE, None) if cache is None else cache, gather)
    return with_prompt(result, kwargs["input_ids"], gather.origin.shape[1])


def begin(
    model: Any, adapter: HostAdapter, kwargs: Batch, cached: bool, call: Mapping[str, Any] | None
) -> tuple[Batch, Gather]:
    """A new prompt."""
    if cached:
        raise ValueError(
            "generate: expected the cache from generate(..., return_dict_in_generate=True) of this model, got "
            "one that does not say which video tokens it holds."
        )
    chunk = getattr(kwargs.get("generation_config"), "prefill_chunk_size", None) or kwargs.get("prefill_chunk_size")
    if chunk and not adapter.takes_encoder_outputs:
        raise NotImplementedError(
            f"generate: expected no prefill_chunk_size with inputs_embeds, which hosts of type {adapter.model_type} "
            f"take their compressed videos in, got {chunk}."
        )
    settings = model.dynfocus_settings.changed(call)
    done = compress(adapter, model.dynfocus, kwargs, settings, left=True, memory=model.dynfocus_memory)
    model.dynfocus_report = done.report
    return done.inputs, done.gather


def resume(adapter: HostAdapter, kwargs: Batch, cache: Any, call: Mapping[str, Any] | None) -> tuple[Batch, Gather]:
    """A longer prompt whose beginning is cached: the cached video tokens stay what they are."""
    if call and call.get("question") == "last":
        raise ValueError(
            "generate: expected question 'first' or 'none' with a cached prefix, got 'last': other video tokens would "
            "invalidate the cache. Drop the cache to ask anew."
        )
    check_prompt(kwargs)
    known = getattr(cache, MEMORY)
    ids = kwargs["input_ids"]
    kept = torch.ones_like(ids, dtype=torch.bool)
    kept[:, : known.shape[1]] = known
    mask = kwargs.get("attention_mask")
    gather = plan_gather(kept | (False if mask is None else ~mask.bool()), mask, left=True)
    batch = dict(kwargs)
    positions = adapter.positions(batch)
    if positions is not None:
        batch["position_ids"] = positions[0]
    short = gather_batch(batch, gather, 0)
    for key in (*adapter.video_keys, *adapter.image_keys, *adapter.other_keys, "image_grid_thw", "video_grid_thw"):
        short.pop(key, None)
    return short, gather


def remember(cache: Any | None, gather: Gather) -> None:
    """Note in a cache that outlives the call which tokens of the prompt it holds."""
    if cache is not None and not isinstance(cache, tuple):
        setattr(cache, MEMORY, gather.kept)


def lengths(model: Any, inputs: Batch, dropped: int) -> Batch:
    """Total lengths count the prompt that came in, not the shorter one."""
    config = inputs.get("generation_config")
    if config is not None and dropped:
        config = copy.deepcopy(config)
        for name in ("max_length", "min_length"):
            if getattr(config, name, None):
                setattr(config, name, max(getattr(config, name) - dropped, 1))
        inputs["generation_config"] = config
    for name in ("max_length", "min_length"):
        if inputs.get(name):
            inputs[name] = max(inputs[name] - dropped, 1)
    return inputs


def with_prompt(result: Any, prompt: Tensor, short: int) -> Any:
    """The generated tokens behind the prompt that came in."""
    sequences = result if isinstance(result, Tensor) else result.sequences
    front = prompt.repeat_interleave(len(sequences) // len(prompt), dim=0).to(sequences.device)
    whole = torch.cat([front, sequences[:, short:]], dim=1)
    if isinstance(result, Tensor):
        return whole
    result.sequences = whole
    return result
