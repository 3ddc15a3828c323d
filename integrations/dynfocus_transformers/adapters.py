"""What a host has to say about itself: where its video tokens come from and how they lie in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynfocus_connector.pooling import Grid, resolve_grid

Batch = dict[str, Any]


class Visual(NamedTuple):
    """The tokens of one video (or of one picture) in the order of its placeholders.

    `rows` are T · (class_tokens + h · w) tokens frame by frame, then any others (newlines, pictures), which stay.
    """

    rows: Float[Tensor, "placeholders dim"]
    num_frames: int = 0
    """T; 0 for a picture: all its rows stay"""
    grid: Grid = (0, 0)
    """(h, w) of a frame in tokens"""
    class_tokens: int = 0
    """per frame, before its patches; they stay only where every patch stays"""
    levels: tuple[Float[Tensor, "placeholders dim"], ...] = ()
    """features for deeper layers (DeepStack), in the order of `rows`"""

    def patches(self, rows: Tensor | None = None) -> Tensor:
        """The rows (or one entry per row) that belong to patches: [frames, patches, ...]."""
        rows = self.rows if rows is None else rows
        per_frame = self.class_tokens + self.grid[0] * self.grid[1]
        body = rows[: self.num_frames * per_frame].unflatten(0, (self.num_frames, per_frame))
        return body[:, self.class_tokens :]

    def on(self, device: torch.device) -> Visual:
        """The same there: a host's encoder may lie on another device than its embeddings."""
        return self._replace(rows=self.rows.to(device), levels=tuple(level.to(device) for level in self.levels))


class HostAdapter:
    """One family of hosts.

    A new host names its `model_type`, the inputs its encoders take, and turns encoder outputs into `Visual`s.

    Args:
        model: The host, a `...ForConditionalGeneration`.
    """

    model_type: ClassVar[str]
    oldest: ClassVar[str] = "5.18"
    """the first release of transformers whose host of this family the adapter fits"""
    video_keys: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    """inputs of the encoder of videos, the pixels first"""
    image_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """inputs of the encoder of pictures, the pixels first; () where pictures and videos share one"""
    other_keys: ClassVar[tuple[str, ...]] = ()
    """inputs nobody needs once the tokens are known"""
    processor_options: ClassVar[Mapping[str, Any]] = {}
    """how the processor is called for a video, so that every token comes in"""
    pictures_beside_videos: ClassVar[bool] = True
    """whether the processor takes both in one call"""
    modality: ClassVar[Literal["video", "image"]] = "video"
    """what the placeholders of a video are called"""
    ends: ClassVar[Literal["turns", "answers"]] = "turns"
    """what an end-of-sequence token closes in this family's chats"""
    takes_encoder_outputs: ClassVar[bool] = False
    """tokens go in as mm_encoder_outputs (deeper layers want theirs too) instead of inputs_embeds"""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.core: Any = model.model
        self.config: Any = model.config

    @property
    def width(self) -> int:
        """Width of the projected tokens."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def placeholder(self) -> int:
        """Token id of the placeholders of videos."""
        return int(getattr(self.config, f"{self.modality}_token_id"))

    @property
    def picture_placeholder(self) -> int:
        """Token id of the placeholders of pictures."""
        return int(self.config.image_token_id)

    @property
    def joined(self) -> int:
        """How many neighbouring pictures become one frame of tokens."""
        return joined_frames(self.config)

    def has_video(self, batch: Mapping[str, Any]) -> bool:
        """Whether there is anything to compress."""
        return batch.get(self.video_keys[0]) is not None

    def encode(self, batch: Batch) -> Any:
        """The host's own encoder and projector, on videos."""
        return self.core.get_video_features(**given(batch, self.video_keys), return_dict=True)

    def visuals(self, output: Any, batch: Batch) -> list[Visual]:
        """One entry per video, in the order of the placeholders."""
        raise NotImplementedError

    def pictures(self, batch: Batch) -> Any | None:
        """The host's own encoder and projector, on pictures."""
        if not self.image_keys or batch.get(self.image_keys[0]) is None:
            return None
        return self.core.get_image_features(**given(batch, self.image_keys), return_dict=True)

    def positions(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Position ids of the uncompressed prompt and their offset to a plain count, where the host has its own."""
        if not hasattr(self.core, "get_rope_index") or batch.get("mm_token_type_ids") is None:
            return None
        ids, deltas = self.core.get_rope_index(**{key: value for key, value in batch.items() if key != "labels"})
        return ids, deltas


REGISTRY: dict[str, type[HostAdapter]] = {}


def register_host(adapter: type[HostAdapter]) -> type[HostAdapter]:
    """Make `attach` know a host, by its `model_type`."""
    REGISTRY[adapter.model_type] = adapter
    return adapter


def adapter_for(model: nn.Module) -> HostAdapter:
    """The adapter of a host.

    Raises:
        NotImplementedError: nobody registered one for this `config.model_type`.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in REGISTRY or not hasattr(model, "model"):
        raise NotImplementedError(
            f"attach: expected a ForConditionalGeneration host of type {sorted(REGISTRY)}, got "
            f"{type(model).__name__} of type {model_type!r}. Write an adapter (docs/guides/hosts.md)."
        )
    return REGISTRY[model_type](model)


def joined_frames(config: Any) -> int:
    """How many neighbouring pictures a host of this configuration makes one frame of tokens."""
    return int(getattr(getattr(config, "vision_config", None), "temporal_patch_size", 1))


def given(batch: Batch, keys: tuple[str, ...]) -> Batch:
    """The inputs among `keys` that are there."""
    return {key: batch[key] for key in keys if batch.get(key) is not None}


def flat(features: Any) -> Float[Tensor, "placeholders dim"]:
    """What hosts call pooler_output, one row per placeholder."""
    if isinstance(features, Tensor):
        return features.flatten(0, -2)
    return torch.cat([feature.flatten(0, -2) for feature in features])


def square(rows: int, num_frames: int) -> Grid:
    """The grid of `num_frames` square frames that have `rows` tokens together."""
    return resolve_grid(rows // max(num_frames, 1), None)


def thw(grid: Int[Tensor, "videos 3"], merge: int | Int[Tensor, " videos"]) -> list[tuple[int, Grid]]:
    """(frames, (height, width)) in tokens, of every row of a host's grid_thw."""
    merge = torch.as_tensor(merge, device=grid.device).expand(len(grid))
    sides = torch.stack([grid[:, 0], grid[:, 1] // merge, grid[:, 2] // merge], dim=1)
    return [(t, (h, w)) for t, h, w in sides.tolist()]
