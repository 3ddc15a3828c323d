"""Dynamic event prototype estimation (DPE): which frames matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector.choices import (
    Clustering,
    DistanceScale,
    GradientEstimator,
    MergeWeights,
    Relaxation,
    ScoreInput,
    Scorer,
    Seeding,
)
from dynfocus_connector.contracts import FrameSelection
from dynfocus_connector.events import Events, find_events
from dynfocus_connector.pooling import Grid, pool_cells, resolve_grid
from dynfocus_connector.score import QuestionScoreNetwork, ScoreNetwork, min_max, per_video, text_similarity
from dynfocus_connector.topk import hard_topk_indices, perturbed_topk
from dynfocus_connector.topk_gumbel import gumbel_topk


@overload
def num_focus_frames(num_prototypes: int, focus_ratio: float) -> int: ...
@overload
def num_focus_frames(num_prototypes: Int[Tensor, " batch"], focus_ratio: float) -> Int[Tensor, " batch"]: ...
def num_focus_frames(num_prototypes: Any, focus_ratio: float) -> Any:
    """K = ⌈r·L⌉ of the decimal that was written: what rounding adds to the product is taken off, so 0.28 of 25 is 7.

    Example:
        >>> num_focus_frames(25, 0.8), num_focus_frames(16, 0.8), num_focus_frames(25, 0.28)
        (20, 13, 7)
    """
    if isinstance(num_prototypes, Tensor):
        return (num_prototypes.double() * focus_ratio * (1 - 1e-15)).ceil().long()
    return math.ceil(num_prototypes * focus_ratio * (1 - 1e-15))


class DynamicPrototypeEstimator(nn.Module):
    """Find the events of a video, score them, and put the frames of the best in focus.

    Frames are pooled to P cells and clustered into L events (Eq. 1–5), φ scores each event prototype (Eq. 6), and the
    Top-K of them are the focus frames: hard at inference, relaxed by Gaussian perturbation in training (Eq. 7–9).

    **Source**: Sec. 3.2. **Symbols**: `num_prototypes` is L, `focus_ratio` r, `pool_grid` √P, K = ⌈r·min(L, T)⌉.
    **Deviations**: the focus frames always come from the hard Top-K; docs/deviations.md lists the rest.

    Args:
        dim: D, width of the patch features.
        num_prototypes: L; a video of fewer frames has that many.
        focus_ratio: r, the share of events in focus.
        pool_grid: √P; 1 is the global mean (B.3).
        num_neighbors: k of the temporal density.
        distance_scale: As in `density_peaks`.
        merge_weights: As in `merge_prototypes`.
        clustering: Table 11.
        clustering_seeding, clustering_seed: For the k-means variants; no global random state is touched.
        scorer: φ (``"network"``), the same conditioned on text (``"question"``), or no network: the importance γ of
            the event (``"importance"``), which needs no training.
        score_input, score_hidden, score_shares_context, score_epsilon: As in `ScoreNetwork` and `min_max`.
        text_weight: With ``"importance"`` and text in the space of the frames: the share of text–event similarity.
        dim_text: Width of the text features, for ``"question"``.
        sigma, num_samples, gradient, gradient_samples: As in `perturbed_topk`.
        relaxation: ``"soft"`` mixes prototypes in training (the paper), ``"straight_through"`` is hard forward,
            ``"gumbel"`` mixes by one draw of `gumbel_topk` of scale `sigma`.

    Example:
        >>> estimator = DynamicPrototypeEstimator(8, num_prototypes=3, scorer="importance").eval()
        >>> selection = estimator(torch.randn(1, 10, 16, 8))
        >>> selection.is_focus.sum().item(), selection.prototype_index.shape
        (3, torch.Size([1, 3]))
    """

    def __init__(
        self,
        dim: int,
        *,
        num_prototypes: int = 25,
        focus_ratio: float = 0.8,
        pool_grid: int = 4,
        num_neighbors: int = 5,
        distance_scale: DistanceScale = 1.0,
        merge_weights: MergeWeights = "importance",
        clustering: Clustering = "density_peaks",
        clustering_seeding: Seeding = "farthest",
        clustering_seed: int = 0,
        scorer: Scorer = "network",
        score_input: ScoreInput = "largest_norm",
        score_hidden: Sequence[int] | None = None,
        score_shares_context: bool = False,
        score_epsilon: float = 0.0,
        text_weight: float = 0.0,
        dim_text: int | None = None,
        sigma: float = 0.1,
        num_samples: int | None = 500,
        gradient: GradientEstimator = "rao_blackwell",
        gradient_samples: int | None = None,
        relaxation: Relaxation = "soft",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(num_prototypes, focus_ratio, pool_grid, text_weight, clustering, scorer, relaxation)
        self.dim = dim
        self.num_prototypes = num_prototypes
        self.focus_ratio = focus_ratio
        self.pool_grid = pool_grid
        self.num_neighbors = num_neighbors
        self.distance_scale: DistanceScale = distance_scale
        self.merge_weights: MergeWeights = merge_weights
        self.clustering: Clustering = clustering
        self.clustering_seeding: Seeding = clustering_seeding
        self.clustering_seed = clustering_seed
        self.score_epsilon = score_epsilon
        self.text_weight = text_weight
        self.sigma = sigma
        self.num_samples = num_samples
        self.gradient: GradientEstimator = gradient
        self.gradient_samples = gradient_samples
        self.relaxation = relaxation
        self.score: ScoreNetwork | QuestionScoreNetwork | None = None
        if scorer == "network":
            self.score = ScoreNetwork(
                dim,
                hidden=score_hidden,
                score_input=score_input,
                share_context=score_shares_context,
                device=device,
                dtype=dtype,
            )
        elif scorer == "question":
            self.score = QuestionScoreNetwork(
                dim, dim_text or dim, hidden=score_hidden, score_input=score_input, device=device, dtype=dtype
            )

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Float[Tensor, "batch *each queries dim_text"] | None = None,
        *,
        text_mask: Bool[Tensor, "batch *each queries"] | None = None,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        grid: Grid | None = None,
        num_prototypes: int | None = None,
        num_focus: int | None = None,
        focus_index: Int[Tensor, "batch chosen"] | None = None,
        hard: bool | None = None,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "batch samples prototypes"] | None = None,
    ) -> FrameSelection:
        """Select frames.

        Args:
            frames: V, patch features.
            text: The question; only a question-conditioned scorer or `text_weight` looks at it. Per-frame queries
                are averaged over the frames.
            text_mask: Which text tokens are real.
            frame_mask: Which frames are real.
            grid: (height, width) in patches, where a frame is not square.
            num_prototypes: L of this call.
            num_focus: K of this call instead of ⌈r·min(L, T)⌉.
            focus_index: Put these frames in focus instead, each the centre of its event; distinct, -1 pads. Other
                frames join the nearest, nothing is scored.
            hard: True for the hard Top-K, False for the relaxation; None follows train / eval.
            generator: For the perturbation.
            noise: The perturbation itself, standard normal.

        Raises:
            ValueError: features of another width, K above L.
        """
        if frames.shape[-1] != self.dim:
            raise ValueError(
                f"DynamicPrototypeEstimator: expected features of width {self.dim}, got {frames.shape[-1]}. "
                f"Build the connector with dim={frames.shape[-1]}."
            )
        if focus_index is not None and not focus_index.shape[1]:
            focus_index, num_focus = None, 0
        pooled = pool_cells(frames, resolve_grid(frames.shape[2], grid), self.pool_grid)
        events = self.find_events(pooled, frame_mask, num_prototypes, focus_index)
        return self.select(
            events,
            *per_video(text, text_mask, frame_mask),
            whole=frame_mask is None and focus_index is None and self.clustering == "density_peaks",
            num_focus=num_focus if focus_index is None else focus_index.shape[1],
            all_alike=focus_index is not None,
            hard=hard,
            generator=generator,
            noise=noise,
        )

    def select(
        self,
        events: Events,
        text: Float[Tensor, "batch queries dim_text"] | None = None,
        text_mask: Bool[Tensor, "batch queries"] | None = None,
        *,
        num_focus: int | None = None,
        all_alike: bool = False,
        whole: bool = False,
        hard: bool | None = None,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "batch samples prototypes"] | None = None,
    ) -> FrameSelection:
        """Score events that are known and put the best in focus: all of DPE that a question may change.

        Args:
            events: From `find_events`.
            text, text_mask: The question, per video.
            num_focus, hard, generator, noise: As in `forward`.
            all_alike: Every event scores 1, nothing is relaxed.
            whole: No video of the batch lacks an event, so that all have the same K.
        """
        raw = self._raw_scores(events, text, text_mask)
        mask = events.peak >= 0
        scores = min_max(raw, mask, epsilon=self.score_epsilon)
        hard = not self.training if hard is None else hard
        if all_alike:
            scores, hard = mask + 0 * scores, True
        k, max_k = self._num_focus(mask, num_focus)
        allowed: Tensor | None = mask
        if whole:
            k, allowed = max_k, None
        chosen = hard_topk_indices(raw.detach(), k, mask=allowed, max_k=max_k)
        soft_mask = self._soft_mask(scores, chosen, allowed, k, max_k, hard, generator, noise)
        focus_index = events.peak.gather(1, chosen.clamp(min=0)).masked_fill(chosen < 0, -1)
        dtype = events.prototypes.dtype
        return FrameSelection.build(
            scores=scores.to(dtype),
            prototype_index=events.peak,
            prototypes=events.prototypes,
            event=events.assignment,
            soft_mask=soft_mask.to(dtype),
            focus_index=focus_index,
            is_focus=mark_frames(focus_index, events.assignment.shape[1]),
            log_importance=events.log_importance,
        )

    def find_events(
        self,
        pooled: Float[Tensor, "batch frames pooled dim"],
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        num_prototypes: int | None = None,
        focus_index: Int[Tensor, "batch chosen"] | None = None,
        **known: Any,
    ) -> Events:
        """The events of a video in time order: no question takes part, so they can be kept from one to the next.

        Arguments as in `forward`; `known` as in the function `find_events`.
        """
        return find_events(
            pooled,
            self.num_prototypes if num_prototypes is None else num_prototypes,
            self.num_neighbors,
            frame_mask=frame_mask,
            centers=focus_index,
            clustering=self.clustering,
            seeding=self.clustering_seeding,
            seed=self.clustering_seed,
            merge_weights=self.merge_weights,
            distance_scale=self.distance_scale,
            **known,
        )

    @property
    def sees_text(self) -> bool:
        """Whether another question can put other frames in focus."""
        return isinstance(self.score, QuestionScoreNetwork) or (self.score is None and self.text_weight > 0)

    def _raw_scores(
        self, events: Events, text: Tensor | None, text_mask: Tensor | None
    ) -> Float[Tensor, "batch prototypes"]:
        """Scores before normalisation."""
        mask = events.peak >= 0
        if isinstance(self.score, ScoreNetwork):
            return self.score(events.prototypes, mask)
        if isinstance(self.score, QuestionScoreNetwork):
            if text is None:
                text = events.prototypes.new_zeros(len(mask), 1, self.score.key.in_features)
                text_mask = torch.zeros_like(text[..., 0], dtype=torch.bool)
            return self.score(events.prototypes, text, text_mask)
        importance = events.log_importance.gather(1, events.peak.clamp(min=0))
        if text is None or self.text_weight == 0:
            return importance
        similarity = text_similarity(events.prototypes, text, text_mask)
        asked = torch.ones_like(mask[:, :1]) if text_mask is None else text_mask.any(1, keepdim=True)
        mixed = (1 - self.text_weight) * min_max(importance, mask) + self.text_weight * min_max(similarity, mask)
        return torch.where(asked, mixed, importance)

    def _num_focus(self, mask: Tensor, num_focus: int | None) -> tuple[int | Tensor, int]:
        """K of every video, and the largest; nothing is read from the device or copied to it."""
        available = mask.shape[1]
        if num_focus is not None:
            if not 0 <= num_focus <= available:
                raise ValueError(
                    f"DynamicPrototypeEstimator: expected 0 <= num_focus <= {available} event prototypes, "
                    f"got {num_focus}."
                )
            return num_focus, num_focus
        return num_focus_frames(mask.sum(1), self.focus_ratio), num_focus_frames(available, self.focus_ratio)

    def _soft_mask(
        self,
        scores: Tensor,
        chosen: Int[Tensor, "batch focus"],
        mask: Tensor | None,
        k: int | Tensor,
        max_k: int,
        hard: bool,
        generator: torch.Generator | None,
        noise: Tensor | None,
    ) -> Float[Tensor, "batch focus prototypes"]:
        index = torch.arange(scores.shape[1], device=scores.device)
        one_hot = (chosen[..., None] == index).to(scores.dtype)
        if hard:
            return one_hot + scores.flatten()[:0].sum()
        if self.relaxation == "gumbel":
            return gumbel_topk(scores, k, scale=self.sigma, generator=generator, mask=mask, max_k=max_k)
        soft = perturbed_topk(
            scores,
            k,
            sigma=self.sigma,
            num_samples=self.num_samples,
            gradient=self.gradient,
            gradient_samples=self.gradient_samples,
            generator=generator,
            noise=noise,
            mask=mask,
            max_k=max_k,
        )
        return soft if self.relaxation == "soft" else one_hot + (soft - soft.detach())


def mark_frames(index: Int[Tensor, "batch focus"], num_frames: int) -> Bool[Tensor, "batch frames"]:
    """True at the frames of `index`; -1 marks none."""
    mark = torch.zeros(len(index), num_frames + 1, dtype=torch.bool, device=index.device)
    return mark.scatter(1, torch.where(index >= 0, index, num_frames), True)[:, :num_frames]


def _check(
    num_prototypes: int,
    focus_ratio: float,
    pool_grid: int,
    text_weight: float,
    clustering: str,
    scorer: str,
    relaxation: str,
) -> None:
    if num_prototypes < 1 or pool_grid < 1:
        raise ValueError(
            f"DynamicPrototypeEstimator: expected num_prototypes and pool_grid >= 1, "
            f"got {num_prototypes} and {pool_grid}."
        )
    for name, share in (("focus_ratio", focus_ratio), ("text_weight", text_weight)):
        if not 0 <= share <= 1:
            raise ValueError(f"DynamicPrototypeEstimator: expected 0 <= {name} <= 1, got {share}.")
    for name, value, known in (
        ("clustering", clustering, get_args(Clustering)),
        ("scorer", scorer, get_args(Scorer)),
        ("relaxation", relaxation, get_args(Relaxation)),
    ):
        if value not in known:
            raise ValueError(f"DynamicPrototypeEstimator: expected {name} to be one of {known}, got {value!r}.")
