"""A stage 1 of an arm's own (Table 7): parts of a connector drawn anew learn before a locked language model."""

from __future__ import annotations

from collections.abc import Sequence

from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.training import Schedule
from dynfocus_reference.planted.warmup import Part, about_frames, read
from dynfocus_reference.processing import ReferenceProcessor

CAPTIONS = (
    Part("one frame", "long", 1, False, None, Schedule(400, 32, 1e-2)),
    Part("three frames", "long", 3, False, None, Schedule(150, 24, 1e-2)),
    Part("stories", "long", 3, True, None, Schedule(150, 16, 1e-2)),
)
"""Images first, then videos; what is said is about the frames in focus, which are given, as captions speak of what is
seen. So φ has no gradient here."""
ITEMS = 2000


def align(
    model: ReferenceModel,
    memory: Memory,
    processor: ReferenceProcessor,
    trains: Sequence[str],
    seed: int,
    plan: Sequence[Part] = CAPTIONS,
) -> None:
    """Train the named parts of the model on talk about given frames; no parts, no steps."""
    if not trains:
        return
    model.set_trainable(rf"{part}\." for part in trains)
    model.train()
    for number, part in enumerate(plan):
        stream = 10 * seed + number
        pool = about_frames(memory, processor, part.frames, ITEMS, stream, part.whole, part.turns)
        read(model, memory, pool, part.schedule, stream, whole=part.whole, rivals=False)
