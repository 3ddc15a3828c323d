"""What a user may choose, and the connector a user names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import nn

from dynfocus_connector import DynFocusConfig, DynFocusConnector, TokenBudget, build_connector

Question = Literal["last", "first", "none"]


@dataclass(frozen=True)
class Settings:
    """How videos are compressed.

    Args:
        max_tokens: The most tokens per video, newlines not counted.
        ratio: The same as a share of the video's tokens; with neither the connector's own L and r hold.
        question: Which question of a conversation the connector sees.
        when_short: As in `TokenBudget`.

    Raises:
        ValueError: both or wrong budgets, an unknown question.
    """

    max_tokens: int | None = None
    ratio: float | None = None
    question: Question = "last"
    when_short: Literal["resample", "focus_only", "error"] = "resample"

    def __post_init__(self) -> None:
        if self.question not in get_args(Question):
            raise ValueError(f"Settings: expected question to be one of {get_args(Question)}, got {self.question!r}.")
        self.budget()

    def budget(self) -> TokenBudget | None:
        """The budget of one video."""
        if self.max_tokens is None and self.ratio is None:
            return None
        return TokenBudget(max_tokens=self.max_tokens, ratio=self.ratio, when_short=self.when_short)


class Widths(NamedTuple):
    """What a code base hands to a connector and wants back."""

    features: int
    text: int
    tokens: int
    """the language model's; a connector without a projector returns the width of the features instead"""


def load_connector(connector: str | os.PathLike[str] | nn.Module, widths: Widths) -> nn.Module:
    """The connector that a user names: a module, ``"training-free"``, a folder or a hub id.

    Raises:
        TypeError: something else.
        ValueError: a connector of other widths.
    """
    if isinstance(connector, nn.Module):
        found = connector
    elif connector == "training-free":
        found = build_connector(DynFocusConfig.training_free(dim=widths.features)).eval()
    elif isinstance(connector, (str, os.PathLike)):
        found = DynFocusConnector.from_pretrained(os.fspath(connector))
    else:
        raise TypeError(
            f"use_connector: expected a connector module, 'training-free', a folder or a hub id, got "
            f"{type(connector).__name__}."
        )
    check_widths(found, widths)
    return found


def has_projector(connector: nn.Module) -> bool:
    """Whether a connector's configuration names a projector of its own."""
    config = getattr(connector, "config", None)
    return isinstance(config, DynFocusConfig) and config.projector is not None


def check_widths(connector: nn.Module, widths: Widths) -> None:
    """Raises ValueError where the connector's configuration does not fit the code base."""
    config = getattr(connector, "config", None)
    if not isinstance(config, DynFocusConfig):
        return
    text = config.dim if config.dim_text is None else config.dim_text
    tokens = (config.dim_out or config.dim) if has_projector(connector) else widths.tokens
    if (config.dim, text, tokens) != widths:
        raise ValueError(
            f"use_connector: expected a connector of dim={widths.features}, dim_text={widths.text} and "
            f"dim_out={widths.tokens}, got dim={config.dim}, dim_text={text} and dim_out={tokens}. Build it with "
            f"these widths, or with projector=None."
        )
