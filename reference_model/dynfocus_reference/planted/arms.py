"""The arms of the comparison: what stands in the connector's place, and what of it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConnector, TokenBudget, build_baseline, build_connector
from dynfocus_connector.baselines import Baseline
from dynfocus_connector.budget import evenly
from dynfocus_connector.estimator import num_focus_frames
from dynfocus_connector.events import Events
from dynfocus_connector.pooled_baselines import PooledBaseline
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.memory import Memory, remembering
from dynfocus_reference.planted.questions import Question
from dynfocus_reference.planted.samples import Batch

Frames = Literal["chosen", "oracle"]
Watches = Literal["video", "nothing"]
Extra = Literal["videos", "images", "negatives"]


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    Args:
        name: In results and tables.
        connector: Changes to the study's connector.
        rival: A baseline of the core instead of DPE and CCE.
        frames: Chosen by the arm, or by an oracle that knows to which events the evidence belongs.
        frozen_scorer: φ keeps its random weights.
        watches: ``"nothing"``: the prompt shows no video.
        trains: Parts of the model that learn in stage 2; DPE, CCE, projector and language model where not given.
        effort: Steps and samples per step, as shares of the setting's.
        stage1: Parts that learn in a stage 1 of the arm's own, which begins with a connector drawn anew. Where not
            given, the connector begins as that of every arm.
        extra: What else it learns from in stage 2.
    """

    name: str
    connector: dict[str, Any] = field(default_factory=dict)
    rival: Baseline | None = None
    frames: Frames = "chosen"
    frozen_scorer: bool = False
    watches: Watches = "video"
    trains: tuple[str, ...] = ("connector", "language_model")
    effort: tuple[float, float] = (1.0, 1.0)
    stage1: tuple[str, ...] | None = None
    extra: Extra | None = None

    @property
    def chooses(self) -> bool:
        """Whether some frames are in focus and others are not."""
        return self.watches == "video" and self.rival in (None, "uniform", "random")


ARMS = {
    arm.name: arm
    for arm in (
        Arm("dynfocus"),
        Arm("question scorer", {"scorer": "question"}),
        Arm("frozen scorer", frozen_scorer=True),
        Arm("straight-through", {"relaxation": "straight_through"}),
        Arm("gumbel", {"relaxation": "gumbel"}),
        Arm("diagonal gradient", {"gradient": "diagonal"}),
        Arm("importance", {"scorer": "importance"}),
        Arm("uniform frames", rival="uniform"),
        Arm("random frames", rival="random"),
        Arm("oracle frames", frames="oracle"),
        Arm("cones alone", {"rod_tokens": 0}),
        Arm("rods alone", rival="two_tokens"),
        Arm("mean pooling", rival="mean_pooling"),
        Arm("token merging", rival="token_merging"),
        Arm("event merging", rival="event_merging"),
        Arm("q-former queries", rival="query_tokens"),
        Arm("all tokens", rival="keep_all", effort=(0.5, 0.25)),
        Arm("question only", watches="nothing"),
    )
}

LONGER = (1.5, 1.0)
PROJECTOR = "connector.encoder.projector"
ABLATIONS = {
    arm.name: arm
    for arm in (
        Arm("(0, 256)", {"rod_tokens": 0, "cones": "patches"}),
        Arm("(2, 256)", {"cones": "patches"}),
        Arm("(2, 2)", {"cones": "rods"}),
        Arm("(2, 0)", {"cones": "none"}),
        Arm("oox → ooo", stage1=("connector",)),
        Arm("xxx → xoo", stage1=(), trains=(PROJECTOR, "language_model")),
        Arm("oox → xoo", stage1=("connector",), trains=(PROJECTOR, "language_model")),
        Arm("xox → ooo", stage1=(PROJECTOR,)),
        Arm("k-means", {"clustering": "kmeans"}),
        Arm("weighted k-means", {"clustering": "weighted_kmeans"}),
        Arm("cross-attention", {"cones": "cross_attention"}),
        Arm("concatenation", {"cones": "concatenation"}),
        Arm("rods on patches", {"rod_input": "patches"}),
        Arm("one pooled row", {"pool_grid": 1}),
        Arm("uniform weights", {"merge_weights": "uniform"}),
        Arm("videos, longer", effort=LONGER),
        Arm("more videos", effort=LONGER, extra="videos"),
        Arm("videos and images", effort=LONGER, extra="images"),
        Arm("videos and negatives", effort=LONGER, extra="negatives"),
    )
}
"""rows of the paper's tables that are not in the main comparison"""


def install(arm: Arm, model: ReferenceModel, seed: int) -> nn.Module:
    """Put the arm in the place of the model's connector. What it shares with that keeps the weights, but in an arm with
    a stage 1 of its own.

    Returns:
        The new `model.connector`; what is new in it is drawn from the seed.
    """
    old: Any = model.connector
    config = model.config.connector_config(model.vision.dim)
    config = type(config)(**{**config.to_dict(), **arm.connector})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1000)
        new: nn.Module = build_connector(config) if arm.rival is None else build_baseline(arm.rival, config, seed=seed)
    shared = getattr(new, "connector", new)
    if isinstance(shared, DynFocusConnector):
        if arm.stage1 is None:
            strict = config.cones != "cross_attention"
            shared.encoder.load_state_dict(old.encoder.state_dict(), strict=strict)
        if arm.frozen_scorer:
            shared.estimator.requires_grad_(False)
    elif isinstance(shared, PooledBaseline):
        shared.projector.load_state_dict(old.encoder.projector.content.state_dict())
    if arm.rival is None:
        model.config.connector = {**(model.config.connector or {}), **arm.connector}
    cast(Any, model).connector = new.train(model.training)
    return new


def budget_of(model: ReferenceModel, length: int) -> TokenBudget:
    """What every rival may spend: DynFocus's tokens for a story of that length."""
    config = model.config.connector_config(model.vision.dim)
    with torch.device("meta"):
        return TokenBudget(max_tokens=build_connector(config).num_tokens(length, model.vision.num_patches))


def compress(
    arm: Arm,
    model: ReferenceModel,
    memory: Memory,
    batch: Batch,
    random: np.random.Generator,
    focus_index: Int[Tensor, "batch chosen"] | None = None,
    blend: np.random.Generator | None = None,
) -> CompressedVideo:
    """The tokens of a batch.

    Args:
        arm: Installed in `model`.
        random: Draws what an oracle puts beside the evidence in training.
        focus_index: The oracle's frames, where the caller knows better.
        blend: Of an oracle: its frames are in focus as an unsure φ has them, as `choosing` says.
    """
    connector, index = model.connector, batch.story
    text = memory.answers_of_qformer(model, index, batch.asked, batch.asked_mask)
    options: dict[str, Any] = {}
    if arm.frames == "oracle":
        if focus_index is None:
            stories = [memory.stories[number] for number in index]
            count = num_focus_frames(connector.config.num_prototypes, connector.config.focus_ratio)
            draw = random if model.training else None
            focus_index = oracle_frames(batch.questions, memory.length, count, draw, stories)
        with remembering(connector, memory, index), choosing(connector, focus_index, blend):
            return connector(memory.patches(index), text, hard=blend is None)
    if not arm.chooses:
        options["budget"] = budget_of(model, memory.length)
    with remembering(connector, memory, index), pooling_once(connector, memory, index):
        return connector(memory.patches(index), text, **options)


@contextmanager
def choosing(
    connector: DynFocusConnector, frames: Int[Tensor, "batch chosen"], blend: np.random.Generator | None = None
) -> Iterator[None]:
    """Inside, DPE finds the events as ever, and puts those in focus to which the given frames belong.

    With `blend` scores are drawn, for these events from 0.7 to 1.2, for the others from 0 to 1: where the connector
    relaxes its choice, event prototypes come blended with others, as they do while φ learns.
    """
    estimator: Any = connector.estimator

    def scores(events: Events, *unused: Any) -> Tensor:
        chosen = events.assignment.gather(1, frames)
        if blend is None:
            return torch.zeros_like(events.peak, dtype=torch.float32).scatter(1, chosen, 1.0)
        others, given = blend.random(events.peak.shape), blend.uniform(0.7, 1.2, chosen.shape)
        return torch.as_tensor(others).float().scatter(1, chosen, torch.as_tensor(given).float())

    estimator._raw_scores = scores
    try:
        yield
    finally:
        del estimator._raw_scores


def oracle_frames(
    questions: tuple[Question, ...], length: int, count: int, random: np.random.Generator | None, stories: Any
) -> Int[Tensor, "batch count"]:
    """A frame of the evidence and others beside it: in training other boards or any frames, else evenly spread ones.

    `choosing` takes their events.
    """
    rows = []
    for question, story in zip(questions, stories, strict=True):
        spread = evenly(length, 2 * count)
        chosen = [] if question.evidence is None else [question.evidence[0]]
        if random is None:
            others = iter(spread)
        else:
            chosen = [] if question.evidence is None else [int(random.integers(*question.evidence))]
            others = _distractors(random, story, chosen, length)
        while len(chosen) < count:
            frame = next(others)
            inside = question.evidence is not None and question.evidence[0] <= frame < question.evidence[1]
            if frame not in chosen and not inside:
                chosen.append(frame)
        rows.append(sorted(chosen))
    return torch.tensor(rows)


def _distractors(random: np.random.Generator, story: Any, chosen: list[int], length: int) -> Iterator[int]:
    boards = [scene.start for scene in story.boards.values()]
    while True:
        yield int(random.choice(boards)) if random.random() < 0.5 else int(random.integers(length))


@contextmanager
def pooling_once(rival: nn.Module, memory: Memory, index: Int[Tensor, " batch"]) -> Iterator[None]:
    """Inside, a rival that pools the stories of `index` looks up its rows."""
    if not isinstance(rival, PooledBaseline):
        yield
        return
    pool, stories = rival._pool, iter(index.tolist())

    def look_up(video: Tensor, grid: Any, limit: int | None) -> Any:
        return memory.keep((type(rival).__name__, limit, next(stories)), lambda: pool(video, grid, limit))

    rival._pool = look_up  # type: ignore[method-assign]
    try:
        yield
    finally:
        del rival._pool
