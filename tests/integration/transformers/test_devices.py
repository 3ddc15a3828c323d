"""Nothing is made on a device of its own, as in tests/unit/test_devices.py."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dynfocus_transformers import attach
from dynfocus_transformers.adapters import adapter_for
from dynfocus_transformers.clock import PrefillClock
from dynfocus_transformers.page import page_of
from dynfocus_transformers.report import Stopwatch
from tests.comparing import assert_makes_no_tensor_elsewhere
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.tiny import Picture, Tiny, Video, text

ROWS: dict[str, list[Any]] = {
    "videos": [[text(1, 3), Video(6, 1), text(2, 6)], [text(3, 2), Video(6, 2), text(4, 4)]],
    "pictures": [[text(1, 3), Video(6, 1), text(2, 4), Picture(3), text(5, 5)]],
    "text": [[text(1, 3)], [text(2, 5)]],
}


@pytest.fixture
def host(tiny: Tiny, host: Any) -> Any:
    """The tower of Qwen2.5-VL makes the indices of its windows on the default device, wherever the pixels lie."""
    if tiny.name == "qwen2_5_vl":
        forward = host.model.visual.forward

        def on_the_cpu(*args: Any, **kwargs: Any) -> Any:
            with torch.device("cpu"):
                return forward(*args, **kwargs)

        host.model.visual.forward = on_the_cpu
    return host


def step(model: Any, batch: dict[str, Any]) -> list[Any]:
    """Loss, logits and gradients."""
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return [output.loss, output.logits, [p.grad for p in model.parameters()]]


@pytest.mark.parametrize("name", ROWS)
def test_step(tiny: Tiny, host: Any, name: str) -> None:
    batch = tiny.batch(*ROWS[name], labels=True)
    attach(host, trained(), ratio=0.4)
    assert_makes_no_tensor_elsewhere(partial(step, host.train(), batch))
    assert_makes_no_tensor_elsewhere(partial(step, host.eval(), batch))


@pytest.mark.parametrize("name", ROWS)
def test_generate(tiny: Tiny, host: Any, name: str) -> None:
    batch, connector = tiny.batch(*ROWS[name]), training_free()

    def answer() -> list[Any]:
        with attach(host, connector, ratio=0.4, keep_merging=True) as model:
            sequences, reports = model.generate(**batch, max_new_tokens=3), model.dynfocus_report
        return [sequences, [(one.focus_frames, page_of(one, None, None, "", None).selection) for one in reports]]

    assert_makes_no_tensor_elsewhere(answer)


class Elsewhere(Tensor):
    """Stands for a tensor on another device: it can be fetched, and nothing computed with it and others."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.to and isinstance(args[1], torch.device):
            return args[0].as_subclass(Tensor)
        if any(type(value) in (Tensor, nn.Parameter) for value in args):
            raise RuntimeError(f"{func.__name__}: expected all tensors on one device.")
        return super().__torch_function__(func, types, args, kwargs or {})


@torch.no_grad()
def test_an_encoder_on_another_device(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `device_map` may place it."""
    batch, connector, adapter = tiny.batch(*ROWS["videos"]), trained(), type(adapter_for(host))
    encode = adapter.encode
    with attach(host, connector, ratio=0.4):
        expected = host(**batch).logits

    def encode_elsewhere(self: Any, batch: Any) -> Any:
        return tree_map_only(Tensor, lambda value: value.as_subclass(Elsewhere), encode(self, batch))

    monkeypatch.setattr(adapter, "encode", encode_elsewhere)
    with attach(host, connector, ratio=0.4):
        assert torch.equal(host(**batch).logits, expected)


THERE = torch.device("cuda:1")


def test_the_clock_waits_for_the_device_of_the_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, waited = nn.Module(), []
    monkeypatch.setattr(model, "parameters", lambda: iter([SimpleNamespace(device=THERE)]))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    with PrefillClock(model):
        assert waited == [THERE]


def test_the_stopwatch_stands_in_the_stream_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: SimpleNamespace(record=recorded.append))
    monkeypatch.setattr(torch.cuda, "current_stream", "of {}".format)
    with Stopwatch(THERE):
        assert recorded == ["of cuda:1"]
    assert recorded == ["of cuda:1"] * 2
