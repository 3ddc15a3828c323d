"""Put a connector into a host, and take it out again."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from packaging.version import Version
from torch import nn

from dynfocus_transformers.adapters import adapter_for
from dynfocus_transformers.forwarding import forward_compressed
from dynfocus_transformers.generation import generate_compressed
from dynfocus_transformers.memory import EventMemory
from dynfocus_transformers.report import VideoReport
from dynfocus_transformers.settings import SUBFOLDER, Question, Settings, load_connector

OWN = ("dynfocus_settings", "dynfocus_report", "dynfocus_memory")


def attach(
    model: Any,
    connector: str | os.PathLike[str] | nn.Module = "training-free",
    *,
    max_tokens: int | None = None,
    ratio: float | None = None,
    question: Question = "last",
    **settings: Any,
) -> Any:
    """Let `connector` compress the videos of a host; everything else about the host stays.

    The connector becomes the submodule `model.dynfocus`. The model is its own context manager::

        with attach(model, "training-free", max_tokens=2048) as model:
            out = model.generate(**inputs)

    Args:
        model: A `...ForConditionalGeneration` of a known type.
        connector: A module with the connector's contract, ``"training-free"``, a folder or a hub id. A module's
            parameters have the host's dtype; a folder is read in it.
        max_tokens: The most tokens per video.
        ratio: The same as a share of the video's tokens.
        question: Which question the connector sees: ``"last"``, ``"first"``, or ``"none"``.
        settings: More of `Settings`. Any of them can be given for one call: `model(..., dynfocus={"ratio": 0.1})`.

    Returns:
        The same model.

    Raises:
        NotImplementedError: an unknown host, or a transformers too old.
        ValueError: already attached; a connector of another width or dtype; a wrong setting.
    """
    if isinstance(model, Attached):
        raise ValueError("attach: expected a host without a connector, got one with one. Detach it first.")
    adapter = adapter_for(model)
    if Version(transformers.__version__) < Version(adapter.oldest):
        raise NotImplementedError(
            f"attach: expected transformers >= {adapter.oldest} for {adapter.model_type}, "
            f"got {transformers.__version__}."
        )
    chosen = Settings(max_tokens=max_tokens, ratio=ratio, question=question, **settings)
    like = model.get_input_embeddings().weight
    module = load_connector(connector, adapter.width, like.dtype)
    keeps = [p.is_meta for p in module.parameters()]
    if like.device.type != "meta" and not any(keeps):
        module = module.to(like.device)
    with rehooked(model):
        host: Any = type(model)
        model.__class__ = attached_class(host)
        model.dynfocus = module
        model.dynfocus_settings = chosen
        model.dynfocus_report = []
        model.dynfocus_memory = EventMemory()
    return model


def detach(model: Any) -> Any:
    """Undo `attach`.

    Raises:
        ValueError: nothing is attached.
    """
    if not isinstance(model, Attached):
        raise ValueError(f"detach: expected a model with a connector, got a plain {type(model).__name__}.")
    with rehooked(model):
        model.__class__ = model.dynfocus_host_class
        del model.dynfocus
        for name in OWN:
            del model.__dict__[name]
    return model


class Attached:
    """What a host gains by `attach`; stands before the host's own class."""

    dynfocus: nn.Module
    dynfocus_settings: Settings
    dynfocus_report: list[VideoReport]
    dynfocus_memory: EventMemory
    dynfocus_host_class: Any

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        detach(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state: Any = self.__getstate__()  # type: ignore[attr-defined,unused-ignore]
        return _rebuild, (self.dynfocus_host_class,), state

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """The host with the connector's weights inside, and the connector alone in the folder `dynfocus`."""
        super().save_pretrained(save_directory, **options)  # type: ignore[misc]
        save = getattr(self.dynfocus, "save_pretrained", None)
        if save is not None and options.get("is_main_process", True):
            save(os.path.join(save_directory, SUBFOLDER))


@functools.cache
def attached_class(host: Any) -> Any:
    """The host's class with videos compressed on their way in; under the host's name, which goes into checkpoints."""

    def forward(self: Any, *args: Any, dynfocus: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        return forward_compressed(self, functools.partial(host.forward, self), args, kwargs, dynfocus)

    def generate(self: Any, *args: Any, dynfocus: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        return generate_compressed(self, functools.partial(host.generate, self), args, kwargs, dynfocus)

    body: dict[str, Any] = {
        "forward": functools.wraps(host.forward)(forward),
        "generate": functools.wraps(host.generate)(generate),
        "dynfocus_host_class": host,
        "__module__": host.__module__,
        "__qualname__": host.__qualname__,
        "__doc__": host.__doc__,
    }
    return type(host.__name__, (Attached, host), body)


def _rebuild(host: Any) -> Any:
    made = attached_class(host)
    return made.__new__(made)


@contextlib.contextmanager
def rehooked(model: Any) -> Iterator[None]:
    """Take accelerate's hook (device_map) off while the class changes: it holds the old `forward`."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module, remove_hook_from_module

        remove_hook_from_module(model)
    try:
        own = model.__dict__.get("forward")
        if own is not None and getattr(own, "__func__", None) is not type(model).forward:
            raise ValueError(
                "attach: expected a host whose forward is its class's, got one replaced on the instance. "
                "Attach before whatever replaces it."
            )
        model.__dict__.pop("forward", None)
        yield
    finally:
        if hook is not None:
            add_hook_to_module(model, hook)
