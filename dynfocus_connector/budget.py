"""A token budget becomes a number of events and focus frames, exactly, before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from dynfocus_connector.packing import TokenCounts

WhenShort = Literal["resample", "focus_only", "error"]


class BudgetPlan(NamedTuple):
    """What a budget allows for one video."""

    num_frames: int
    """Frames that take part; fewer than the video has where the budget is short and frames are resampled evenly."""
    num_prototypes: int
    num_focus: int
    num_tokens: int
    everything: bool = False
    """Every patch of every frame, through the projector only."""
    focus_only: bool = False
    """No tokens for peripheral frames."""


@dataclass(frozen=True)
class TokenBudget:
    """How many tokens a video may become.

    K = clamp(⌊(B − r·T) / (c − r)⌋, 0, T) focus frames among L = min(T, ⌈K / ratio⌉) events, for T frames, c tokens
    per cone frame and r per rod frame. A budget of all N·T patches keeps them.

    Args:
        max_tokens: B, the most tokens per video.
        ratio: B as a share of all N·T patches; give either this or `max_tokens`.
        when_short: What to do where not even rods fit (B < r·T): ``"resample"`` takes fewer frames, evenly, and gives
            half the budget to rods and half to cones; ``"focus_only"`` drops the rods; ``"error"`` refuses.

    Example:
        >>> plan = TokenBudget(max_tokens=1000).plan(100, 256, TokenCounts(40, 2), focus_ratio=0.8)
        >>> plan.num_prototypes, plan.num_focus, plan.num_tokens
        (27, 21, 998)
    """

    max_tokens: int | None = None
    ratio: float | None = None
    when_short: WhenShort = "resample"

    def __post_init__(self) -> None:
        if (self.max_tokens is None) == (self.ratio is None):
            raise ValueError(
                f"TokenBudget: expected either max_tokens or ratio, got max_tokens={self.max_tokens} and "
                f"ratio={self.ratio}."
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"TokenBudget: expected max_tokens >= 1, got {self.max_tokens}.")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"TokenBudget: expected 0 < ratio <= 1, got {self.ratio}.")
        if self.when_short not in get_args(WhenShort):
            raise ValueError(
                f"TokenBudget: expected when_short to be one of {get_args(WhenShort)}, got {self.when_short!r}."
            )

    def tokens_for(self, num_frames: int, num_patches: int) -> int:
        """B."""
        if self.max_tokens is not None:
            return self.max_tokens
        return math.floor(Fraction(str(self.ratio)) * num_frames * num_patches)

    def plan(self, num_frames: int, num_patches: int, counts: TokenCounts, focus_ratio: float | int) -> BudgetPlan:
        """The (L, K) of one video of `num_frames` frames of `num_patches` patches.

        Raises:
            ValueError: the budget is too small for the frames, or cones cost no more than rods.
        """
        budget = self.tokens_for(num_frames, num_patches)
        if budget >= num_patches * num_frames:
            return BudgetPlan(num_frames, num_frames, num_frames, num_patches * num_frames, everything=True)
        cone, rod = counts.cone, counts.rod
        if cone <= rod:
            raise ValueError(
                f"TokenBudget: expected more tokens per cone frame than per rod frame, got {cone} and {rod}. "
                f"With such an encoder the number of tokens is fixed; choose the number of frames instead."
            )
        if budget >= rod * num_frames:
            return self._split(budget, num_frames, counts, focus_ratio)
        if self.when_short == "resample" and budget >= rod:
            return self._split(budget, max(1, budget // (2 * rod)), counts, focus_ratio)
        if self.when_short == "focus_only" and budget >= cone:
            return self._split(budget, num_frames, TokenCounts(cone, 0), focus_ratio)._replace(focus_only=True)
        least = {"resample": rod, "focus_only": cone, "error": rod * num_frames}[self.when_short]
        raise ValueError(
            f"TokenBudget: expected at least {least} tokens for {num_frames} frames with "
            f"when_short={self.when_short!r}, got {budget}. Raise the budget or sample fewer frames."
        )

    @staticmethod
    def _split(budget: int, num_frames: int, counts: TokenCounts, focus_ratio: float | int) -> BudgetPlan:
        free = budget - counts.rod * num_frames
        num_focus = min(max(free // (counts.cone - counts.rod), 0), num_frames)
        if counts.total(num_frames, num_focus) > budget:
            num_focus -= 1
        wanted = math.ceil(num_focus / Fraction(str(focus_ratio))) if focus_ratio else num_frames
        num_prototypes = max(1, min(num_frames, wanted))
        return BudgetPlan(num_frames, num_prototypes, num_focus, counts.total(num_frames, num_focus))


def evenly(num_frames: int, count: int) -> list[int]:
    """`count` of `num_frames` indices, each in the middle of its share.

    Example:
        >>> evenly(10, 5)
        [1, 3, 5, 7, 9]
    """
    return [(2 * i + 1) * num_frames // (2 * count) for i in range(count)]
