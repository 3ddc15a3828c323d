"""Gradients, and the slot that the code bases save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynfocus_connector import DynFocusConnector
from dynfocus_llava import LlavaNextMixin
from dynfocus_llava.slot import takes_budget
from tests.comparing import assert_every_parameter_has_a_gradient, assert_makes_no_tensor_elsewhere
from tests.integration.llava.common import config
from tests.integration.llava.llava_next_host import IdentityMap, LlavaNext
from tests.integration.llava.models import MODES, NextMixed, mixed, next_host
from tests.integration.llava.prompts import Answer, Picked, Picture, Video, batch
from tests.integration.transformers.connectors import Everything, trained, training_free
from tests.integration.transformers.tiny import text

ROW = [text(1, 3), Video(6, 1), text(2, 6), Answer((7, 8, 9))]
BATCHES = {
    "video": [ROW],
    "without question": [[Video(6, 1), Answer((7, 8, 9))]],
    "picture only": [[Picture(1), text(2, 6), Answer((7, 8, 9))]],
    "text only": [[text(2, 6), Answer((7, 8, 9))]],
    "mixed": [ROW, [Video(2, 1), text(4, 3), Picture(), Answer((7,))], [text(5, 4), Answer((7,))]],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES.keys())
def test_every_parameter_has_a_gradient(mode: str, rows: list) -> None:
    model = mixed(next_host(mode), trained(), ratio=0.4).train()
    loss = model(**batch(*rows, labels=True)).loss
    loss.backward()
    assert_every_parameter_has_a_gradient(model.get_model().vision_resampler)


@pytest.mark.parametrize("mode", MODES)
def test_no_tensor_is_made_elsewhere(mode: str) -> None:
    model, inputs = mixed(next_host(mode), trained(), ratio=0.4).train(), batch(*BATCHES["mixed"], labels=True)

    def step() -> list[Any]:
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        return [loss, [p.grad for p in model.parameters()]]

    assert_makes_no_tensor_elsewhere(step)


def test_gradients_matter() -> None:
    model = mixed(next_host("unpad, grid"), trained(scorer="question"), ratio=0.4).train()
    model(**batch(ROW, labels=True)).loss.backward()
    largest = {name: p.grad.abs().max() for name, p in model.model.vision_resampler.named_parameters()}
    assert all(value > 0 for name, value in largest.items() if not name.endswith("bias")), largest
    assert model.model.image_newline.grad.abs().max() > 0


@torch.no_grad()
def test_an_idle_connector_changes_nothing() -> None:
    plain = next_host("unpad, grid")
    inputs = batch([Picture(1), text(2, 6), Answer((7, 8, 9))], labels=True)
    expected = plain(**inputs)
    model = mixed(plain, trained(), ratio=0.4)
    assert torch.equal(model(**inputs).logits, expected.logits)
    with torch.enable_grad():
        trained_logits = model.train()(**inputs).logits
    assert torch.equal(trained_logits, expected.logits)


def test_an_idle_connector_runs_once_and_in_training_alone() -> None:
    model = mixed(next_host(), trained(), ratio=0.4)
    calls: list[Any] = []
    model.dynfocus_connector.register_forward_hook(lambda *call: calls.append(call))
    for rows, training, count in (("mixed", True, 2), ("picture only", True, 1), ("picture only", False, 0)):
        calls.clear()
        model.train(training)(**batch(*BATCHES[rows], labels=True))
        assert len(calls) == count


@torch.no_grad()
def test_training_free_draws_no_number() -> None:
    model = mixed(next_host(), training_free(), ratio=0.4)
    expected = model(**batch(ROW)).logits
    for _ in range(3):
        assert torch.equal(model.train()(**batch(ROW)).logits, expected)


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """What is saved where adapters alone are trained."""
    keys = "mm_projector", "vision_resampler"
    named = model.named_parameters()
    return {name: value.detach().clone() for name, value in named if any(key in name for key in keys)}


def part(weights: dict[str, Tensor], keyword: str) -> dict[str, Tensor]:
    """How the weights of one slot are found again."""
    return {name.split(keyword + ".")[1]: value for name, value in weights.items() if keyword in name}


@torch.no_grad()
def test_saved_as_an_adapter() -> None:
    inputs = batch(ROW)
    model = mixed(next_host(), trained(), ratio=0.4)
    expected = model(**inputs).logits
    weights = part(adapter_weights(model), "vision_resampler")
    fresh = mixed(next_host(), trained(), ratio=0.4)
    for parameter in fresh.model.vision_resampler.parameters():
        parameter.zero_()
    assert not torch.equal(fresh(**inputs).logits, expected)
    fresh.get_model().vision_resampler.load_state_dict(weights, strict=True)
    assert torch.equal(fresh(**inputs).logits, expected)
    assert not hasattr(fresh.get_model().vision_resampler, "hidden_size")


class WithConnector(LlavaNextMixin, LlavaNext):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.use_connector(trained(), ratio=0.4)


@torch.no_grad()
def test_saved_in_the_checkpoint(tmp_path: Path) -> None:
    inputs = batch(ROW)
    model = WithConnector(config(mm_patch_merge_type="flat")).eval()
    for parameter in model.model.vision_resampler.parameters():
        parameter.mul_(1.1)
    model.save_pretrained(tmp_path)
    loaded = WithConnector.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_saved_alone(tmp_path: Path) -> None:
    inputs = batch(ROW)
    model = mixed(next_host(), trained(), ratio=0.4)
    model.get_model().vision_resampler.save_pretrained(tmp_path)
    fresh = mixed(next_host(), tmp_path, ratio=0.4)
    assert isinstance(fresh.dynfocus_connector, DynFocusConnector)
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_a_connector_that_lies_there_is_used() -> None:
    inputs = batch(ROW)
    model: Any = next_host()
    model.__class__ = NextMixed
    before = model(**inputs).logits.shape[1]
    model.get_model().vision_resampler = trained()
    assert model(**inputs).logits.shape[1] < before
    del model.get_model().vision_resampler
    model.get_model().vision_resampler = [trained()]
    assert model(**inputs).logits.shape[1] < before
    model.use_connector(training_free(), ratio=0.4)
    assert isinstance(model.get_model().vision_resampler, list)
    assert model(**inputs).logits.shape[1] == before - 96 + 36


def test_empty_weights_stay_empty_and_real_ones_real() -> None:
    with torch.device("meta"):
        empty, empty_connector = NextMixed(config(mm_patch_merge_type="flat")), trained()
    empty.use_connector(trained())
    assert {p.device.type for p in empty.model.vision_resampler.parameters()} == {"cpu"}
    real = mixed(next_host(), empty_connector)
    assert {p.device.type for p in real.model.vision_resampler.parameters()} == {"meta"}


def test_the_connector_goes_where_the_model_is() -> None:
    class Moved(Picked):
        def to(self, *target: Any, **options: Any) -> Moved:
            self.target = target
            return self

    assert mixed(next_host(), Moved()).dynfocus_connector.target == (torch.device("cpu"),)


def test_what_is_a_connector() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    assert takes_budget(trained())
    assert takes_budget(Wrapper(trained()))
    assert not takes_budget(Wrapper(IdentityMap()))
    assert not takes_budget(Everything())
