"""Host and connector in one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from dynfocus_transformers import DynFocusForConditionalGeneration, DynFocusModelConfig, attach
from tests.integration.transformers.connectors import Everything, trained
from tests.integration.transformers.test_training import OTHER, ROW, SHIFTS, checkpointed, trainer
from tests.integration.transformers.tiny import HOSTS, Tiny


def composite(host: Any) -> Any:
    return DynFocusForConditionalGeneration.from_parts(host, trained(), ratio=0.4).eval()


@pytest.mark.proves("composite: one checkpoint, Auto classes")
@torch.no_grad()
def test_round_trip(tiny: Tiny, host: Any, tmp_path: Path) -> None:
    batch = tiny.batch(ROW, OTHER, labels=True)
    model = composite(host)
    expected = model(**batch)
    model.save_pretrained(tmp_path)
    for loader in (DynFocusForConditionalGeneration, AutoModelForImageTextToText):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert type(loaded) is DynFocusForConditionalGeneration
        got = loaded.eval()(**batch)
        assert torch.equal(got.logits, expected.logits)
        assert torch.equal(got.loss, expected.loss)
    assert loaded.host.dynfocus_settings.ratio == 0.4
    half = DynFocusForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.proves("composite = attached host")
@torch.no_grad()
def test_same_as_attached(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch(ROW, OTHER)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    model = composite(host)
    one = model.generate(**batch, **options)
    logits = model(**batch).logits
    assert len(model.dynfocus_report) == 2
    twin = attach(tiny.model(), trained(), ratio=0.4)
    other = twin.generate(**batch, **options)
    assert torch.equal(twin(**batch).logits, logits)
    assert torch.equal(one.sequences, other.sequences)
    assert all(torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True))


@pytest.mark.proves("composite: no future leak")
@torch.no_grad()
def test_no_future_leak(tiny: Tiny, host: Any) -> None:
    model = composite(host)
    batch = tiny.batch(ROW, labels=True)
    logits = model(**batch).logits
    batch["input_ids"][0, -1] = batch["labels"][0, -1] = 99
    changed = model(**batch).logits
    assert torch.equal(changed[:, :-1], logits[:, :-1])
    assert not torch.allclose(changed[:, -1], logits[:, -1], atol=1e-4)


@pytest.mark.proves("composite: Trainer, gradient checkpointing")
def test_trainer(tiny: Tiny, host: Any, tmp_path: Path) -> None:
    model = composite(host)
    checkpointed(model)
    before = {name: p.clone() for name, p in model.host.dynfocus.named_parameters()}
    run = trainer(tiny, model, tmp_path)
    run.train()
    for name, parameter in model.host.dynfocus.named_parameters():
        assert name in SHIFTS or not torch.equal(parameter, before[name]), name
    assert run.evaluate()["eval_loss"] > 0
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-2")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_config_is_a_copy() -> None:
    host = HOSTS["llava_onevision"].model()
    config = DynFocusModelConfig(host.config)
    config.host_config.image_token_id = 7
    config.host_config.text_config.hidden_size = 8
    assert (host.config.image_token_id, host.config.text_config.hidden_size) == (101, 32)


def test_from_config_is_training_free() -> None:
    host = HOSTS["llava_onevision"].model()
    model = AutoModelForImageTextToText.from_config(DynFocusModelConfig(host.config, settings={"ratio": 0.5}))
    assert model.host.dynfocus.config.scorer == "importance"
    assert model.can_generate()
    assert model.get_input_embeddings() is model.host.get_input_embeddings()


def test_only_connectors_with_a_config() -> None:
    with pytest.raises(TypeError, match="expected a DynFocusConnector, got Everything"):
        DynFocusForConditionalGeneration.from_parts(HOSTS["llava_onevision"].model(), Everything())
