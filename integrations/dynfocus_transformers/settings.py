"""What a user may choose when attaching, and again at every call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from dynfocus_connector import DynFocusConfig, DynFocusConnector, TokenBudget, build_connector

Question = Literal["last", "first", "none"]
SUBFOLDER = "dynfocus"


@dataclass(frozen=True)
class Settings:
    """How videos are compressed.

    Args:
        max_tokens: The most tokens per video.
        ratio: The same as a share of the video's tokens; with neither the connector's own L and r hold.
        question: Which question of a conversation the connector sees.
        when_short: As in `TokenBudget`.
        expand_logits: With labels, in evaluation, logits come back at the places of the uncompressed prompt.
        videos: For hosts that see frames as pictures: the video of every picture of the batch, -1 for none. Found by
            the distance between the placeholders when not given.
        question_mask: The question's tokens in input_ids, where the rule of `question` does not find them.
        keep_merging: The report keeps which patches became one object prototype, for the pictures of its page.
    """

    max_tokens: int | None = None
    ratio: float | None = None
    question: Question = "last"
    when_short: Literal["resample", "focus_only", "error"] = "resample"
    expand_logits: bool = True
    videos: Sequence[int] | None = None
    question_mask: torch.Tensor | None = None
    keep_merging: bool = False

    def __post_init__(self) -> None:
        if self.question not in get_args(Question):
            raise ValueError(f"attach: expected question to be one of {get_args(Question)}, got {self.question!r}.")
        self.budget()

    def budget(self) -> TokenBudget | None:
        """The budget of one video."""
        if self.max_tokens is None and self.ratio is None:
            return None
        return TokenBudget(max_tokens=self.max_tokens, ratio=self.ratio, when_short=self.when_short)

    def changed(self, call: Mapping[str, Any] | None) -> Settings:
        """These settings with those of one call on top.

        Raises:
            TypeError: settings nobody knows.
        """
        if not call:
            return self
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(set(call) - set(known))
        if unknown:
            raise TypeError(f"dynfocus: expected settings among {known}, got {unknown}.")
        budget = {"max_tokens": None, "ratio": None} if {"max_tokens", "ratio"} & set(call) else {}
        return dataclasses.replace(self, **{**budget, **call})


def load_connector(connector: str | os.PathLike[str] | nn.Module, width: int, dtype: torch.dtype) -> nn.Module:
    """The connector that a user names: a module, ``"training-free"``, a folder or a hub id.

    What is read from a folder comes in the host's `dtype`; a module of the user's own is never changed.

    Raises:
        TypeError: something else.
        ValueError: a connector of another width or dtype than the host's projected tokens.
    """
    if isinstance(connector, nn.Module):
        found = connector
    elif connector == "training-free":
        found = build_connector(DynFocusConfig.training_free(dim=width)).eval()
    elif isinstance(connector, (str, os.PathLike)):
        inner = os.path.join(connector, SUBFOLDER)
        found = DynFocusConnector.from_pretrained(inner if os.path.isdir(inner) else os.fspath(connector), dtype=dtype)
    else:
        raise TypeError(
            f"attach: expected a connector module, 'training-free', a folder or a hub id, got "
            f"{type(connector).__name__}."
        )
    check_widths(found, width)
    check_dtypes(found, dtype)
    return found


def check_widths(connector: nn.Module, width: int) -> None:
    """Raises ValueError where the connector's configuration does not fit the host."""
    config = getattr(connector, "config", None)
    if not isinstance(config, DynFocusConfig):
        return
    out = config.dim if config.projector is None else (config.dim_out or config.dim)
    text = config.dim if config.dim_text is None else config.dim_text
    if (config.dim, out, text) != (width, width, width):
        raise ValueError(
            f"attach: expected a connector of dim, dim_out and dim_text {width}, the width of the host's projected "
            f"tokens, got {config.dim}, {out} and {text}. Build it with DynFocusConfig(dim={width}, dim_out={width}, "
            f"dim_text={width})."
        )


def check_dtypes(connector: nn.Module, dtype: torch.dtype) -> None:
    """Raises ValueError where the connector's parameters are not of the host's dtype."""
    found = sorted({str(p.dtype) for p in connector.parameters() if p.is_floating_point()} - {str(dtype)})
    if found:
        raise ValueError(
            f"attach: expected a connector of {dtype}, the dtype of the host's embeddings, got {' and '.join(found)}. "
            f"Pass connector.to({dtype})."
        )
