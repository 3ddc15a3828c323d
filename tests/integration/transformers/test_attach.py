"""Attaching is reversible, survives copies, and refuses what it cannot do, leaving the host as it was."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from jaxtyping import TypeCheckError

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_transformers import attach, detach
from tests.integration.transformers.connectors import Everything, trained, training_free
from tests.integration.transformers.tiny import HOSTS, Tiny, Video, text

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


@pytest.mark.proves("deepcopy and pickle")
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
    for connector in (trained(), trained().to(torch.bfloat16)):
        attach(detach(host), connector, ratio=0.4)
        assert host(**batch).logits.dtype == torch.bfloat16
        assert host(**batch).logits.isfinite().all()


@pytest.mark.proves("device_map (accelerate's hooks)")
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


@pytest.fixture
def model() -> Any:
    return HOSTS["llava_onevision"].model()


BAD_ATTACH = [
    ({"connector": "training-free", "max_tokens": 4, "ratio": 0.5}, ValueError, "either max_tokens or ratio"),
    ({"max_tokens": 0}, ValueError, "max_tokens >= 1, got 0"),
    ({"question": "all"}, (ValueError, TypeCheckError), "got 'all'|Actual value: 'all'"),
    ({"connector": 3}, (TypeError, TypeCheckError), "got int|Actual value: 3"),
    ({"connector": build_connector(DynFocusConfig.training_free(dim=16))}, ValueError, "32.*got 16, 16 and 16"),
    ({"connector": build_connector(DynFocusConfig(dim=32, dim_out=64, dim_text=32))}, ValueError, "got 32, 64 and 32"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_ATTACH, ids=[row[2] for row in BAD_ATTACH])
def test_bad_attach(model: Any, options: dict[str, Any], error: Any, message: str) -> None:
    kind, names = type(model), set(model.__dict__)
    with pytest.raises(error, match=message):
        attach(model, **options)
    assert type(model) is kind
    assert set(model.__dict__) == names
    assert not hasattr(model, "dynfocus")


def test_attached_twice(model: Any) -> None:
    attach(model)
    with pytest.raises(ValueError, match=r"attach: expected a host without a connector"):
        attach(model)
    detach(model)
    with pytest.raises(ValueError, match=r"detach: expected a model with a connector"):
        detach(model)


def test_unknown_host() -> None:
    small = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.LlamaConfig(**small, intermediate_size=8)
    with pytest.raises(NotImplementedError, match=r"internvl.*video_llava.*got LlamaForCausalLM of type 'llama'"):
        attach(transformers.LlamaForCausalLM(config))


def test_old_transformers(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    with pytest.raises(NotImplementedError, match=r"transformers >= 5\.(18|21) for \w+, got 5\.17\.0"):
        attach(model)


def bad_calls() -> list[tuple[str, dict[str, Any], str]]:
    tiny = HOSTS["llava_onevision"]
    batch = tiny.batch(ROW)
    cut = {**batch, "input_ids": batch["input_ids"][:, :-20], "attention_mask": batch["attention_mask"][:, :-20]}
    silent = {**tiny.batch([text(1, 9)]), "pixel_values_videos": batch["pixel_values_videos"]}
    ids = {key: value for key, value in batch.items() if key != "input_ids"}
    return [
        ("fewer placeholders", cut, r"expected 97 placeholders \(token 100\).*got 84"),
        ("no video in the prompt", silent, r"expected 97 placeholders.*got 0"),
        ("no ids", {**ids, "inputs_embeds": torch.zeros(1, 9, 32)}, "expected input_ids, got inputs_embeds"),
        ("4-D mask", {**batch, "attention_mask": torch.ones(1, 1, 9, 9)}, r"got \(1, 1, 9, 9\)"),
        ("too small", {**batch, "dynfocus": {"max_tokens": 1}}, "expected at least 2 tokens"),
        ("not known", {**batch, "dynfocus": {"tokens": 1}}, r"got \['tokens'\]"),
    ]


@pytest.mark.parametrize(("batch", "message"), [c[1:] for c in bad_calls()], ids=[c[0] for c in bad_calls()])
@torch.no_grad()
def test_bad_call(model: Any, batch: dict[str, Any], message: str) -> None:
    good = HOSTS["llava_onevision"].batch(ROW)
    attach(model, training_free(), ratio=0.4)
    expected = model(**good).logits
    with pytest.raises((ValueError, TypeError), match=message):
        model(**batch)
    assert torch.equal(model(**good).logits, expected)


@torch.no_grad()
def test_too_many_tokens(model: Any) -> None:
    class Twice(Everything):
        def forward(self, frames: torch.Tensor, text: Any = None, **options: Any) -> Any:
            video = super().forward(frames, text)
            return type(video).pack([video, video])

    attach(model, Twice())
    with pytest.raises(ValueError, match=r"expected at most 96 tokens .* got 192"):
        model(**HOSTS["llava_onevision"].batch(ROW))
