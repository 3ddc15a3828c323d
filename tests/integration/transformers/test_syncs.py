"""A connector asks the device for the same number of answers however many frames there are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dynfocus_transformers import attach, compress_batch
from dynfocus_transformers.adapters import HostAdapter, adapter_for
from dynfocus_transformers.settings import Settings
from tests.integration.transformers.connectors import training_free
from tests.integration.transformers.tiny import Tiny, Video, text

WAITS = {
    "tolist",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
}
"""whose result the host waits for on a GPU"""


def count_waits(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How often `call` waits, by the profiler; `tolist` is no operation, it gets an entry of its own."""
    plain = torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> Any:
        with record_function("tolist"):
            return plain(tensor)

    with monkeypatch.context() as patch, profile(activities=[ProfilerActivity.CPU]) as seen:
        patch.setattr(torch.Tensor, "tolist", tolist)
        call()
    return sum(event.count for event in seen.key_averages() if event.key in WAITS)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda values: values.sum(), 0),
        (lambda values: values.sum().item(), 1),
        (lambda values: bool(values.any()), 1),
        (lambda values: values.tolist(), 1),
        (lambda values: values[values > 0], 1),
        (lambda values: [float(value) for value in values], 5),
    ],
    ids=["sum", "item", "bool", "tolist", "mask", "loop"],
)
def test_the_counter_sees(call: Callable[[Any], Any], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.ones(5)
    assert count_waits(lambda: call(values), monkeypatch) == expected


@pytest.mark.proves("waits for the device do not grow with the frames")
@torch.no_grad()
def test_waits(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr(HostAdapter, "positions", lambda self, batch: None)
    for frames in (6, 24):
        batch = tiny.batch([text(1, 3), Video(frames, 1), text(2, 6)])
        adapter = adapter_for(host)
        output = adapter.encode(batch)
        monkeypatch.setattr(adapter, "encode", lambda batch, output=output: output)
        call = functools.partial(compress_batch, adapter, training_free(), batch, Settings(ratio=0.4))
        counts.append(count_waits(call, monkeypatch))
    assert 0 < counts[0] == counts[1] <= 40


@pytest.mark.proves("waits for the device do not grow with the frames")
@torch.no_grad()
def test_waits_of_generate(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the prompt to the first token; Qwen3-VL itself waits for every frame, with a connector not once more."""
    connector, more = training_free(), []
    for frames in (6, 24):
        batch = tiny.batch([text(1, 3), Video(frames, 1), text(2, 6)])
        call = functools.partial(host.generate, **batch, max_new_tokens=1)
        own = count_waits(call, monkeypatch) if tiny.name == "qwen3_vl" else 0
        with attach(host, connector, ratio=0.4):
            call = functools.partial(host.generate, **batch, max_new_tokens=1)
            more.append(count_waits(call, monkeypatch) - own)
    assert 0 < more[0] == more[1] <= 60
