"""`forward` of a host with a connector."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dynfocus_transformers.adapters import adapter_for
from dynfocus_transformers.caches import cache_given, is_filled
from dynfocus_transformers.compress import compress
from dynfocus_transformers.gather import spread

ENCODER_OUTPUTS = ("image_outputs", "video_outputs")


def forward_compressed(
    model: Any,
    host_forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    call: Mapping[str, Any] | None,
) -> Any:
    """Compress, then the host's own forward; in evaluation with labels the logits fit the labels that came in."""
    if args:
        kwargs = {**dict(zip(inspect.signature(host_forward).parameters, args, strict=False)), **kwargs}
    if kwargs.get("return_dict") is False or (kwargs.get("return_dict") is None and not model.config.return_dict):
        return forward_compressed(model, host_forward, (), {**kwargs, "return_dict": True}, call).to_tuple()
    adapter = adapter_for(model)
    if not adapter.has_video(kwargs):
        return join_idle(model, host_forward(**kwargs))
    if is_filled(cache_given(kwargs)):
        raise ValueError(
            "forward: expected the video before anything is cached, got one beside a filled cache. "
            "Use generate to continue a conversation."
        )
    settings = model.dynfocus_settings.changed(call)
    done = compress(adapter, model.dynfocus, kwargs, settings, memory=model.dynfocus_memory)
    model.dynfocus_report = done.report
    inputs = done.inputs
    if "inputs_embeds" in inputs:
        inputs.pop("input_ids")
    output = without_encoders(host_forward(**inputs))
    if not done.report:
        return join_idle(model, output)
    if kwargs.get("labels") is not None and settings.expand_logits and not model.training:
        replace(output, "logits", lambda logits: spread(logits, done.gather))
    return output


def without_encoders(output: Any) -> Any:
    """A host's output without what its encoders returned: that went in compressed, and Trainer would take it for
    predictions."""
    return type(output)(**{key: value for key, value in output.items() if key not in ENCODER_OUTPUTS})


def replace(output: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change one tensor of a host's output in place."""
    output[name] = change(output[name])


def join_idle(model: Any, output: Any) -> Any:
    """An output that the connector had no part in: in training it joins with weight zero, so that each of its
    parameters has a gradient in every step and data-parallel training does not wait for one."""
    trained = any(p.requires_grad for p in model.dynfocus.parameters())
    if not (model.training and trained and torch.is_grad_enabled()):
        return output
    parameter = next(model.dynfocus.parameters())
    frames = parameter.new_zeros(1, 1, 16, adapter_for(model).width)
    idle = 0 * model.dynfocus(frames).tokens.sum()
    replace(output, "logits" if output.get("loss") is None else "loss", lambda value: value + idle.to(value))
    return output
