"""Connectors for the tests: small ones that compress, and one that changes nothing, with ways to break it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConfig, TokenKind, build_connector
from tests.integration.transformers.tiny import WIDTH

SMALL: dict[str, Any] = {"spatial_prototypes": (4, 2), "spatial_neighbors": (3, 2), "pool_grid": 2}


def training_free() -> nn.Module:
    """Ten tokens per cone frame, two per rod frame."""
    return build_connector(DynFocusConfig.training_free(dim=WIDTH, **SMALL)).eval()


def trained(**changes: Any) -> nn.Module:
    """A connector with parameters, to whose rods the question matters much."""
    torch.manual_seed(5)
    values = {"dim": WIDTH, "dim_out": WIDTH, "dim_text": WIDTH, "num_samples": 20, **SMALL, **changes}
    connector = build_connector(DynFocusConfig(**values)).eval()
    with torch.no_grad():
        for name in ("query", "key"):
            connector.get_submodule(f"encoder.rods.{name}").weight.mul_(10)
        connector.get_submodule("encoder.projector.context").weight.mul_(5)
    return connector


class Everything(nn.Module):
    """Every patch as it is."""

    def forward(self, frames: Tensor, text: Tensor | None = None, **options: Any) -> CompressedVideo:
        _, length, patches, _ = frames.shape
        index = torch.arange(length * patches, device=frames.device)
        return CompressedVideo.build(
            tokens=self.broken(frames[0].flatten(0, 1)),
            frame_index=index // patches,
            kind=torch.full_like(index, int(TokenKind.CONE)),
            anchor=index % patches,
            offsets=torch.tensor([0, len(index)], device=frames.device),
        )

    def broken(self, rows: Tensor) -> Tensor:
        return rows


class Scaled(Everything):
    def broken(self, rows: Tensor) -> Tensor:
        return rows * 1.001


class Swapped(Everything):
    def broken(self, rows: Tensor) -> Tensor:
        order = torch.arange(len(rows))
        order[3], order[20] = 20, 3
        return rows[order]
