"""What DynFocus is compared with: other choices of frames, pooling, merging, everything. All with its contract."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector.budget import BudgetPlan, TokenBudget, evenly
from dynfocus_connector.config import DynFocusConfig
from dynfocus_connector.connector import DynFocusConnector, build_connector
from dynfocus_connector.contracts import CompressedVideo, FrameSelection
from dynfocus_connector.estimator import DynamicPrototypeEstimator, num_focus_frames
from dynfocus_connector.event_baseline import EventMerging
from dynfocus_connector.packing import TokenCounts
from dynfocus_connector.pooled_baselines import MeanPooling, TokenMerging
from dynfocus_connector.query_baseline import QueryTokens

FrameChoice = Literal["uniform", "random"]
Baseline = Literal[
    "uniform", "random", "mean_pooling", "two_tokens", "token_merging", "event_merging", "query_tokens", "keep_all"
]


def build_baseline(
    name: Baseline,
    config: DynFocusConfig,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A rival with the connector's contract: `forward(frames, text, ..., budget=...) -> CompressedVideo`.

    ``"uniform"`` and ``"random"`` put evenly spaced or random frames in focus, with the same cones and rods; only the
    frame indices differ. ``"two_tokens"`` gives every frame its rods (LLaMA-VID's way), ``"mean_pooling"`` averages
    over time and over space (Video-ChatGPT's), ``"token_merging"`` merges the most similar patches of a frame (ToMe's
    idea), ``"event_merging"`` the patches of an event (Chat-UniVi's idea), ``"query_tokens"`` takes the queries of the
    text encoder for tokens (BLIP-2's way, frame by frame), ``"keep_all"`` keeps every patch. For the oracle, pass the
    frames it knows as `focus_index` to any `DynFocusConnector`.

    Args:
        name: Which.
        config: The connector it stands beside: widths, cones, rods, projector.
        seed: Of ``"random"``.
        device, dtype: Of the parameters.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> rival = build_baseline("uniform", DynFocusConfig.training_free(dim=8)).eval()
        >>> rival(torch.randn(1, 100, 64, 8)).selection.focus_index[0, :3].tolist()
        [2, 7, 12]
    """
    if name not in get_args(Baseline):
        raise ValueError(f"build_baseline: expected one of {get_args(Baseline)}, got {name!r}.")
    if name == "mean_pooling":
        return MeanPooling(config.dim, config.dim_out, projector=config.projector, device=device, dtype=dtype)
    if name == "token_merging":
        return TokenMerging(config.dim, config.dim_out, projector=config.projector, device=device, dtype=dtype)
    if name == "event_merging":
        return EventMerging(
            config.dim,
            config.dim_out,
            num_events=config.num_prototypes,
            neighbors=config.temporal_neighbors,
            projector=config.projector,
            device=device,
            dtype=dtype,
        )
    if name == "query_tokens":
        return QueryTokens(
            config.dim_text or config.dim,
            config.dim_out or config.dim,
            projector=config.projector,
            device=device,
            dtype=dtype,
        )
    connector = build_connector(config, device=device, dtype=dtype)
    if name == "keep_all":
        return OtherPlan(connector, Everything)
    if name == "two_tokens":
        return OtherPlan(connector, RodsOnly)
    estimator = cast(DynamicPrototypeEstimator, connector.estimator)
    return DynFocusConnector(FixedFrames(estimator, name, seed=seed), connector.encoder, config)


class FixedFrames(nn.Module):
    """Frames chosen without looking: takes the estimator's place in a `DynFocusConnector`.

    Args:
        estimator: Whose pooling, K and events are used; its choice of frames is not.
        choice: ``"uniform"``, or ``"random"`` (the same frames for the same seed, length and K).
        seed: Of the random choice; no global random state is touched.
    """

    def __init__(self, estimator: DynamicPrototypeEstimator, choice: FrameChoice, *, seed: int = 0) -> None:
        super().__init__()
        self.estimator = estimator
        self.choice = choice
        self.seed = seed

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Tensor | None = None,
        *,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        num_prototypes: int | None = None,
        num_focus: int | None = None,
        focus_index: Int[Tensor, "batch chosen"] | None = None,
        **options: Any,
    ) -> FrameSelection:
        """As `DynamicPrototypeEstimator`, with the frames fixed."""
        if focus_index is None:
            focus_index = self.choose(frames, frame_mask, num_focus)
        return self.estimator(frames, text, frame_mask=frame_mask, focus_index=focus_index, **options)

    def choose(self, frames: Tensor, frame_mask: Tensor | None, num_focus: int | None) -> Int[Tensor, "batch chosen"]:
        """The frame indices, -1 where a video has fewer."""
        batch, length = frames.shape[:2]
        mask = torch.ones(batch, length, dtype=torch.bool, device="cpu") if frame_mask is None else frame_mask.cpu()
        picks = []
        for real in mask:
            index = real.nonzero()[:, 0]
            events = min(self.estimator.num_prototypes, len(index))
            count = num_focus_frames(events, self.estimator.focus_ratio) if num_focus is None else num_focus
            picks.append(index[self._positions(len(index), min(count, len(index)))])
        padded = nn.utils.rnn.pad_sequence(picks, batch_first=True, padding_value=-1)
        return padded.to(frames.device)

    def _positions(self, length: int, count: int) -> Int[Tensor, " count"]:
        if self.choice == "uniform":
            return torch.tensor(evenly(length, count), dtype=torch.long, device="cpu")
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(length, generator=generator, device="cpu")[:count].sort().values


class OtherPlan(nn.Module):
    """A connector whose budget is spent another way: on everything, or on rods alone."""

    def __init__(self, connector: DynFocusConnector, plan: type[TokenBudget]) -> None:
        super().__init__()
        self.connector = connector
        self.config = connector.config
        self.plan = plan

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Tensor | None = None,
        *,
        budget: TokenBudget | None = None,
        **options: Any,
    ) -> CompressedVideo:
        """As `DynFocusConnector`."""
        budget = TokenBudget(ratio=1.0) if budget is None else budget
        return self.connector(frames, text, budget=self.plan(budget.max_tokens, budget.ratio), **options)


class Everything(TokenBudget):
    """Every patch of every frame, through F_fine only: the ceiling of any comparison, whatever the budget."""

    def plan(self, num_frames: int, num_patches: int, counts: TokenCounts, focus_ratio: float | int) -> BudgetPlan:
        """All frames, all patches."""
        return BudgetPlan(num_frames, num_frames, num_frames, num_frames * num_patches, everything=True)


class RodsOnly(TokenBudget):
    """Rods for every frame, none in focus; a budget below two tokens per frame takes fewer frames, evenly."""

    def plan(self, num_frames: int, num_patches: int, counts: TokenCounts, focus_ratio: float | int) -> BudgetPlan:
        """As many frames as the budget has rods for."""
        length = min(num_frames, self.tokens_for(num_frames, num_patches) // counts.rod)
        if length < min(num_frames, 1):
            raise ValueError(f"RodsOnly: expected a budget of at least {counts.rod} tokens, got {self}.")
        return BudgetPlan(length, 1, 0, counts.rod * length)
