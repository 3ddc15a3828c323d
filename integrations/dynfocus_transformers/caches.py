"""The key-value cache of a host, under both of its names: `cache` since transformers 5.24, `past_key_values` before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers.generation.utils import GenerateDecoderOnlyOutput

OUTPUTS = {part.name for part in dataclasses.fields(GenerateDecoderOnlyOutput)}
CACHE = "cache" if "cache" in OUTPUTS else "past_key_values"
"""what the installed transformers calls it"""


def cache_given(kwargs: Mapping[str, Any]) -> Any | None:
    """The cache among the arguments of a call, by either name."""
    found = kwargs.get("cache")
    return kwargs.get("past_key_values") if found is None else found


def is_filled(cache: Any | None) -> bool:
    """Whether anything is cached."""
    return cache is not None and cache.get_seq_length() > 0
