"""LLaVA-NeXT: keep-all is the host bit for bit in every mode, budgets hold, newlines close frames."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dynfocus_connector import TokenBudget
from tests.integration.llava.common import IGNORE
from tests.integration.llava.llava_next_host import LlavaNext
from tests.integration.llava.models import MODES, NextMixed, mixed, next_host, prepared
from tests.integration.llava.prompts import Answer, Picked, Picture, Video, batch
from tests.integration.transformers.connectors import Everything, Scaled, Swapped, trained, training_free
from tests.integration.transformers.tiny import text

ANSWER = Answer((7, 8, 9))
ROWS: dict[str, list[list[Any]]] = {
    "one": [[text(1, 3), Video(6, 1), text(2, 6), ANSWER]],
    "one frame": [[text(1, 3), Video(1, 1), text(2, 6), ANSWER]],
    "ragged batch": [[text(1, 3), Video(6, 1), text(2, 6)], [text(3, 2), Video(4, 2), text(4, 4), ANSWER]],
    "several": [[Video(4, 1), text(2, 6), Video(3, 2), text(3, 9)], [Video(4, 3), text(4, 4), ANSWER]],
    "pictures": [[Picture(1), text(2, 4), Video(4, 1), text(5, 4), Picture(2), text(2, 6), ANSWER], [Video(2, 2)]],
    "with text only": [[text(3, 9), ANSWER], [text(1, 3), Video(6, 1), text(2, 6)]],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@torch.no_grad()
def test_keep_all(mode: str, rows: list) -> None:
    plain = next_host(mode)
    inputs = batch(*rows, labels=True)
    expected = plain(**inputs)
    for model in (mixed(plain, ratio=1.0), mixed(plain, Everything())):
        got = model(**inputs)
        assert torch.equal(got.logits, expected.logits)
        assert torch.equal(got.loss, expected.loss)
        assert len(model.dynfocus_report) == inputs["modalities"].count("video")


@pytest.mark.parametrize("changes", [{"tokenizer_padding_side": "left"}, {"mm_spatial_pool_mode": "bilinear"}])
@torch.no_grad()
def test_keep_all_elsewhere(changes: dict[str, str]) -> None:
    plain = next_host("unpad, grid", **changes)
    inputs = batch(*ROWS["several"], labels=True, left="tokenizer_padding_side" in changes)
    assert torch.equal(mixed(plain, ratio=1.0)(**inputs).logits, plain(**inputs).logits)


@torch.no_grad()
def test_keep_all_generates_the_same() -> None:
    plain = next_host("unpad, grid")
    inputs = batch(*ROWS["ragged batch"])
    inputs["inputs"] = inputs.pop("input_ids")
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2, "do_sample": False}
    options.update(output_logits=True, return_dict_in_generate=True)
    expected = plain.generate(**inputs, **options)
    got = mixed(plain, ratio=1.0).generate(**inputs, **options)
    assert torch.equal(got.sequences, expected.sequences)
    for one, other in zip(got.logits, expected.logits, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("connector", [Scaled, Swapped])
@torch.no_grad()
def test_broken_tokens_are_noticed(mode: str, connector: type[nn.Module]) -> None:
    plain = next_host(mode)
    inputs = batch(*ROWS["one"])
    assert not torch.equal(mixed(plain, connector())(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("budget", [{"ratio": 0.4}, {"max_tokens": 40}, {"max_tokens": 12}, {"max_tokens": 7}])
@torch.no_grad()
def test_budget(mode: str, budget: dict[str, Any]) -> None:
    model = mixed(next_host(mode), training_free(), **budget)
    inputs = batch(*ROWS["pictures"], labels=True)
    picture = 64 + ("unpad" in mode)
    frames, lengths = [], []
    for length in (4, 2):
        (plan,) = model.dynfocus_connector.plan(16, TokenBudget(**budget), length)
        frames.append(plan.num_frames)
        lengths.append(plan.num_tokens)
        assert plan.num_tokens <= TokenBudget(**budget).tokens_for(length, 16)
        rows = 4 if plan.everything else 1
        closing = {"unpad, grid": rows * plan.num_frames, "unpad, frame": plan.num_frames, "unpad, one_token": 1}
        lengths[-1] += closing.get(mode, 0)
    output = model(**inputs, return_dict=True)
    assert output.logits.shape[1] == max(2 * picture + lengths[0] + 17, lengths[1])
    assert [report.sampled_frames for report in model.dynfocus_report] == [4, 2]
    assert [len(report.frame_index.unique()) for report in model.dynfocus_report] == frames


@pytest.mark.parametrize(("mode", "newlines"), [("unpad, grid", (2, 4)), ("unpad, frame", (2, 4)), ("flat", ())])
@torch.no_grad()
def test_newlines_close_frames(mode: str, newlines: tuple[int, ...]) -> None:
    plain = next_host(mode)
    model = mixed(plain, Picked((2, 3), (0, 9), (0, 1)))
    inputs = batch([Video(3, 1), text(2, 6)])
    pooled = plain.get_2dPool(plain.encode_images(inputs["images"][0]))
    expected = [pooled[0, 1], pooled[0, 9], pooled[2, 3]]
    for place in newlines:
        expected.insert(place, plain.model.image_newline)
    got = prepared(model, inputs)[4][0]
    assert torch.equal(got[: len(expected)], torch.stack(expected))
    assert torch.equal(got[len(expected) :], plain.model.embed_tokens(inputs["input_ids"][0, 1:]))


@torch.no_grad()
def test_newlines_of_another_precision() -> None:
    plain = next_host("unpad, grid")
    plain.model.image_newline.data = plain.model.image_newline.double()
    assert prepared(mixed(plain, ratio=0.4), batch(*ROWS["one"]))[4].dtype == torch.float32


@pytest.mark.parametrize("mode", ["unpad, grid", "unpad, frame", "flat"])
@torch.no_grad()
def test_batch_is_its_prompts_one_by_one(mode: str) -> None:
    rows = ROWS["several"]
    model = mixed(next_host(mode), trained(), ratio=0.4)
    together = prepared(model, batch(*rows))[4]
    for row, own in zip(rows, together, strict=True):
        (alone,) = prepared(model, batch(row))[4]
        torch.testing.assert_close(own[: len(alone)], alone)
        assert not own[len(alone) :].any()


@torch.no_grad()
def test_pictures_and_labels_stay() -> None:
    plain = next_host("unpad, grid")
    inputs = batch(*ROWS["pictures"], labels=True)
    model = mixed(plain, trained(), ratio=0.4)
    (_, _, mask, _, long, labels), (_, _, short_mask, _, short, short_labels) = (
        prepared(one, inputs) for one in (plain, model)
    )
    head, tail = 65 + 4, 4 + 65 + 6 + 3
    dropped = long.shape[1] - short.shape[1]
    assert dropped > 0
    assert torch.equal(short[0, :head], long[0, :head])
    assert torch.equal(short[0, -tail:], long[0, -tail:])
    assert torch.equal(short_labels[0, -tail:], labels[0, -tail:])
    assert (short_labels[0, :-tail] == IGNORE).all()
    assert short_mask.shape == short_labels.shape == short.shape[:2]
    assert mask.sum(1)[0] - short_mask.sum(1)[0] == dropped


@torch.no_grad()
def test_without_a_connector_and_without_the_mixin() -> None:
    plain = next_host()
    inputs = batch(*ROWS["pictures"])
    expected = plain(**inputs).logits
    idle = copy.deepcopy(plain)
    idle.__class__ = NextMixed
    assert idle.dynfocus_connector is None
    assert torch.equal(idle(**inputs).logits, expected)
    idle.use_connector(trained(), ratio=0.4)
    assert idle(**inputs).logits.shape[1] < expected.shape[1]
    idle.__class__ = LlavaNext
    assert torch.equal(idle(**inputs).logits, expected)


@pytest.mark.parametrize("connector", [trained, training_free])
@torch.no_grad()
def test_precision(connector: Any) -> None:
    plain = next_host("unpad, grid").to(torch.bfloat16)
    inputs = batch(*ROWS["one"])
    inputs["images"] = [image.to(torch.bfloat16) for image in inputs["images"]]
    assert torch.equal(mixed(plain, ratio=1.0)(**inputs).logits, plain(**inputs).logits)
    model = mixed(plain, connector(), ratio=0.4)
    assert model(**inputs).logits.dtype == torch.bfloat16
    assert model(**inputs).logits.isfinite().all()


@torch.no_grad()
def test_report() -> None:
    model = mixed(next_host(), training_free(), ratio=0.4)
    model(**batch([Video(6, 1), text(3, 9)], [Video(6, 2)]))
    asked, silent = model.dynfocus_report
    assert (asked.sampled_frames, asked.tokens_before, asked.tokens_after) == (6, 96, 36)
    assert len(asked.focus_frames) == 3
    assert (asked.asked, silent.asked) == (True, False)
    assert str(asked) == f"6 frames, 3 in focus {asked.focus_frames}, 96 -> 36 tokens"
