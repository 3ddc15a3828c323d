"""The question of a conversation, without its answer."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dynfocus_transformers.adapters import Batch, HostAdapter
from dynfocus_transformers.settings import Settings


def question_ids(
    adapter: HostAdapter, batch: Batch, settings: Settings, row: int, after: int
) -> Int[Tensor, " question"]:
    """The ids of the question that a video of one prompt is asked.

    Text behind the video, split into turns: by labels where there are any (tokens with a label are answers), else at
    the end-of-sequence tokens of the host's chat format.

    Args:
        adapter: The host.
        batch: Its inputs.
        settings: `question`, `question_mask`.
        row: The prompt.
        after: The place of the video's last placeholder.
    """
    ids = batch["input_ids"][row]
    if settings.question_mask is not None:
        return ids[settings.question_mask[row].bool()]
    if settings.question == "none":
        return ids[:0]
    text = text_mask(adapter, batch, row)
    labels = batch.get("labels")
    if labels is None:
        ends = torch.isin(ids, torch.tensor(end_ids(adapter.model), device=ids.device, dtype=ids.dtype))
        parts = spans(text, ends)
    else:
        parts = spans(text, labels[row] != -100)
    behind = [part[part > after] for part in parts]
    behind = [part for part in behind if len(part)] or [part for part in parts if len(part)]
    if labels is None and adapter.ends == "turns":
        behind = behind[::2]
    if not behind:
        return ids[:0]
    return ids[behind[-1 if settings.question == "last" else 0]]


def text_mask(adapter: HostAdapter, batch: Batch, row: int) -> Bool[Tensor, " tokens"]:
    """Real tokens that stand for no picture and no video."""
    ids = batch["input_ids"][row]
    text = (ids != adapter.placeholder) & (ids != adapter.picture_placeholder)
    mask = batch.get("attention_mask")
    return text if mask is None else text & mask[row].bool()


def spans(wanted: Bool[Tensor, " tokens"], cut: Bool[Tensor, " tokens"]) -> list[Int[Tensor, " span"]]:
    """Places of `wanted` tokens, in groups that a token of `cut` divides; it belongs to none."""
    groups: list[list[int]] = [[]]
    for place, (want, stop) in enumerate(zip(wanted.tolist(), cut.tolist(), strict=True)):
        if stop:
            groups.append([])
        elif want:
            groups[-1].append(place)
    return [torch.tensor(group, dtype=torch.long, device=wanted.device) for group in groups if group]


def end_ids(model: Any) -> list[int]:
    """The end-of-sequence ids that generation stops at."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
