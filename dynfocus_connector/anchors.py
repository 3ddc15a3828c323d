"""Where a token sits in its frame: one patch slot each, so that hosts can give it a position and a placeholder."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dynfocus_connector.merging import SpatialMerging
from dynfocus_connector.pooling import Grid


def cone_anchors(
    centers: Int[Tensor, "batch focus rows"], grid: Grid, cells: int, num_tokens: int
) -> Int[Tensor, "batch focus tokens"]:
    """Event rows sit in the middle of their cell, object prototypes at their peak."""
    events = cell_centers(grid, cells, centers.device).expand(*centers.shape[:2], -1)
    return _spread_and_pad(torch.cat([events, centers.clamp(min=0)], dim=-1), grid, num_tokens)


def rod_anchors(spatial: SpatialMerging, grid: Grid, num_tokens: int) -> Int[Tensor, "batch frames tokens"]:
    """The content token sits in the middle of the frame, the context token at the frame's densest patch."""
    densest = spatial.log_density.argmax(-1, keepdim=True)
    context = spatial.center.gather(-1, densest).clamp(min=0)
    content = torch.full_like(context, grid[0] // 2 * grid[1] + grid[1] // 2)
    return _spread_and_pad(torch.cat([content, context], dim=-1), grid, num_tokens)


def avoid_anchors(
    wanted: Int[Tensor, "*frames tokens"], taken: Int[Tensor, "*frames others"], grid: Grid
) -> Int[Tensor, "*frames tokens"]:
    """The slots wanted, moved where other tokens of the frame have taken them."""
    both = torch.cat([taken, wanted], dim=-1)[..., : grid[0] * grid[1]]
    moved = spread_anchors(both, grid)[..., taken.shape[-1] :]
    return nn.functional.pad(moved, (0, wanted.shape[-1] - moved.shape[-1]))


def _spread_and_pad(wanted: Tensor, grid: Grid, num_tokens: int) -> Tensor:
    """Distinct slots for as many tokens as the frame can hold; rows beyond never become tokens."""
    anchors = spread_anchors(wanted[..., : min(num_tokens, grid[0] * grid[1])], grid)
    return nn.functional.pad(anchors, (0, num_tokens - anchors.shape[-1]))


def spread_anchors(wanted: Int[Tensor, "*frames tokens"], grid: Grid) -> Int[Tensor, "*frames tokens"]:
    """Each token's patch slot: the one it wants, or the nearest that no earlier token of its frame has taken.

    Example:
        >>> spread_anchors(torch.tensor([[0, 3, 0]]), (2, 2)).tolist()
        [[0, 3, 1]]
    """
    height, width = grid
    slot = torch.arange(height * width, device=wanted.device)
    row, column = slot // width, slot % width
    distance = (row[:, None] - row).square() + (column[:, None] - column).square()
    far = height * height + width * width + 1
    taken = wanted.new_zeros(*wanted.shape[:-1], height * width)
    anchors = []
    for token in range(wanted.shape[-1]):
        nearest = (distance[wanted[..., token]] + far * taken).argmin(-1, keepdim=True)
        taken = taken.scatter(-1, nearest, 1)
        anchors.append(nearest)
    return torch.cat(anchors, dim=-1) if anchors else wanted


def cell_centers(grid: Grid, cells: int, device: torch.device) -> Int[Tensor, " pooled"]:
    """The patch in the middle of each pooled cell."""
    height, width = grid
    index = torch.arange(cells, device=device)
    row = ((2 * index + 1) * height // (2 * cells)).clamp(max=height - 1)
    column = ((2 * index + 1) * width // (2 * cells)).clamp(max=width - 1)
    return (row[:, None] * width + column).flatten()
