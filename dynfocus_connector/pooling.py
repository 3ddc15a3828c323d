"""Local average pooling: a frame's h × w patches become a few cells."""

from __future__ import annotations

import math

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]


def resolve_grid(num_patches: int, grid: Grid | None) -> Grid:
    """The frame's (height, width) in patches: as given, or the square that `num_patches` makes.

    Raises:
        ValueError: the grid does not multiply to `num_patches`, or there is no such square.

    Example:
        >>> resolve_grid(256, None), resolve_grid(6, (2, 3))
        ((16, 16), (2, 3))
    """
    if grid is None:
        side = math.isqrt(num_patches)
        grid = (side, side)
        hint = "Pass grid=(height, width)."
    else:
        hint = "Drop class and register tokens first."
    if grid[0] * grid[1] != num_patches:
        raise ValueError(f"resolve_grid: expected {num_patches} patches to fill a grid, got {tuple(grid)}. {hint}")
    return grid


def pool_cells(
    frames: Float[Tensor, "batch frames patches dim"], grid: Grid, cells: int
) -> Float[Tensor, "batch frames pooled dim"]:
    """f_t: the mean of each of `cells` × `cells` areas of the frame (Sec. 3.2); areas of an uneven grid overlap."""
    height, width = grid
    if height % cells == 0 and width % cells == 0:
        pattern = "batch frames (ch h cw w) dim -> batch frames (ch cw) dim"
        return reduce(frames, pattern, "mean", ch=cells, cw=cells, h=height // cells, w=width // cells)
    return cell_weights(grid, cells, device=frames.device, dtype=frames.dtype) @ frames


def cell_weights(
    grid: Grid, cells: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "pooled patches"]:
    """The same pooling as a matrix; rows sum to 1."""
    return torch.kron(*(_axis_weights(size, cells, device, dtype) for size in grid))


def _axis_weights(
    size: int, cells: int, device: torch.device | None, dtype: torch.dtype | None
) -> Float[Tensor, "cells size"]:
    index = torch.arange(cells, device=device)[:, None]
    start, end = index * size // cells, ((index + 1) * size + cells - 1) // cells
    position = torch.arange(size, device=device)
    inside = ((position >= start) & (position < end)).to(dtype or torch.get_default_dtype())
    return inside / inside.sum(1, keepdim=True)
