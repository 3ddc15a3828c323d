"""What DeepSpeed does to a model that is mostly frozen, put right."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class RestoreRotary(TrainerCallback):
    """DeepSpeed casts a model's buffers when it wraps it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """After wrapping, before the first step."""
        getattr(model, "module", model).restore_rotary()


@contextmanager
def saved_without_frozen_parts(engine: Any) -> Iterator[None]:
    """Inside, `engine.save_checkpoint` leaves the frozen parameters out."""
    engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    try:
        yield
    finally:
        del engine.save_checkpoint


@contextmanager
def loaded_without_frozen_parts() -> Iterator[None]:
    """Inside, DeepSpeed takes a checkpoint that holds no frozen parameters."""
    try:
        from deepspeed import DeepSpeedEngine
    except ImportError:
        yield
        return
    whole = DeepSpeedEngine.load_checkpoint

    @functools.wraps(whole)
    def load(engine: Any, folder: str, *args: Any, **kwargs: Any) -> Any:
        return whole(engine, folder, *args, **{**kwargs, "load_module_strict": False})

    DeepSpeedEngine.load_checkpoint = load
    try:
        yield
    finally:
        DeepSpeedEngine.load_checkpoint = whole
