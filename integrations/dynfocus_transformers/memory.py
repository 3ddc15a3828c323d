"""The events of videos seen in the call before: another question about the same video does not find them again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynfocus_connector.estimator import DynamicPrototypeEstimator
from dynfocus_connector.events import Events


class Seen(NamedTuple):
    """One video."""

    pooled: Float[Tensor, "1 frames pooled dim"]
    options: tuple[Any, ...]
    events: Events

    def is_of(self, pooled: Tensor, options: tuple[Any, ...]) -> bool:
        """Whether finding events would find these again; the one moment that waits for the device."""
        alike = self.options == options and (self.pooled.dtype, self.pooled.device) == (pooled.dtype, pooled.device)
        return alike and torch.equal(self.pooled, pooled)


class EventMemory:
    """Holds the pooled frames and the events of the videos of one call until the next.

    A video is known by its pooled frames, value for value, and by everything that finding events depends on, so what is
    remembered is what would be found. No question takes part in finding events. Copies and pickles begin empty.
    """

    def __init__(self) -> None:
        self.before: list[Seen] = []
        self.now: list[Seen] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return EventMemory, ()

    def begin(self) -> None:
        """A new call: forget what the last one did not meet."""
        self.before, self.now = self.now, []

    @contextlib.contextmanager
    def used_by(self, connector: nn.Module) -> Iterator[None]:
        """Let the connector's estimator ask here first, unless gradients flow through the events."""
        estimator = getattr(connector, "estimator", None)
        if not isinstance(estimator, DynamicPrototypeEstimator) or torch.is_grad_enabled():
            yield
            return
        own = estimator.__dict__.get("find_events")
        estimator.__dict__["find_events"] = functools.partial(self.find, estimator, estimator.find_events)
        try:
            yield
        finally:
            del estimator.__dict__["find_events"]
            if own is not None:
                estimator.__dict__["find_events"] = own

    def find(
        self,
        estimator: DynamicPrototypeEstimator,
        find_events: Callable[..., Events],
        pooled: Float[Tensor, "1 frames pooled dim"],
        *args: Any,
        **kwargs: Any,
    ) -> Events:
        """Those of a video seen before; else found now, and kept."""
        values = [value for value in vars(estimator).values() if isinstance(value, (int, float, str))]
        options = (*values, *args, *sorted(kwargs.items()))
        if any(isinstance(option, Tensor) for option in (*args, *kwargs.values())):
            return find_events(pooled, *args, **kwargs)
        known = next((one for one in (*self.before, *self.now) if one.is_of(pooled, options)), None)
        if known is None:
            known = Seen(pooled, options, find_events(pooled, *args, **kwargs))
        self.now.append(known)
        return known.events
