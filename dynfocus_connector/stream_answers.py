"""From the frames held to tokens: a question pays for what it changes, the rest is kept until the next frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from dynfocus_connector.budget import BudgetPlan, evenly
from dynfocus_connector.contracts import CompressedVideo, FrameSelection, TokenKind
from dynfocus_connector.encoder import CompactCooperativeEncoder
from dynfocus_connector.estimator import DynamicPrototypeEstimator
from dynfocus_connector.events import Events
from dynfocus_connector.merging import gather_rows
from dynfocus_connector.packing import TokenCounts, layout
from dynfocus_connector.pooling import Grid
from dynfocus_connector.score import per_video
from dynfocus_connector.stream_memory import HeldFrames, StreamMemory

Kept = TypeVar("Kept")


class Part(NamedTuple):
    """The frames that take part in an answer, and what a budget allows for them."""

    place: Int[Tensor, " frames"]
    """among the frames held"""
    frames: HeldFrames
    plan: BudgetPlan | None

    @staticmethod
    def of(memory: StreamMemory, plan: BudgetPlan | None) -> Part:
        """All frames held, or as many as the plan has room for."""
        held, device = memory.num_held, memory.index.device
        if plan is None or plan.num_frames == held:
            return Part(torch.arange(held, device=device), memory.held(), plan)
        if memory.is_whole:
            place = torch.tensor(evenly(held, plan.num_frames), dtype=torch.long, device=device)
        else:
            place = memory.most_separate(plan.num_frames)
        return Part(place, HeldFrames(*(values[place] for values in memory.held())), plan)


class Answers:
    """The decisions about the frames held, for one question after another.

    Events do not depend on the question; nor do selection and cones, unless the scorer sees the question.
    """

    def __init__(self, estimator: DynamicPrototypeEstimator, encoder: CompactCooperativeEncoder) -> None:
        self.estimator = estimator
        self.encoder = encoder
        self._known: dict[str, tuple[BudgetPlan | None, Any]] = {}

    def forget(self) -> None:
        """Other frames are held now."""
        self._known.clear()

    def select(
        self, memory: StreamMemory, part: Part, question: Tensor | None, text_mask: Tensor | None
    ) -> FrameSelection:
        """DPE, told of places in `part`."""
        events = self._once("events", part.plan, lambda: self._find_events(memory, part))
        num_focus = None if part.plan is None else part.plan.num_focus

        def select() -> FrameSelection:
            text, mask = per_video(question, text_mask, None)
            return self.estimator.select(events, text, mask, num_focus=num_focus, hard=True)

        return select() if self.estimator.sees_text else self._once("selection", part.plan, select)

    def encode(
        self, part: Part, selection: FrameSelection, question: Tensor | None, text_mask: Tensor | None, grid: Grid
    ) -> CompressedVideo:
        """CCE without S-DPC, told of places in `part`."""
        encoder, frames = self.encoder, part.frames.patches[None]
        if part.plan is not None and part.plan.everything:
            return encoder.keep_all(frames, selection)
        objects, spatial = part.frames.objects[None], part.frames.spatial()
        counts = encoder.token_counts(frames.shape[2])
        if part.plan is not None and part.plan.focus_only:
            counts = TokenCounts(counts.cone, 0)

        def cones() -> Tensor:
            return encoder.projector.fine(encoder._cone_rows(frames, objects, spatial, selection, counts))

        fine = cones() if self.estimator.sees_text else self._once("cones", part.plan, cones)
        rods = encoder._rod_rows(frames, objects, spatial, question, text_mask)
        rods[0, :, 0] = part.frames.mean_content()
        total = counts.total(len(part.place), selection.focus_index.shape[1])
        place = layout(selection.is_focus, None, counts, total)
        source = encoder._source(place, selection, fine.shape[2], rods.shape[2])
        return CompressedVideo.build(
            tokens=gather_rows(fine, encoder.projector.coarse(rods), source),
            frame_index=place.frame,
            kind=torch.where(place.is_cone, int(TokenKind.CONE), int(TokenKind.ROD)),
            anchor=encoder._anchors(spatial, selection, counts, grid, fine, rods)[source],
            offsets=place.offsets,
            selection=selection,
        )

    def _find_events(self, memory: StreamMemory, part: Part) -> Events:
        """As `DynFocusConnector` finds them while no frame has left."""
        estimator, pooled = self.estimator, part.frames.pooled[None]
        wanted = estimator.num_prototypes if part.plan is None else part.plan.num_prototypes
        if memory.is_whole:
            return estimator.find_events(pooled, num_prototypes=wanted)
        count = min(wanted, len(part.place))
        peaks = memory.peaks(part.place, count, estimator.distance_scale)
        stands_for = memory.stands_for()[part.place][None]
        return estimator.find_events(pooled, num_prototypes=count, peaks=peaks, stands_for=stands_for)

    def _once(self, name: str, plan: BudgetPlan | None, make: Callable[[], Kept]) -> Kept:
        """What `make` made for this plan since the last frame; another plan takes its place."""
        if name not in self._known or self._known[name][0] != plan:
            self._known[name] = (plan, make())
        kept: Kept = self._known[name][1]
        return kept
