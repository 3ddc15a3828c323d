"""What the mixins share: the connector in the slot `vision_resampler`, its settings, its call, its report."""

from __future__ import annotations

import inspect
import os
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, TokenKind
from dynfocus_connector.evaluation import deterministic
from dynfocus_llava.settings import Question, Settings, Widths, load_connector


class VideoReport(NamedTuple):
    """One video of the last prompts."""

    sampled_frames: int
    tokens_before: int
    tokens_after: int
    """newlines are not counted"""
    frame_index: Tensor
    """the frame of every token"""
    kind: Tensor
    """`TokenKind` of every token"""
    asked: bool
    """whether the connector saw a question"""

    @property
    def focus_frames(self) -> list[int]:
        """Frames that got cones."""
        return self.frame_index[self.kind == int(TokenKind.CONE)].unique().tolist()

    def __str__(self) -> str:
        return (
            f"{self.sampled_frames} frames, {len(self.focus_frames)} in focus {self.focus_frames}, "
            f"{self.tokens_before} -> {self.tokens_after} tokens"
        )


class ConnectorSlot:
    """The connector of a LLaVA-style model lies at `get_model().vision_resampler`, where the code bases save it."""

    seam: ClassVar[str]
    """the host's method through which every video goes"""
    dynfocus_settings: Settings | None = None
    dynfocus_report: list[VideoReport] | None = None
    config: Any
    get_model: Any
    training: bool

    def dynfocus_widths(self) -> Widths:
        """What the host hands to a connector and wants back."""
        raise NotImplementedError(f"{type(self).__name__}: expected a mixin that defines dynfocus_widths.")

    def use_connector(
        self,
        connector: str | os.PathLike[str] | nn.Module = "training-free",
        *,
        max_tokens: int | None = None,
        ratio: float | None = None,
        question: Question = "last",
        **settings: Any,
    ) -> Any:
        """Put a connector into the slot; a call again replaces it.

        Args:
            connector: A module with the connector's contract, ``"training-free"``, a folder or a hub id.
            max_tokens: The most tokens per video.
            ratio: The same as a share of the video's tokens.
            question: Which question of a conversation the connector sees.
            settings: More of `Settings`.

        Returns:
            The model.

        Raises:
            TypeError: the class has no such seam behind the mixin; no connector.
            ValueError: a connector of another width; a wrong setting.
        """
        self._check_classes()
        chosen = Settings(max_tokens=max_tokens, ratio=ratio, question=question, **settings)
        module = load_connector(connector, self.dynfocus_widths())
        inner = self.get_model()
        like = inner.embed_tokens.weight
        if like.device.type != "meta" and not any(p.is_meta for p in module.parameters()):
            module = module.to(like.device)
        held = isinstance(getattr(inner, "vision_resampler", None), list)
        inner.vision_resampler = [module] if held else module
        self.dynfocus_settings = chosen
        return self

    @property
    def dynfocus_connector(self) -> nn.Module | None:
        """The connector in the slot, None where something else or nothing lies there."""
        found = getattr(self.get_model(), "vision_resampler", None)
        if isinstance(found, list):  # their way of hiding a module from FSDP
            found = found[0]
        known = self.dynfocus_settings is not None or (found is not None and takes_budget(found))
        return found if known else None

    def _check_classes(self) -> None:
        own = [issubclass(kind, ConnectorSlot) for kind in type(self).__mro__ if self.seam in vars(kind)]
        if own[-1]:
            raise TypeError(
                f"use_connector: expected a class with the mixin before a host that defines {self.seam}, got "
                f"{[kind.__name__ for kind in type(self).__bases__]} as bases of {type(self).__name__}."
            )

    def compress_videos(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Float[Tensor, "batch *each queries dim_text"] | None,
    ) -> list[CompressedVideo]:
        """Run the connector, in its own precision, and report.

        Raises:
            TypeError: what lies in the slot is no connector.
            ValueError: more tokens than patches; a budget too small.
        """
        connector: Any = self.dynfocus_connector
        dtype = next((p.dtype for p in connector.parameters() if p.is_floating_point()), frames.dtype)
        settings = self.dynfocus_settings or Settings()
        budget = settings.budget()
        text = None if text is None or settings.question == "none" else text.to(dtype)
        with deterministic(connector):
            batch = connector(frames.to(dtype), text, **({} if budget is None else {"budget": budget}))
        if not isinstance(batch, CompressedVideo):
            raise TypeError(
                f"{type(self).__name__}: expected a connector at vision_resampler, got a {type(connector).__name__} "
                f"that returns {type(batch).__name__}. Call use_connector after initialize_vision_modules."
            )
        count = frames.shape[1] * frames.shape[2]
        videos = [video._replace(tokens=video.tokens.to(frames.dtype)) for video in batch.split()]
        for video in videos:
            if len(video.tokens) > count:
                raise ValueError(
                    f"{type(self).__name__}: expected at most {count} tokens for {frames.shape[1]} frames of "
                    f"{frames.shape[2]} patches, got {len(video.tokens)}. Give the connector a budget."
                )
            self._report(frames.shape[1], count, video, text is not None)
        return videos

    def _report(self, length: int, count: int, video: CompressedVideo, asked: bool) -> None:
        tensors = video.frame_index.detach(), video.kind.detach()
        report = VideoReport(length, count, len(video.tokens), *tensors, asked)
        self.dynfocus_report = [*(self.dynfocus_report or []), report]

    def check_tokens(self, tokens: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
        """Raises ValueError for tokens that the language model cannot take."""
        width = self.dynfocus_widths().tokens
        if tokens.shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__}: expected tokens of width {width} from the connector, got "
                f"{tokens.shape[-1]}. Build it with dim_out={width}."
            )
        return tokens

    def join_idle(self, values: Tensor) -> Tensor:
        """Values that the connector had no part in: in training it joins with weight zero, so that each of its
        parameters has a gradient in every step and data-parallel training does not wait for one."""
        connector = self.dynfocus_connector
        trained = [] if connector is None else [p for p in connector.parameters() if p.requires_grad]
        if connector is None or not (self.training and trained and torch.is_grad_enabled()):
            return values
        frames = trained[0].new_zeros(1, 1, 16, self.dynfocus_widths().features)
        return values + 0 * connector(frames).tokens.sum().to(values)


def takes_budget(module: nn.Module) -> bool:
    """Whether a module, or what a wrapper holds, has the connector's contract."""
    return any("budget" in inspect.signature(part.forward).parameters for part in module.modules())
