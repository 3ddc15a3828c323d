"""What follows from frozen parts alone is computed once per story: the tower's tokens, Q, S-DPC and T-DPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector import DynFocusConnector
from dynfocus_connector.events import Events
from dynfocus_connector.merging import SpatialMerging
from dynfocus_connector.pooling import pool_cells, resolve_grid
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.world import Story, render

STORIES_AT_ONCE = 50


class Memory:
    """Stories and what the frozen tower sees in them, in half precision.

    Args:
        model: Whose tower looks.
        stories: Of one length.
        tokens: What the tower saw, where it has looked before.
    """

    def __init__(self, model: ReferenceModel, stories: Sequence[Story], tokens: Tensor | None = None) -> None:
        self.stories = stories
        self.tokens = look(model, stories) if tokens is None else tokens
        self.first_patch = model.vision.num_tokens - model.vision.num_patches
        self._known: dict[Any, Any] = {}
        self._asked: dict[tuple[int, ...], Tensor] = {}

    def __len__(self) -> int:
        return len(self.stories)

    @property
    def length(self) -> int:
        """Frames of each story."""
        return self.tokens.shape[1]

    def rows(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch frames all dim"]:
        """The tower's tokens of some stories."""
        return self.tokens[index].float()

    def patches(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch frames patches dim"]:
        """V of some stories."""
        return self.tokens[index][:, :, self.first_patch :].float()

    def recall(self, key: Any, function: Any, index: Int[Tensor, " batch"]) -> Any:
        """`function` of every story's patches, computed at the first call with this key; the rows of `index`."""
        if key not in self._known:
            parts = torch.arange(len(self)).split(STORIES_AT_ONCE)
            found = [function(self.patches(part)) for part in parts]
            self._known[key] = type(found[0])(*(torch.cat(values) for values in zip(*found, strict=True)))
        known = self._known[key]
        return type(known)(*(values[index] for values in known))

    def keep(self, key: Any, function: Callable[[], Any]) -> Any:
        """What `function` gave at the first call with this key."""
        if key not in self._known:
            self._known[key] = function()
        return self._known[key]

    def answers_of_qformer(
        self,
        model: ReferenceModel,
        index: Int[Tensor, " batch"],
        asked: Int[Tensor, "batch words"],
        mask: Bool[Tensor, "batch words"],
    ) -> Float[Tensor, "batch frames queries hidden"]:
        """Q of every frame. While the Q-Former is frozen every question to a story is put once; `forget` otherwise."""
        keys = [(int(story), *words[real].tolist()) for story, words, real in zip(index, asked, mask, strict=True)]
        new = list({key: row for row, key in enumerate(keys) if key not in self._asked}.values())
        trains = model.qformer.query_tokens.requires_grad
        if trains or new:
            rows = torch.arange(len(keys)) if trains else torch.tensor(new)
            tokens = self.rows(index[rows]).flatten(0, 1)
            text = model.ask(
                tokens, asked[rows].repeat_interleave(self.length, 0), mask[rows].repeat_interleave(self.length, 0)
            ).unflatten(0, (len(rows), self.length))
            if trains:
                return text
            self._asked.update({keys[row]: text[place].half() for place, row in enumerate(new)})
        return torch.stack([self._asked[key] for key in keys]).float()

    def forget(self) -> None:
        """The Q-Former, or the model, is another one."""
        self._asked.clear()


@torch.no_grad()
def look(
    model: ReferenceModel, stories: Sequence[Story], pixels: Callable[[Story], np.ndarray] = render
) -> Float[Tensor, "stories frames all dim"]:
    """The frozen tower's tokens of every frame, in half precision."""
    return torch.stack([model.see(torch.as_tensor(pixels(story))).half() for story in stories])


class Objects(NamedTuple):
    """A `SpatialMerging` and the object prototypes that it makes."""

    row: Tensor
    weight: Tensor
    center: Tensor
    log_density: Tensor
    prototypes: Tensor

    @staticmethod
    def of(merging: SpatialMerging, prototypes: Tensor) -> Objects:
        """Side by side."""
        return Objects(*merging, prototypes)


@contextmanager
def remembering(connector: nn.Module, memory: Memory, index: Int[Tensor, " batch"]) -> Iterator[None]:
    """Inside, a `DynFocusConnector` that is given the stories of `index` looks up their events and object prototypes.

    Events around given frames, and those of other numbers than the configuration's, are computed as always.
    """
    connector = getattr(connector, "connector", connector)
    if not isinstance(connector, DynFocusConnector):
        yield
        return
    spatial: Any = connector.encoder.spatial
    estimator: Any = getattr(connector.estimator, "estimator", connector.estimator)
    find, config = estimator.find_events, connector.config

    def find_or_recall(pooled: Tensor, mask: Any = None, count: int | None = None, centers: Any = None) -> Events:
        if centers is not None or count is not None:
            return find(pooled, mask, count, centers)
        settings = (config.pool_grid, config.num_prototypes, config.clustering, config.merge_weights)
        return memory.recall(("events", *settings), lambda patches: find(_pooled(patches, config.pool_grid)), index)

    cluster = spatial.cluster

    def cluster_or_recall(frames: Tensor) -> tuple[SpatialMerging, Tensor]:
        if frames.shape[:2] != (len(index), memory.length):
            return cluster(frames)
        key = ("objects", config.spatial_prototypes, config.spatial_neighbors, config.merge_weights)
        known = memory.recall(key, lambda patches: Objects.of(*cluster(patches)), index)
        return SpatialMerging(*known[:-1]), known.prototypes

    estimator.find_events, spatial.cluster = find_or_recall, cluster_or_recall
    try:
        yield
    finally:
        del estimator.find_events, spatial.cluster


def _pooled(patches: Tensor, grid: int) -> Tensor:
    return pool_cells(patches, resolve_grid(patches.shape[2], None), grid)
