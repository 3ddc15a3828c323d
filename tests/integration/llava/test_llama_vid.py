"""LLaMA-VID: ragged tokens per prompt, pictures untouched, prompts one by one as in a batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConfig, TokenBudget, build_baseline, build_connector
from tests.comparing import assert_every_parameter_has_a_gradient, assert_makes_no_tensor_elsewhere
from tests.integration.llava.common import IGNORE, PLACEHOLDER, VISION, WIDTH
from tests.integration.llava.llama_vid_host import LlamaVid
from tests.integration.llava.models import VidMixed, encode, mixed, vid_host
from tests.integration.llava.prompts import Picture, Video, pixels
from tests.integration.transformers.connectors import SMALL
from tests.integration.transformers.tiny import padded, text

ASKED = [["what", "who did that?"], ["where is it"], ["how many"]]
IMAGES = [Video(6, 1), Picture(2), Video(4, 3)]
WIDTHS: dict[str, Any] = {"dim": VISION, "dim_text": VISION, "dim_out": WIDTH, "num_samples": 20, **SMALL}


def trained(**changes: Any) -> nn.Module:
    torch.manual_seed(5)
    connector = build_connector(DynFocusConfig(**{**WIDTHS, **changes})).eval()
    with torch.no_grad():
        connector.get_submodule("encoder.rods.query").weight.mul_(100)
    return connector


def training_free() -> nn.Module:
    return build_connector(DynFocusConfig.training_free(dim=VISION, **SMALL)).eval()


def batch(images: list[Any], prompts: list[list[str]]) -> dict[str, Any]:
    rows = [[*text(n, 3), *[PLACEHOLDER, *text(n + 9, 4)] * len(own)] for n, own in enumerate(prompts)]
    labels = [[IGNORE] * (len(row) - 2) + row[-2:] for row in rows]
    return {
        "input_ids": padded(rows, 0, False),
        "labels": padded(labels, IGNORE, False),
        "images": [pixels(image) for image in images],
        "prompts": prompts,
    }


@torch.no_grad()
@pytest.mark.parametrize("make", [trained, training_free])
def test_no_tensor_is_made_elsewhere(make: Any) -> None:
    model, inputs = mixed(vid_host(), make(), ratio=0.4), batch(IMAGES, ASKED)
    assert_makes_no_tensor_elsewhere(lambda: model(**inputs).to_tuple()[:2])


@torch.no_grad()
def test_keep_all() -> None:
    """The host's tokens without its context token, which stands first in every frame."""
    plain = vid_host()
    expected = encode(plain, IMAGES, ASKED)
    for model in (mixed(plain, ratio=1.0), mixed(plain, training_free(), max_tokens=400)):
        got = encode(model, IMAGES, ASKED)
        for sample, count in ((0, 6), (2, 4)):
            for one, other in zip(got[sample], expected[sample], strict=True):
                assert torch.equal(one, other.unflatten(0, (count, 65))[:, 1:].flatten(0, 1))
        assert torch.equal(got[1], expected[1])


@torch.no_grad()
def test_broken_tokens_are_noticed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = training_free()

        def forward(self, frames: Tensor, text: Any = None, *, budget: Any = None) -> CompressedVideo:
            return self.inner(1.001 * frames, text, budget=budget)

    plain = vid_host()
    right, wrong = (encode(mixed(plain, one, ratio=1.0), IMAGES, ASKED) for one in (training_free(), Scaled()))
    assert not torch.equal(right[0][0], wrong[0][0])


@pytest.mark.parametrize("connector", [training_free, trained])
@pytest.mark.parametrize("budget", [{"ratio": 0.1}, {"max_tokens": 40}, {"max_tokens": 7}])
@torch.no_grad()
def test_budget(connector: Any, budget: dict[str, Any]) -> None:
    model = mixed(vid_host(), connector(), **budget)
    got = encode(model, IMAGES, ASKED)
    for sample, length in ((0, 6), (2, 4)):
        (plan,) = model.dynfocus_connector.plan(64, TokenBudget(**budget), length)
        assert plan.num_tokens <= TokenBudget(**budget).tokens_for(length, 64)
        assert [tuple(tokens.shape) for tokens in got[sample]] == [(plan.num_tokens, WIDTH)] * len(ASKED[sample])
    assert [report.sampled_frames for report in model.dynfocus_report] == [6, 6, 4]
    assert [report.tokens_before for report in model.dynfocus_report] == [384, 384, 256]


@torch.no_grad()
def test_batch_is_its_samples_one_by_one() -> None:
    model = mixed(vid_host(), trained(), ratio=0.1)
    together = encode(model, IMAGES, ASKED)
    for image, prompts, own in zip(IMAGES, ASKED, together, strict=True):
        for prompt, tokens in zip(prompts, own, strict=True):
            torch.testing.assert_close(encode(model, [image], [[prompt]])[0][0], tokens)


@torch.no_grad()
def test_every_prompt_is_seen() -> None:
    model = mixed(vid_host(), trained(), ratio=0.1)
    one, other = encode(model, IMAGES, ASKED)[0]
    assert one.shape == other.shape
    assert not torch.allclose(one, other)
    assert all(report.asked for report in model.dynfocus_report)
    model.use_connector(trained(), ratio=0.1, question="none")
    one, other = encode(model, IMAGES, ASKED)[0]
    assert torch.equal(one, other)
    assert not any(report.asked for report in model.dynfocus_report)


@pytest.mark.parametrize("compress_type", [None, "mean"])
@torch.no_grad()
def test_whole_prompts(compress_type: str | None) -> None:
    plain = vid_host(compress_type=compress_type)
    inputs = batch(IMAGES, ASKED)
    model = mixed(plain, training_free(), max_tokens=40)
    lengths = [2 * 36 + 11, 2 + 63 * (compress_type is None) + 7, 40 + 7]
    assert model(**inputs).logits.shape[1] == max(lengths)
    assert model(**inputs).loss.isfinite()
    model.__class__ = LlamaVid
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


@torch.no_grad()
def test_pictures_stay() -> None:
    plain = vid_host()
    model = mixed(plain, trained(), ratio=0.1)
    pictures = torch.cat([pixels(Picture(1)), pixels(Picture(2))])
    for call in ({"image_counts": [1, 1]}, {}):
        both = [one.encode_images(pictures, ASKED[:2], **call) for one in (plain, model)]
        for one, other in zip(*both, strict=True):
            assert torch.equal(one, other)
    assert model.dynfocus_report == []


@pytest.mark.parametrize("images", [IMAGES, [Picture(1), Picture(2), Picture(3)]], ids=["video", "pictures"])
def test_every_parameter_has_a_gradient(images: list[Any]) -> None:
    model = mixed(vid_host(), trained(), ratio=0.1).train()
    model(**batch(images, ASKED)).loss.backward()
    assert_every_parameter_has_a_gradient(model.get_model().vision_resampler)
    if images is IMAGES:
        assert model.get_model().vlm_att_projector.weight.grad.abs().max() > 0
        assert model.get_model().vision_resampler.encoder.rods.query.weight.grad.abs().max() > 0


@torch.no_grad()
def test_own_projectors_replace_the_host_s() -> None:
    """Also where the language model is as wide as the features."""
    rival = build_baseline("mean_pooling", DynFocusConfig(**WIDTHS)).eval()
    even = trained(dim_out=VISION)
    for width, connector in ((WIDTH, trained()), (WIDTH, rival), (VISION, even)):
        model = mixed(vid_host(hidden_size=width), connector, max_tokens=40)
        calls: list[Any] = []
        model.get_model().mm_projector.register_forward_hook(lambda *call, calls=calls: calls.append(call))
        assert encode(model, IMAGES[:1], ASKED[:1])[0][0].shape[1] == width
        assert calls == []
    model.use_connector("training-free", max_tokens=40)
    encode(model, IMAGES[:1], ASKED[:1])
    assert len(calls) == 2


@torch.no_grad()
def test_without_a_connector() -> None:
    plain = vid_host()
    model = copy.deepcopy(plain)
    model.__class__ = VidMixed
    for one, other in zip(encode(model, IMAGES, ASKED), encode(plain, IMAGES, ASKED), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_bad_input() -> None:
    plain = vid_host()
    for options, message in (
        ({"connector": trained(dim_text=16)}, "dim=24, dim_text=24 and dim_out=32, got dim=24, dim_text=16"),
        ({"connector": trained(dim_out=40)}, "dim_out=32, got dim=24, dim_text=24 and dim_out=40"),
    ):
        with pytest.raises(ValueError, match=message):
            mixed(plain, **options)
    model = mixed(plain, training_free(), max_tokens=1)
    with pytest.raises(ValueError, match="expected at least 2 tokens for 6 frames"):
        encode(model, IMAGES, ASKED)
    assert (model._counts, model._seen) == ((), [])
    pictures = encode(model, [Picture(1)], ASKED[:1])[0]
    assert torch.equal(pictures, encode(plain, [Picture(1)], ASKED[:1])[0])
    with pytest.raises(NotImplementedError, match="expected frames, got a long video of 6 precomputed ones"):
        model.encode_images(torch.randn(6, 65, VISION), ASKED[:1], [6], long_video=True)
    wide = build_baseline("mean_pooling", DynFocusConfig(**{**WIDTHS, "dim_out": 40})).eval()
    with pytest.raises(ValueError, match="tokens of width 32 from the connector, got 40"):
        encode(mixed(plain, wide, max_tokens=40), IMAGES, ASKED)
