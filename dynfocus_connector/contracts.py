"""The types that cross walls: what DPE hands to CCE, and what CCE hands to everybody."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.merging import Merging, MergingPerVideo


class TokenKind(enum.IntEnum):
    """Whether a token is a detail of a frame in focus or a glimpse; rod tokens of a frame in focus are glimpses."""

    ROD = 0
    CONE = 1


class FrameSelection(NamedTuple):
    """Which frames matter: the decision of DPE about a batch of videos.

    Prototypes are in time order. Videos with fewer prototypes or focus frames than the batch allows are padded at the
    end: indices with -1, everything else with 0.

    **Source**: Sec. 3.2; `is_focus` is the index mask b_t, `soft_mask` is P_σ of Eq. 8.
    """

    scores: Float[Tensor, "batch prototypes"]
    """min–max normalised per video, 1 = best"""
    prototype_index: Int[Tensor, "batch prototypes"]
    """the frame at the peak of each event, ascending"""
    prototypes: Float[Tensor, "batch prototypes pooled dim"]
    """event prototypes m_l (Eq. 5)"""
    event: Int[Tensor, "batch frames"]
    """which event a frame belongs to, -1 for padding frames"""
    soft_mask: Float[Tensor, "batch focus prototypes"]
    """row i selects the prototype of focus frame i; real rows sum to 1, one-hot when hard"""
    focus_index: Int[Tensor, "batch focus"]
    """the frames that get cones, ascending and unique"""
    is_focus: Bool[Tensor, "batch frames"]
    """the index mask b_t"""
    log_importance: Float[Tensor, "batch frames"]
    """log γ_t of every frame, -inf for copies of a better frame and for padding"""

    @staticmethod
    def build(
        scores: Tensor,
        prototype_index: Tensor,
        prototypes: Tensor,
        event: Tensor,
        soft_mask: Tensor,
        focus_index: Tensor,
        is_focus: Tensor,
        log_importance: Tensor,
    ) -> FrameSelection:
        """A selection whose shapes fit together; raises ValueError where they do not."""
        batch, count = prototype_index.shape
        frames, focus = event.shape[1], focus_index.shape[1]
        for name, tensor, shape in (
            ("scores", scores, (batch, count)),
            ("prototypes", prototypes, (batch, count, *prototypes.shape[2:])),
            ("event", event, (batch, frames)),
            ("soft_mask", soft_mask, (batch, focus, count)),
            ("focus_index", focus_index, (batch, focus)),
            ("is_focus", is_focus, (batch, frames)),
            ("log_importance", log_importance, (batch, frames)),
        ):
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"FrameSelection: expected {name} of shape {tuple(shape)}, got {tuple(tensor.shape)}.")
        return FrameSelection(
            scores, prototype_index, prototypes, event, soft_mask, focus_index, is_focus, log_importance
        )

    def in_video(self, index: Int[Tensor, " kept"], num_frames: int) -> FrameSelection:
        """The selection among some frames of a video, told of all its frames: the others belong to no event."""

        def spread(values: Tensor, rest: float | int) -> Tensor:
            return values.new_full((len(values), num_frames), rest).index_copy(1, index, values)

        return self._replace(
            prototype_index=renumber(self.prototype_index, index),
            event=spread(self.event, -1),
            focus_index=renumber(self.focus_index, index),
            is_focus=spread(self.is_focus, False),
            log_importance=spread(self.log_importance, -torch.inf),
        )

    @staticmethod
    def stack(selections: Sequence[FrameSelection]) -> FrameSelection:
        """Selections of several videos of equally many frames as one batch, padded as such."""
        padding = FrameSelection(0, -1, 0, 0, 0, -1, 0, 0)  # type: ignore[arg-type]
        columns = []
        for values, rest in zip(zip(*selections, strict=True), padding, strict=True):
            shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
            columns.append(torch.cat([pad_to(value, shape, float(rest)) for value in values]))
        return FrameSelection.build(*columns)

    def filtered_prototypes(self) -> Float[Tensor, "batch focus pooled dim"]:
        """h_1..h_K: the event prototypes of the focus frames, soft in training (h = P_σ m)."""
        return torch.einsum("bkl,blpd->bkpd", self.soft_mask, self.prototypes)


class CompressedVideo(NamedTuple):
    """A batch of videos as one packed sequence of tokens, in frame order.

    Video b owns the rows `offsets[b]:offsets[b + 1]` (cumulative lengths, as variable-length attention kernels take
    them). `selection` and `merging` tell how the tokens came to be, where the maker knows it.

    **Source**: Sec. 3.3, Eq. 13.
    """

    tokens: Float[Tensor, "tokens dim"]
    frame_index: Int[Tensor, " tokens"]
    """which frame of its video a token describes, counting real frames only"""
    kind: Int[Tensor, " tokens"]
    """`TokenKind.CONE` or `TokenKind.ROD`"""
    anchor: Int[Tensor, " tokens"]
    """the patch slot of its frame where a token sits; no two tokens of a frame share one"""
    offsets: Int[Tensor, " videos"]
    """batch + 1 cumulative token counts"""
    selection: FrameSelection | None = None
    merging: Merging | MergingPerVideo | None = None
    span: Int[Tensor, "tokens 2"] | None = None
    """first and last frame of the stretch that a token's frame stands for, where a stream merged frames
    (`StreamingConnector`); None where every frame stands for itself"""

    @staticmethod
    def build(
        tokens: Tensor,
        frame_index: Tensor,
        kind: Tensor,
        anchor: Tensor,
        offsets: Tensor,
        selection: FrameSelection | None = None,
        merging: Merging | MergingPerVideo | None = None,
        span: Tensor | None = None,
    ) -> CompressedVideo:
        """A packed batch whose shapes fit together; raises ValueError where they do not."""
        count = tokens.shape[0]
        shapes = {"frame_index": (count,), "kind": (count,), "anchor": (count,), "span": (count, 2)}
        for (name, shape), tensor in zip(shapes.items(), (frame_index, kind, anchor, span), strict=True):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"CompressedVideo: expected {name} of shape {shape} for {count} tokens, got {tuple(tensor.shape)}."
                )
        if offsets.ndim != 1 or offsets.shape[0] < 1:
            raise ValueError(f"CompressedVideo: expected offsets of shape (batch + 1,), got {tuple(offsets.shape)}.")
        return CompressedVideo(tokens, frame_index, kind, anchor, offsets, selection, merging, span)

    @staticmethod
    def pack(videos: Sequence[CompressedVideo]) -> CompressedVideo:
        """Several packed batches as one, in the order given: the inverse of `split`."""
        if not videos:
            raise ValueError("CompressedVideo.pack: expected at least 1 video, got 0.")
        lengths = torch.cat([video.offsets.diff() for video in videos])
        return CompressedVideo.build(
            tokens=torch.cat([video.tokens for video in videos]),
            frame_index=torch.cat([video.frame_index for video in videos]),
            kind=torch.cat([video.kind for video in videos]),
            anchor=torch.cat([video.anchor for video in videos]),
            offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
            span=None if all(video.span is None for video in videos) else torch.cat([_spans(v) for v in videos]),
        )

    def split(self) -> list[CompressedVideo]:
        """One `CompressedVideo` per video; without `selection` and `merging`, which speak of the batch."""
        bounds = self.offsets.tolist()
        return [
            CompressedVideo.build(
                self.tokens[start:end],
                self.frame_index[start:end],
                self.kind[start:end],
                self.anchor[start:end],
                self.offsets.new_tensor([0, end - start]),
                span=None if self.span is None else self.span[start:end],
            )
            for start, end in pairwise(bounds)
        ]

    def to_padded(self) -> tuple[Float[Tensor, "batch longest dim"], Bool[Tensor, "batch longest"]]:
        """Tokens padded with zeros at the end of each video, and the mask of the real ones."""
        lengths = self.offsets.diff()
        longest = int(lengths.max()) if len(lengths) else 0
        position = torch.arange(longest, device=lengths.device)
        mask = position < lengths[:, None]
        rows = (self.offsets[:-1, None] + position).clamp(max=max(len(self.tokens) - 1, 0))
        if not len(self.tokens):
            return self.tokens.new_zeros(*mask.shape, self.tokens.shape[-1]), mask
        return self.tokens[rows].masked_fill(~mask[..., None], 0), mask

    def tokens_per_frame(self) -> list[Int[Tensor, " frames"]]:
        """How many tokens each sampled frame of each video got, up to the last frame that got any."""
        return [video.frame_index.bincount() for video in self.split()]

    def pool_like(self, features: Float[Tensor, "batch frames patches other"]) -> Float[Tensor, "tokens other"]:
        """The same merging applied to other features of the same patches, without the projector.

        A host that injects features of several depths (DeepStack) needs each depth merged the way the tokens were.

        Raises:
            ValueError: the video was compressed without `keep_merging=True`.
        """
        if self.merging is None:
            raise ValueError(
                "CompressedVideo.pool_like: expected a video compressed with keep_merging=True, got merging=None."
            )
        return self.merging.pool(features)


def _spans(video: CompressedVideo) -> Int[Tensor, "tokens 2"]:
    """The spans, of single frames where none are told."""
    return video.frame_index[:, None].expand(-1, 2) if video.span is None else video.span


def renumber(values: Int[Tensor, "batch items"], index: Int[Tensor, " kept"]) -> Int[Tensor, "batch items"]:
    """`index[values]`, where -1 stays -1."""
    return index[values.clamp(min=0)].masked_fill(values < 0, -1)


def pad_to(values: Tensor, shape: Sequence[int], rest: float | int) -> Tensor:
    """`values` with every axis but the first grown to `shape`, filled with `rest`."""
    grown = values.new_full((values.shape[0], *shape), rest)
    grown[tuple(slice(size) for size in values.shape)] = values
    return grown
