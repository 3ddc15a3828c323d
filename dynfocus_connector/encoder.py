"""Compact cooperative encoding (CCE): cones for the frames in focus, rods for the others (Eq. 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector.anchors import avoid_anchors, cone_anchors, rod_anchors
from dynfocus_connector.choices import (
    Cones,
    DistanceScale,
    Fusion,
    MergeWeights,
    ProjectorKind,
    RodAttention,
    RodInput,
    SpatialOrder,
)
from dynfocus_connector.cones import ConeEncoder
from dynfocus_connector.contracts import CompressedVideo, FrameSelection, TokenKind
from dynfocus_connector.distances import finite_points
from dynfocus_connector.merging import Merging, SpatialMerging, gather_rows, take_frames
from dynfocus_connector.packing import Layout, TokenCounts, frame_number, layout
from dynfocus_connector.pooling import Grid, cell_weights, resolve_grid
from dynfocus_connector.projector import IdentityProjector, Projector
from dynfocus_connector.prototypes import member_weights
from dynfocus_connector.rods import RodEncoder
from dynfocus_connector.spatial import SpatialPrototypes


class CompactCooperativeEncoder(nn.Module):
    """Tokens of all frames, in frame order.

    x_t = b_t · x_t^cone + (1 − b_t) · x_t^rod

    **Source**: Sec. 3.3, Eq. 10–13. **Symbols**: `selection.is_focus` is b_t.
    **Deviations**: a frame never yields more tokens than it has patches: a focus frame of few patches keeps them.

    Args:
        dim: D, width of the patch features.
        dim_out: D_llm, width of the tokens; ignored without a projector.
        dim_text: Width of the text features, None for D.
        pool_grid: √P, rows of an event prototype along each side.
        spatial_prototypes, spatial_neighbors, spatial_order: As in `SpatialPrototypes`.
        merge_weights, distance_scale: As in `density_peaks` and `merge_prototypes`.
        cones: How a focus frame is encoded: a fusion of `ConeEncoder` (Table 12), all its ``"patches"``, the
            ``"rods"``, or ``"none"`` at all (Table 6).
        rod_tokens: 2, or 0 for no tokens of peripheral frames (Table 6).
        rod_input: Rods see ``"prototypes"`` (the paper) or ``"patches"`` (LLaMA-VID; B.3).
        rod_attention, rod_temperature: As in `RodEncoder`.
        rods_when_all_focus: Where no frame is peripheral every frame gets its rod tokens as well (the authors' code).
        projector: ``"mlp2x_gelu"``, or None: tokens keep the width of the features.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        *,
        dim_text: int | None = None,
        pool_grid: int = 4,
        spatial_prototypes: Sequence[int] = (16, 8),
        spatial_neighbors: Sequence[int] = (8, 3),
        spatial_order: SpatialOrder = "by_level",
        merge_weights: MergeWeights = "importance",
        distance_scale: DistanceScale = 1.0,
        cones: Cones = "multi_grained",
        rod_tokens: int = 2,
        rod_input: RodInput = "prototypes",
        rod_attention: RodAttention = "learned",
        rod_temperature: float = 0.01,
        rods_when_all_focus: bool = False,
        projector: ProjectorKind | None = "mlp2x_gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._check(cones, spatial_order, rod_tokens, rod_input, projector)
        self.dim = dim
        self.pool_grid = pool_grid
        self.merge_weights: MergeWeights = merge_weights
        self.cone_source = cones
        self.rod_tokens = rod_tokens
        self.rod_input = rod_input
        self.rods_when_all_focus = rods_when_all_focus
        self.spatial = SpatialPrototypes(
            spatial_prototypes,
            spatial_neighbors,
            merge_weights=merge_weights,
            distance_scale=distance_scale,
            order=spatial_order,
            device=device,
            dtype=dtype,
        )
        fusion: Fusion = cones if cones in get_args(Fusion) else "multi_grained"  # type: ignore[assignment]
        self.cones = ConeEncoder(
            dim,
            pooled=pool_grid**2,
            first_level=spatial_prototypes[0],
            fusion=fusion,
            device=device,
            dtype=dtype,
        )
        self.rods = RodEncoder(
            dim, dim_text, attention=rod_attention, temperature=rod_temperature, device=device, dtype=dtype
        )
        self.projector: Projector | IdentityProjector = (
            IdentityProjector() if projector is None else Projector(dim, dim_out or dim, device=device, dtype=dtype)
        )

    @staticmethod
    def _check(cones: str, spatial_order: str, rod_tokens: int, rod_input: str, projector: str | None) -> None:
        known = (*get_args(Fusion), "patches", "rods", "none")
        if cones not in known:
            raise ValueError(f"CompactCooperativeEncoder: expected cones to be one of {known}, got {cones!r}.")
        if cones == "concatenation" and spatial_order == "grouped":
            raise ValueError(
                "CompactCooperativeEncoder: expected spatial_order='by_level' for cones='concatenation', got 'grouped'."
            )
        if rod_tokens not in (0, 2):
            raise ValueError(f"CompactCooperativeEncoder: expected rod_tokens 0 or 2, got {rod_tokens}.")
        if rod_input not in get_args(RodInput):
            raise ValueError(
                f"CompactCooperativeEncoder: expected rod_input to be one of {get_args(RodInput)}, got {rod_input!r}."
            )
        if projector not in (None, "mlp2x_gelu"):
            raise ValueError(f"CompactCooperativeEncoder: expected projector 'mlp2x_gelu' or None, got {projector!r}.")

    def token_counts(self, num_patches: int) -> TokenCounts:
        """Tokens per cone and rod frame, for frames of `num_patches` patches."""
        rod = min(self.rod_tokens, num_patches)
        special = {"none": 0, "rods": min(2, num_patches), "patches": num_patches}
        cone = special.get(self.cone_source, self.cones.num_tokens(self.spatial.num_rows(num_patches)))
        cone = min(cone, num_patches)
        return TokenCounts(cone, rod, min(rod, num_patches - cone) if self.rods_when_all_focus else 0)

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        selection: FrameSelection,
        text: Float[Tensor, "batch *each queries dim_text"] | None = None,
        *,
        text_mask: Bool[Tensor, "batch *each queries"] | None = None,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        grid: Grid | None = None,
        num_tokens: int | None = None,
        focus_only: bool = False,
        keep_merging: bool = False,
    ) -> CompressedVideo:
        """Encode every frame as its place in `selection` says.

        Args:
            frames: V, patch features without class or register tokens.
            selection: Which frames are in focus, from `DynamicPrototypeEstimator` or a baseline.
            text: Q, per video or per frame.
            text_mask: Which text tokens are real.
            frame_mask: Which frames are real.
            grid: (height, width) of a frame in patches, where it is not square.
            num_tokens: The number of tokens of the batch, where the caller knows it; saves a synchronisation.
            focus_only: No tokens for peripheral frames, whatever `rod_tokens` says.
            keep_merging: Keep what `CompressedVideo.pool_like` needs.

        Raises:
            ValueError: features of another width, patches that fill no grid, text of another width.
        """
        if frames.shape[-1] != self.dim:
            raise ValueError(
                f"CompactCooperativeEncoder: expected features of width {self.dim}, got {frames.shape[-1]}. "
                f"Build the connector with dim={frames.shape[-1]}."
            )
        patches = frames.shape[2]
        grid = resolve_grid(patches, grid)
        counts = self.token_counts(patches)
        counts = TokenCounts(counts.cone, 0) if focus_only else counts
        spatial, objects = self.spatial.cluster(frames)

        cones = self._cone_rows(frames, objects, spatial, selection, counts)
        rods = self._rod_rows(frames, objects, spatial, text, text_mask)
        place = layout(selection.is_focus, frame_mask, counts, num_tokens)
        source = self._source(place, selection, cones.shape[2], rods.shape[2])
        tokens = gather_rows(self.projector.fine(cones), self.projector.coarse(rods), source)
        joined = selection.soft_mask.flatten()[:0].sum() + cones.flatten()[:0].sum()

        merging = None
        if keep_merging:
            merging = self._merging(frames, objects, spatial, selection, text, text_mask, grid, source, counts)
        return CompressedVideo.build(
            tokens=tokens + joined.to(tokens.dtype),
            frame_index=frame_number(selection.is_focus, frame_mask)[place.frame],
            kind=torch.where(place.is_cone, int(TokenKind.CONE), int(TokenKind.ROD)),
            anchor=self._anchors(spatial, selection, counts, grid, cones, rods)[source],
            offsets=place.offsets,
            selection=selection,
            merging=merging,
        )

    def keep_all(self, frames: Float[Tensor, "batch frames patches dim"], selection: FrameSelection) -> CompressedVideo:
        """Every patch of every frame, through F_fine only: what a budget of everything asks for.

        Modules without a part in it see a slice of length zero, so that every parameter has a gradient.
        """
        batch, length, patches, _ = frames.shape
        none = frames[:, :0]
        rows, objects = self.spatial.cluster(none)
        rods = self.projector.coarse(self._rod_rows(none, objects, rows, None, None))
        cones = self.cones(selection.filtered_prototypes()[:, :0], objects, rows.row_mask)
        joined = rods.flatten().sum() + cones.flatten().sum() + selection.soft_mask.flatten()[:0].sum()
        tokens = self.projector.fine(frames).flatten(0, 2)
        index = torch.arange(batch * length * patches, device=frames.device)
        return CompressedVideo.build(
            tokens=tokens + joined.to(tokens.dtype),
            frame_index=index // patches % length,
            kind=torch.full_like(index, int(TokenKind.CONE)),
            anchor=index % patches,
            offsets=torch.arange(batch + 1, device=frames.device) * (length * patches),
            selection=selection,
            merging=Merging.everything(batch, length, patches, frames.device),
        )

    def keeps_patches(self, counts: TokenCounts, num_patches: int) -> bool:
        """Whether a focus frame is its own patches."""
        return self.cone_source == "patches" or (self.cone_source in get_args(Fusion) and counts.cone >= num_patches)

    def _cone_rows(
        self,
        frames: Tensor,
        objects: Tensor,
        spatial: SpatialMerging,
        selection: FrameSelection,
        counts: TokenCounts,
    ) -> Float[Tensor, "batch focus cone_rows dim"]:
        if self.keeps_patches(counts, frames.shape[2]):
            return take_frames(frames, selection.focus_index)
        events = selection.filtered_prototypes()
        focused = take_frames(objects, selection.focus_index)
        return self.cones(events, focused, take_frames(spatial.row_mask, selection.focus_index))

    def _rod_sources(
        self, frames: Tensor, objects: Tensor, spatial: SpatialMerging
    ) -> tuple[Tensor, Bool[Tensor, "batch frames sources"], Int[Tensor, "batch frames"]]:
        """What rods look at, which of it is real, and the densest of it."""
        densest = spatial.log_density[..., : self.spatial.num_prototypes[0]].argmax(-1)
        if self.spatial.order == "grouped":
            densest = spatial.log_density.argmax(-1)
        if self.rod_input == "prototypes":
            return objects, spatial.row_mask, densest
        patch = spatial.center.gather(-1, densest[..., None])[..., 0].clamp(min=0)
        finite = finite_points(frames)
        return frames.masked_fill(~finite[..., None], 0), finite, patch

    def _rod_rows(
        self, frames: Tensor, objects: Tensor, spatial: SpatialMerging, text: Tensor | None, text_mask: Tensor | None
    ) -> Float[Tensor, "batch frames rod_rows dim"]:
        return self.rods(*self._rod_sources(frames, objects, spatial), text, text_mask)

    def _source(
        self, place: Layout, selection: FrameSelection, cone_rows: int, rod_rows: int
    ) -> Int[Tensor, " tokens"]:
        """Each token's row in [all cone rows; all rod rows]."""
        batch, focus = selection.focus_index.shape
        slot = (selection.is_focus.cumsum(1) - 1).clamp(min=0)
        slot = slot + torch.arange(batch, device=slot.device)[:, None] * focus
        cone = slot.flatten()[place.frame] * cone_rows + place.place
        rod = batch * focus * cone_rows + place.frame * rod_rows + place.place
        return rod if self.cone_source == "rods" else torch.where(place.is_cone, cone, rod)

    def _anchors(
        self,
        spatial: SpatialMerging,
        selection: FrameSelection,
        counts: TokenCounts,
        grid: Grid,
        cones: Tensor,
        rods: Tensor,
    ) -> Int[Tensor, " rows"]:
        """The patch slot of every row of [all cone rows; all rod rows]."""
        patches = grid[0] * grid[1]
        if self.keeps_patches(counts, patches):
            cone = torch.arange(patches, device=cones.device).expand(cones.shape[:3])
        else:
            centers = take_frames(spatial.center, selection.focus_index)
            cone = cone_anchors(centers, grid, self.pool_grid, cones.shape[2])
        rod = rod_anchors(spatial, grid, rods.shape[2])
        if counts.rods_of_all_focus:
            taken = take_frames(rod, selection.focus_index)[..., : counts.rods_of_all_focus]
            cone = avoid_anchors(cone, taken, grid)
        return torch.cat([cone.flatten(), rod.flatten()])

    def _merging(
        self,
        frames: Tensor,
        objects: Tensor,
        spatial: SpatialMerging,
        selection: FrameSelection,
        text: Tensor | None,
        text_mask: Tensor | None,
        grid: Grid,
        source: Tensor,
        counts: TokenCounts,
    ) -> Merging:
        focused = take_frames(objects, selection.focus_index)
        row_mask = take_frames(spatial.row_mask, selection.focus_index)
        cone_weight = None
        if not self.keeps_patches(counts, frames.shape[2]):
            cone_weight = self.cones.weights(selection.filtered_prototypes(), focused, row_mask)
        finite = finite_points(frames.flatten(2))
        event_weight = member_weights(
            selection.log_importance, selection.event, selection.prototype_index, finite, self.merge_weights
        )
        return Merging(
            cells=cell_weights(grid, self.pool_grid, device=frames.device),
            event=selection.event,
            event_weight=event_weight,
            soft_mask=selection.soft_mask,
            focus_index=selection.focus_index,
            spatial=spatial,
            cone_weight=cone_weight,
            rod_weight=self.rods.weights(*self._rod_sources(frames, objects, spatial), text, text_mask),
            rods_see_patches=self.rod_input == "patches",
            source=source,
        )
