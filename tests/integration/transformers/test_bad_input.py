"""What cannot work is refused with an error of its own, and the host is left as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from jaxtyping import TypeCheckError

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_transformers import DynFocusForConditionalGeneration, attach, detach
from tests.integration.transformers.connectors import Everything, trained, training_free
from tests.integration.transformers.tiny import HOSTS, IMAGE, VIDEO, Picture, Tiny, Video, text

ROW = [text(1, 3), Video(6, 1), text(2, 6)]
OTHER = [text(3, 3), Video(6, 2), text(4, 6)]


def state(model: Any) -> Any:
    """What attaching or a call could change."""
    return (
        type(model),
        {name: id(value) for name, value in model.__dict__.items() if name != "_modules"},
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(name, id(p), p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()],
    )


def half_half() -> Any:
    connector = trained()
    connector.encoder.rods.to(torch.bfloat16)
    return connector


BAD_ATTACH: dict[str, tuple[Callable[[], dict[str, Any]], Any, str]] = {
    "two budgets": (lambda: {"max_tokens": 4, "ratio": 0.5}, ValueError, "either max_tokens or ratio"),
    "budget of nothing": (lambda: {"max_tokens": 0}, ValueError, "max_tokens >= 1, got 0"),
    "question": (lambda: {"question": "all"}, (ValueError, TypeCheckError), "got 'all'|Actual value: 'all'"),
    "no connector": (lambda: {"connector": 3}, (TypeError, TypeCheckError), "got int|Actual value: 3"),
    "width of features": (
        lambda: {"connector": build_connector(DynFocusConfig.training_free(dim=16))},
        ValueError,
        "dim_text 32, .* got 16, 16 and 16",
    ),
    "width of tokens": (
        lambda: {"connector": build_connector(DynFocusConfig(dim=32, dim_out=64, dim_text=32))},
        ValueError,
        "dim_text 32, .* got 32, 64 and 32",
    ),
    "dtype": (
        lambda: {"connector": trained().to(torch.float16)},
        ValueError,
        r"a connector of torch\.float32, .* got torch\.float16\. Pass connector\.to\(torch\.float32\)",
    ),
    "two dtypes": (lambda: {"connector": half_half()}, ValueError, r"of torch\.float32, .* got torch\.bfloat16\."),
}


@pytest.mark.proves("bad input: its own error, the host as it was")
@pytest.mark.parametrize("name", BAD_ATTACH)
def test_bad_attach(tiny: Tiny, host: Any, name: str) -> None:
    options, error, message = BAD_ATTACH[name]
    before = state(host)
    with pytest.raises(error, match=message):
        attach(host, **options())
    assert state(host) == before


@pytest.mark.proves("bad input: its own error, the host as it was")
@torch.no_grad()
def test_attached_twice(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch(ROW)
    attach(host, trained(), ratio=0.4)
    expected, before = host(**batch).logits, state(host)
    with pytest.raises(ValueError, match=r"attach: expected a host without a connector, got one with one"):
        attach(host, training_free(), ratio=0.2)
    assert state(host) == before
    assert torch.equal(host(**batch).logits, expected)
    plain = detach(host)
    before = state(plain)
    with pytest.raises(ValueError, match=r"detach: expected a model with a connector, got a plain"):
        detach(plain)
    assert state(plain) == before


def test_unknown_host() -> None:
    small = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, intermediate_size=8))
    before = state(model)
    with pytest.raises(NotImplementedError, match=r"internvl.*video_llava.*got LlamaForCausalLM of type 'llama'"):
        attach(model)
    assert state(model) == before


@pytest.mark.proves("bad input: its own error, the host as it was")
def test_old_transformers(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(host)
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    with pytest.raises(NotImplementedError, match=r"transformers >= 5\.(18|21) for \w+, got 5\.17\.0"):
        attach(host)
    assert state(host) == before


@pytest.mark.parametrize("hooked", [False, True])
def test_a_forward_replaced_on_the_instance(hooked: bool) -> None:
    host = HOSTS["llava_onevision"].model()
    host.forward = functools.partial(type(host).forward, host)
    if hooked:
        hooks = pytest.importorskip("accelerate.hooks")
        hooks.add_hook_to_module(host, hooks.ModelHook())
    kind, forward = type(host), host.forward
    with pytest.raises(ValueError, match=r"expected a host whose forward is its class's, got one replaced"):
        attach(host)
    assert type(host) is kind
    assert hasattr(host, "_hf_hook") == hooked
    assert hooked or host.forward is forward
    assert not hasattr(host, "dynfocus")


def with_ids(batch: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    return {**batch, "input_ids": change(batch["input_ids"].clone())}


def traded(ids: torch.Tensor, token: int, first: slice, other: slice) -> torch.Tensor:
    """Some placeholders of one prompt become words, as many words of another become placeholders."""
    lost = (ids[0] == token).nonzero()[first, 0]
    won = ((ids[1] != token) & (ids[1] > 5)).nonzero()[other, 0]
    assert len(lost) == len(won)
    ids[0, lost], ids[1, won] = 50, token
    return ids


def unnamed(ids: torch.Tensor, token: int, count: int | None = None) -> torch.Tensor:
    """The first placeholders become words."""
    ids[0, (ids[0] == token).nonzero()[:count, 0]] = 50
    return ids


def bad_calls(tiny: Tiny) -> dict[str, tuple[dict[str, Any], str]]:
    token, batch = tiny.placeholder, tiny.batch(ROW)
    count = int((batch["input_ids"] == token).sum())
    ids = {key: value for key, value in batch.items() if key != "input_ids"}
    calls = {
        "no video in the prompt": (
            with_ids(batch, lambda ids: unnamed(ids, token)),
            rf"a prompt with {count} placeholders \(token {token}\) for the video, got one without any",
        ),
        "fewer placeholders": (
            with_ids(batch, lambda ids: unnamed(ids, token, 3)),
            rf"{count} placeholders \(token {token}\) .* got {count - 3}\.",
        ),
        "more placeholders": (
            with_ids(batch, lambda ids: torch.where(torch.arange(ids.shape[1]) > ids.shape[1] - 3, token, ids)),
            rf"{count} placeholders \(token {token}\) .* got {count + 2}\.",
        ),
        "placeholders in the wrong prompt": (
            with_ids(tiny.batch(ROW, OTHER), lambda ids: traded(ids, token, slice(-3, None), slice(0, 3))),
            rf"in one prompt, got prompts of \[{count - 3}, {count + 3}\] placeholders",
        ),
        "no ids": ({**ids, "inputs_embeds": torch.zeros(1, 9, 32)}, "expected input_ids, got inputs_embeds"),
        "4-D mask": ({**batch, "attention_mask": torch.ones(1, 1, 9, 9)}, r"got \(1, 1, 9, 9\)"),
        "budget below the minimum": (
            {**batch, "dynfocus": {"max_tokens": 1}},
            "expected at least 2 tokens for 6 frames .* got 1",
        ),
        "budget below the minimum of all frames": (
            {**batch, "dynfocus": {"max_tokens": 11, "when_short": "error"}},
            "expected at least 12 tokens for 6 frames .* got 11",
        ),
        "unknown setting": ({**batch, "dynfocus": {"tokens": 1}}, r"got \['tokens'\]"),
    }
    if token == VIDEO:
        calls["placeholders of a picture"] = (
            with_ids(tiny.batch([Picture(1), *ROW]), lambda ids: unnamed(ids, IMAGE, 2)),
            rf"placeholders \(token {IMAGE}\) for the pictures, got \d+\.",
        )
    return calls


@pytest.mark.proves("bad input: its own error, the host as it was")
@pytest.mark.parametrize("call", ["forward", "generate"])
@torch.no_grad()
def test_bad_calls(tiny: Tiny, host: Any, call: str) -> None:
    good = tiny.batch(ROW)
    attach(host, training_free(), ratio=0.4)
    expected = host(**good).logits
    before, report = state(host), host.dynfocus_report
    for name, (batch, message) in bad_calls(tiny).items():
        with pytest.raises((ValueError, TypeError), match=message):
            host(**batch) if call == "forward" else host.generate(**batch, max_new_tokens=2)
        assert state(host) == before, name
        assert host.dynfocus_report is report, name
    assert torch.equal(host(**good).logits, expected)


class Narrow(Everything):
    """Tokens of another width; no configuration tells before."""

    def broken(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, :-1]


class Twice(Everything):
    def forward(self, frames: torch.Tensor, text: Any = None, **options: Any) -> Any:
        video = super().forward(frames, text)
        return type(video).pack([video, video])


BAD_CONNECTORS = [
    (Narrow, r"expected tokens of width 32 from the connector, got 31\. Build it with dim_out=32"),
    (Twice, r"expected at most 96 tokens for 6 frames of 16 patches, got 192"),
]


@pytest.mark.proves("bad input: its own error, the host as it was")
@pytest.mark.parametrize(("kind", "message"), BAD_CONNECTORS, ids=["Narrow", "Twice"])
@torch.no_grad()
def test_bad_connectors(tiny: Tiny, host: Any, kind: Any, message: str) -> None:
    batch = tiny.batch(ROW)
    plain = host(**batch).logits
    attach(host, kind())
    before = state(host)
    with pytest.raises(ValueError, match=f"compress_batch: {message}"):
        host(**batch)
    assert state(host) == before
    assert torch.equal(detach(host)(**batch).logits, plain)


def test_a_refused_connector_stays_what_it_is() -> None:
    connector = trained().to(torch.float16)
    with pytest.raises(ValueError, match=r"got torch\.float16"):
        DynFocusForConditionalGeneration.from_parts(HOSTS["llava_onevision"].model(), connector)
    assert {parameter.dtype for parameter in connector.parameters()} == {torch.float16}


def test_a_folder_is_read_in_the_dtype_of_the_host(tmp_path: Path) -> None:
    connector = trained()
    connector.save_pretrained(tmp_path)
    host = attach(HOSTS["llava_onevision"].model().to(torch.bfloat16), tmp_path, ratio=0.4)
    for name, value in connector.state_dict().items():
        assert torch.equal(host.dynfocus.state_dict()[name], value.to(torch.bfloat16)), name


def test_a_connector_may_train_in_float32_over_a_host_in_bfloat16() -> None:
    tiny = HOSTS["llava_onevision"]
    host = attach(tiny.model().to(torch.bfloat16), trained().to(torch.bfloat16), ratio=0.4).train()
    host.dynfocus.float()
    batch = tiny.batch(ROW, labels=True)
    batch["pixel_values_videos"] = batch["pixel_values_videos"].to(torch.bfloat16)
    host(**batch).loss.backward()
    for name, parameter in host.dynfocus.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


def test_the_composite_has_one_dtype() -> None:
    config = DynFocusForConditionalGeneration.from_parts(HOSTS["llava_onevision"].model(), trained(), ratio=0.4).config
    config.host_config.dtype = torch.bfloat16
    model = DynFocusForConditionalGeneration(config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
