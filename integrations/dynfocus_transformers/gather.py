"""One list of indices that rewrites everything of a prompt's length."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PER_TOKEN = ("input_ids", "labels", "mm_token_type_ids", "token_type_ids")
FILL = {"labels": -100}


class Gather(NamedTuple):
    """Where every place of the new sequences comes from."""

    origin: Int[Tensor, "batch short"]
    real: Bool[Tensor, "batch short"]
    """the attention mask of the new sequences"""
    stale: Bool[Tensor, "batch short"]
    """padding that was a token before"""
    kept: Bool[Tensor, "batch long"]
    dropped: Int[Tensor, " batch"]
    """how many tokens each row lost"""

    def take(self, values: Tensor, fill: int | None = None) -> Tensor:
        """The same places of any tensor whose last axis is the sequence, with or without a batch before it."""
        index = self.origin.expand(*values.shape[:-2], *self.origin.shape) if values.ndim > 2 else self.origin
        values = values.expand(*values.shape[:-2], len(self.origin), values.shape[-1])
        taken = values.gather(-1, index)
        return taken if fill is None else taken.masked_fill(self.stale, fill)


def plan_gather(
    kept: Bool[Tensor, "batch long"], attention_mask: Int[Tensor, "batch long"] | None, left: bool
) -> Gather:
    """Close the gaps; padding stays on its side and is no longer than before.

    Args:
        kept: False for tokens that go.
        attention_mask: 0 for padding.
        left: The side for padding where the input has none.
    """
    real = torch.ones_like(kept) if attention_mask is None else attention_mask.bool()
    staying = kept & real
    length = kept.shape[1] - int((real.sum(1).max() - staying.sum(1).max()).clamp(min=0))
    if not bool(real.all()):
        left = bool((~real[:, 0]).any())
    if bool((staying == real).all()):
        index = torch.arange(length, device=kept.device).expand_as(kept)
    else:
        order = torch.argsort((staying if left else ~staying).to(torch.uint8), dim=1, stable=True)
        index = order[:, -length:] if left else order[:, :length]
    mask = staying.gather(1, index)
    stale = real.gather(1, index) & ~mask
    return Gather(index, mask, stale, staying, (real & ~staying).sum(1))


def gather_batch(batch: dict[str, Any], plan: Gather, pad: int) -> dict[str, Any]:
    """The batch on its new length."""
    short = dict(batch)
    for key in PER_TOKEN:
        if batch.get(key) is not None:
            short[key] = plan.take(batch[key], FILL.get(key, pad if key == "input_ids" else 0))
    if batch.get("attention_mask") is not None:
        short["attention_mask"] = plan.take(batch["attention_mask"], 0)
    elif bool(plan.stale.any()):
        short["attention_mask"] = plan.real.long()
    if batch.get("position_ids") is not None:
        short["position_ids"] = plan.take(batch["position_ids"])
    return short


def spread(logits: Tensor, plan: Gather) -> Tensor:
    """Logits at the places of the uncompressed prompt: a place that went repeats the one before it.

    So the logits before a label are those the model predicted it from.
    """
    place = torch.zeros_like(plan.kept, dtype=torch.long)
    places = torch.arange(plan.origin.shape[1], device=plan.origin.device).expand_as(plan.origin)
    place = place.scatter(1, plan.origin, torch.where(plan.stale, 0, places))
    known = torch.zeros_like(plan.kept).scatter(1, plan.origin, ~plan.stale)
    column = torch.arange(plan.kept.shape[1], device=place.device).expand_as(place)
    last = torch.where(known, column, 0).cummax(1).values
    source = place.gather(1, last)
    return logits.gather(1, source[..., None].expand(-1, -1, logits.shape[-1]))
