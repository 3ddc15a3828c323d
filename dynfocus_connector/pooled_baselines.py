"""Rivals that choose no frames: averages over time and space, and merging of similar patches."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector.anchors import spread_anchors
from dynfocus_connector.budget import TokenBudget, evenly
from dynfocus_connector.contracts import CompressedVideo, TokenKind
from dynfocus_connector.pooling import Grid, pool_cells, resolve_grid
from dynfocus_connector.projector import IdentityProjector, Projector


class OneByOne(nn.Module):
    """A rival that looks at videos one by one: what is real of each through `_pool`, the rows through `projector`.

    A video without real frames becomes no token, as with `DynFocusConnector`.
    """

    projector: nn.Module
    kind = TokenKind.CONE

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Tensor | None = None,
        *,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        grid: Grid | None = None,
        budget: TokenBudget | None = None,
        **unused: Any,
    ) -> CompressedVideo:
        """As `DynFocusConnector`; randomness has no part in it, text only where the class says so."""
        grid = resolve_grid(frames.shape[2], grid)
        videos = []
        for b, video in enumerate(self._seen(frames, text)):
            video = video if frame_mask is None else video[frame_mask[b]]
            rows, frame, anchor = self._rows(video, grid, budget)
            videos.append(
                CompressedVideo.build(
                    tokens=self.projector(rows),
                    frame_index=frame,
                    kind=torch.full_like(frame, int(self.kind)),
                    anchor=anchor,
                    offsets=torch.tensor([0, len(rows)], device=frames.device),
                )
            )
        return CompressedVideo.pack(videos)

    def _seen(self, frames: Tensor, text: Tensor | None) -> Float[Tensor, "batch frames rows width"]:
        return frames

    def _rows(self, video: Tensor, grid: Grid, budget: TokenBudget | None) -> tuple[Tensor, Tensor, Tensor]:
        if not len(video):
            none = torch.zeros(0, dtype=torch.long, device=video.device)
            return video.flatten(0, 1), none, none
        limit = None if budget is None else budget.tokens_for(len(video), grid[0] * grid[1])
        if limit == 0:
            raise ValueError(f"{type(self).__name__}: expected a budget of at least 1 token, got 0.")
        return self._pool(video, grid, limit)

    def _pool(
        self, video: Float[Tensor, "frames rows width"], grid: Grid, limit: int | None
    ) -> tuple[Float[Tensor, "tokens width"], Int[Tensor, " tokens"], Int[Tensor, " tokens"]]:
        raise NotImplementedError(f"{type(self).__name__}: expected a subclass that defines _pool.")


class PooledBaseline(OneByOne):
    """Patches are pooled; the projector is F_fine.

    Args:
        dim: D.
        dim_out: Width of the tokens, D without one.
        projector: As in `CompactCooperativeEncoder`.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        *,
        projector: str | None = "mlp2x_gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.projector = (
            IdentityProjector()
            if projector is None
            else Projector(dim, dim_out or dim, device=device, dtype=dtype).content
        )


class MeanPooling(PooledBaseline):
    """One token per frame (mean over its patches) and one per cell (mean over time): Video-ChatGPT's way.

    T + N tokens, or as many as a budget allows: half of it for frames, the rest for the finest square grid of cells
    that fits. Cells have no time; they are spread evenly over the frames.
    """

    def _pool(self, video: Tensor, grid: Grid, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        length, patches, _ = video.shape
        limit = length + patches if limit is None else limit
        times = min(length, max(limit // 2, limit - patches, 1))
        side = int(min(limit - times, patches) ** 0.5)
        moments = torch.tensor(evenly(length, times), device=video.device)
        rows = [video[moments].mean(1)]
        frame, anchor = moments, torch.full_like(moments, grid[0] // 2 * grid[1] + grid[1] // 2)
        if side:
            rows.append(pool_cells(video.mean(0)[None, None], grid, side)[0, 0])
            spread = torch.tensor(evenly(length, min(side**2, length)), device=video.device)
            cell = torch.arange(side**2, device=video.device)
            frame = torch.cat([frame, spread[cell * len(spread) // side**2]])
            anchor = torch.cat([anchor, cell * patches // side**2])
        return in_order(torch.cat(rows), frame, anchor, grid)


class TokenMerging(PooledBaseline):
    """The most similar patches of a frame merge, round after round, until the frame has its share of the budget.

    ToMe's bipartite matching, applied to features: patches are split into two alternating sets, each of the first set
    finds its most similar of the second by cosine, and the best pairs merge into their size-weighted mean. Without a
    budget every frame keeps a tenth of its patches. A budget below one token per frame takes fewer frames, evenly.
    """

    def _pool(self, video: Tensor, grid: Grid, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        length, patches, _ = video.shape
        limit = length * max(patches // 10, 1) if limit is None else limit
        moments = torch.tensor(evenly(length, min(length, limit)), device=video.device)
        target = min(patches, limit // len(moments))
        rows = video[moments]
        size = torch.ones_like(rows[..., :1])
        slot = torch.arange(patches, device=video.device).expand(rows.shape[:2])
        while rows.shape[1] > target:
            rows, size, slot = _merge_once(rows, size, slot, min(rows.shape[1] // 2, rows.shape[1] - target))
        slot, order = slot.sort(dim=1)
        rows = rows.gather(1, order[..., None].expand_as(rows))
        return rows.flatten(0, 1), moments.repeat_interleave(target), slot.flatten()


def _merge_once(rows: Tensor, size: Tensor, slot: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """`pairs` rows of the first set join their match in the second."""
    unit = nn.functional.normalize(rows, dim=-1)
    similarity, match = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    order = similarity.argsort(dim=1, descending=True, stable=True)
    gone, kept = order[:, :pairs], order[:, pairs:].sort(dim=1).values

    def take(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    first, second = (rows * size)[:, ::2], (rows * size)[:, 1::2]
    target = match.gather(1, gone)[..., None]
    second = second.scatter_add(1, target.expand(-1, -1, rows.shape[-1]), take(first, gone))
    grown = size[:, 1::2].scatter_add(1, target, take(size[:, ::2], gone))
    total = torch.cat([take(first, kept), second], dim=1)
    size = torch.cat([take(size[:, ::2], kept), grown], dim=1)
    return total / size, size, torch.cat([slot[:, ::2].gather(1, kept), slot[:, 1::2]], dim=1)


def in_order(rows: Tensor, frame: Tensor, anchor: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by frame, with distinct slots within each."""
    order = frame.argsort(stable=True)
    rows, frame, anchor = rows[order], frame[order], anchor[order]
    distinct = [spread_anchors(anchor[frame == moment], grid) for moment in frame.unique()]
    return rows, frame, torch.cat(distinct)
