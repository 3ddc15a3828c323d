"""Attaching is reversible and survives copies, hooks, saving."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dynfocus_transformers import attach, detach
from tests.integration.transformers.connectors import trained
from tests.integration.transformers.tiny import Tiny, Video, text

ROW = [text(1, 3), Video(6, 1), text(2, 6)]


@pytest.mark.proves("detach restores")
@torch.no_grad()
def test_detach(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch(ROW)
    plain, kind, names = host(**batch).logits, type(host), set(host.__dict__)
    with attach(host, trained(), ratio=0.4) as model:
        assert model is host
        assert isinstance(host, kind)
        assert not torch.equal(model(**batch).logits[:, -1], plain[:, -1])
        assert "dynfocus" in dict(host.named_children())
        model.generate(**batch, max_new_tokens=1)
    assert type(host) is kind
    assert set(host.__dict__) == names
    assert not any("dynfocus" in name for name in host.state_dict())
    assert torch.equal(host(**batch).logits, plain)


@pytest.mark.proves("deepcopy at any time, pickle before the first forward")
@torch.no_grad()
def test_copies(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch(ROW)
    attach(host, trained(), ratio=0.4)
    twins = [copy.deepcopy(host), pickle.loads(pickle.dumps(host))]
    expected = host(**batch).logits
    twins.append(copy.deepcopy(host))
    for twin in twins:
        assert torch.equal(twin(**batch).logits, expected)
        for parameter in twin.dynfocus.parameters():
            parameter.zero_()
        assert not torch.equal(twin(**batch).logits, expected)
        detach(twin)
        assert torch.equal(host(**batch).logits, expected)


@pytest.mark.proves("bfloat16")
@torch.no_grad()
def test_dtypes(tiny: Tiny, host: Any) -> None:
    host.to(torch.bfloat16)
    batch = tiny.batch(ROW)
    batch = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in batch.items()}
    plain = host(**batch).logits
    assert torch.equal(attach(host, ratio=1.0)(**batch).logits, plain)
    attach(detach(host), trained().to(torch.bfloat16), ratio=0.4)
    for connector in (host.dynfocus, host.dynfocus.float()):
        assert connector is host.dynfocus
        assert host(**batch).logits.dtype == torch.bfloat16
        assert host(**batch).logits.isfinite().all()


@pytest.mark.proves("device_map: in one piece, spread")
@torch.no_grad()
def test_hooks(tiny: Tiny, host: Any) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    batch = tiny.batch(ROW)
    plain = host(**batch).logits
    hooks.add_hook_to_module(host, hooks.AlignDevicesHook(io_same_device=True))
    attach(host, trained(), ratio=0.4)
    assert not torch.equal(host(**batch).logits[:, -1], plain[:, -1])
    assert hasattr(host, "_hf_hook")
    assert torch.equal(detach(host)(**batch).logits, plain)


@pytest.mark.proves("save_pretrained: host and connector, each loadable alone")
@torch.no_grad()
def test_saving(tiny: Tiny, host: Any, tmp_path: Path) -> None:
    batch = tiny.batch(ROW)
    plain = host(**batch).logits
    attach(host, trained(), ratio=0.4)
    expected = host(**batch).logits
    host.save_pretrained(tmp_path)
    loaded = type(host).dynfocus_host_class.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**batch).logits, plain)
    assert torch.equal(attach(loaded, tmp_path, ratio=0.4)(**batch).logits, expected)


def test_signatures(tiny: Tiny, host: Any) -> None:
    names = list(inspect.signature(host.forward).parameters)
    attach(host, ratio=0.5)
    assert list(inspect.signature(host.forward).parameters) == names
    assert type(host).__name__ == type(host).dynfocus_host_class.__name__
