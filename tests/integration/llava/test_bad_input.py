"""Each mistake has its own error, and the model is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_llava import LlamaVidMixin, LlavaNextMixin
from tests.integration.llava.llava_next_host import IdentityMap, LlavaNext
from tests.integration.llava.models import NextMixed, mixed, next_host
from tests.integration.llava.prompts import Picked, Picture, Video, batch
from tests.integration.transformers.connectors import training_free
from tests.integration.transformers.tiny import text

ROW = [text(1, 3), Video(6, 1), text(2, 6)]
WRONG = build_connector(DynFocusConfig.training_free(dim=16))
NARROW = build_connector(DynFocusConfig(dim=32, dim_out=64, dim_text=32))
BAD_USE = [
    ({"connector": "training-free", "max_tokens": 4, "ratio": 0.5}, ValueError, "either max_tokens or ratio"),
    ({"max_tokens": 0}, ValueError, "max_tokens >= 1, got 0"),
    ({"ratio": 1.5}, ValueError, r"0 < ratio <= 1, got 1\.5"),
    ({"question": "all"}, (ValueError, TypeCheckError), "got 'all'|Actual value: 'all'"),
    ({"connector": 3}, (TypeError, TypeCheckError), "got int|Actual value: 3"),
    ({"connector": WRONG}, ValueError, "dim=32, dim_text=32 and dim_out=32, got dim=16, dim_text=16"),
    ({"connector": NARROW}, ValueError, "dim_out=32, got dim=32, dim_text=32 and dim_out=64"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_USE, ids=[row[2] for row in BAD_USE])
def test_bad_use(options: dict[str, Any], error: Any, message: str) -> None:
    model: Any = next_host()
    model.__class__ = NextMixed
    with pytest.raises(error, match=message):
        model.use_connector(**options)
    assert isinstance(model.get_model().vision_resampler, IdentityMap)
    assert model.dynfocus_settings is None


def test_order_of_the_classes() -> None:
    class Behind(LlavaNext, LlavaNextMixin):
        pass

    class Other(LlamaVidMixin, LlavaNext):
        pass

    for kind, seam in ((Behind, "get_2dPool"), (Other, "vlm_attention")):
        model: Any = next_host()
        model.__class__ = kind
        with pytest.raises(
            TypeError, match=rf"mixin before a host that defines {seam}, got .*bases of {kind.__name__}"
        ):
            model.use_connector()


def test_budget_below_the_minimum() -> None:
    with pytest.raises(ValueError, match="expected at least 2 tokens for 6 frames with when_short='resample', got 1"):
        mixed(next_host(), training_free(), max_tokens=1)(**batch(ROW))
    with pytest.raises(ValueError, match="expected at least 12 tokens for 6 frames with when_short='error', got 11"):
        mixed(next_host(), training_free(), max_tokens=11, when_short="error")(**batch(ROW))


def test_tokens_of_another_width() -> None:
    with pytest.raises(ValueError, match="NextMixed: expected tokens of width 32 from the connector, got 8"):
        mixed(next_host(), Picked(width=8))(**batch(ROW))


def test_more_tokens_than_patches() -> None:
    places = [(0, 0)] * 97
    with pytest.raises(ValueError, match="at most 96 tokens for 6 frames of 16 patches, got 97"):
        mixed(next_host(), Picked(*places))(**batch(ROW))


def test_no_connector_in_the_slot() -> None:
    model = mixed(next_host(), ratio=0.4)
    model.get_model().vision_resampler = IdentityMap()
    with pytest.raises(TypeError, match=r"got a IdentityMap that returns Tensor\. Call use_connector after"):
        model(**batch(ROW))


def test_more_videos_than_placeholders() -> None:
    inputs = batch(ROW)
    model = mixed(next_host(), ratio=0.4)
    with pytest.raises(ValueError, match="for each of 2 videos, got 1 among 1 placeholders"):
        model(**{**inputs, "images": inputs["images"] * 2, "modalities": ["video", "video"]})
    with pytest.raises(ValueError, match="for each of 1 videos, got 0 among 0 placeholders"):
        model(**{**batch([text(1, 3)]), "modalities": ["video"]})
    with pytest.raises(ValueError, match="for each of 1 videos, got 0 among 1 placeholders"):
        model(**{**batch([text(1, 3)], [Picture(), text(1, 4)]), "modalities": "video"})


def test_videos_that_leave_no_room() -> None:
    row = [Video(6, 1), text(2, 6), Video(6, 2), text(3, 4)]
    model = mixed(next_host(tokenizer_model_max_length=72), training_free(), ratio=0.4)
    with pytest.raises(ValueError, match=r"less than tokenizer_model_max_length=72 tokens.*got \[36, 36\]"):
        model(**batch([Video(2, 3), text(2, 6)], row))
    model.config.tokenizer_model_max_length = 73
    assert model(**batch(row)).logits.shape[1] == 73


def test_videos_that_never_come() -> None:
    inputs = batch(ROW)
    with pytest.raises(ValueError, match="get_2dPool once for each of 1 videos, got 0 calls"):
        mixed(next_host(), ratio=0.4)(**{**inputs, "images": inputs["images"][0][:1]})


def test_videos_that_come_twice() -> None:
    class Twice(LlavaNext):
        def get_2dPool(self, image_feature: torch.Tensor, stride: int = 2) -> torch.Tensor:
            return super().get_2dPool(image_feature, stride)

        def visual_rows(self, images: Any, modalities: Any) -> Any:
            return [*super().visual_rows(images, modalities), *super().visual_rows(images, modalities)]

    class Broken(LlavaNextMixin, Twice):
        pass

    model: Any = next_host()
    model.__class__ = Broken
    with pytest.raises(ValueError, match="get_2dPool once per video, got a call after all 1"):
        model.use_connector(ratio=0.4)(**batch(ROW))
    assert model._questions is None


def test_faster_video() -> None:
    with pytest.raises(NotImplementedError, match="add_faster_video=False, got True"):
        mixed(next_host(add_faster_video=True), ratio=0.4)(**batch(ROW))


def test_an_error_leaves_the_model_usable() -> None:
    model = mixed(next_host(), training_free(), max_tokens=1)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        model(**batch(ROW))
    model.use_connector(training_free(), max_tokens=36)
    assert model(**batch(ROW)).logits.shape[1] == 9 + 36 + 1
