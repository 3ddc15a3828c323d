"""A connector that keeps everything must leave the host bit for bit what it was; a broken one must be noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynfocus_connector import TokenBudget
from dynfocus_transformers import adapters, attach, compress, detach
from tests.integration.transformers.connectors import Everything, Scaled, Swapped, training_free
from tests.integration.transformers.table import INAPPLICABLE
from tests.integration.transformers.tiny import IMAGE, Picture, Tiny, Video, installed, text

ROWS = {
    "one": [[text(1, 3), Video(6, 1), text(2, 6)]],
    "batch": [[text(1, 3), Video(6, 1), text(2, 6)], [text(3, 2), Video(6, 2), text(4, 4)]],
    "several": [[text(1, 3), Video(4, 1), text(2, 6), Video(4, 2), text(3, 9)], [Video(4, 3), text(4, 4)]],
    "pictures": [[text(1, 3), Picture(1), text(2, 40), Video(4, 1), text(5, 40), Picture(2), text(2, 6)]],
    "with text only": [[text(1, 3), Video(6, 1), text(2, 6)], [text(3, 9)]],
}


def greedy(model: Any, batch: dict[str, Any], **options: Any) -> Any:
    return model.generate(
        **batch, max_new_tokens=4, min_new_tokens=4, output_logits=True, return_dict_in_generate=True, **options
    )


def assert_same_generation(one: Any, other: Any) -> None:
    assert torch.equal(one.sequences, other.sequences)
    for a, b in zip(one.logits, other.logits, strict=True):
        assert torch.equal(a, b)


@pytest.mark.proves("keep-all = un-attached, bit for bit: forward")
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@torch.no_grad()
def test_forward(tiny: Tiny, host: Any, rows: list, left: bool) -> None:
    batch = tiny.batch(*rows, left=left, labels=True)
    expected = host(**batch)
    got = attach(host, ratio=1.0)(**batch)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.loss, expected.loss)
    assert sum(report.tokens_after for report in host.dynfocus_report) > 0


@pytest.mark.proves("keep-all = un-attached, bit for bit: generate")
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@torch.no_grad()
def test_generate(tiny: Tiny, host: Any, rows: list) -> None:
    batch = tiny.batch(*rows)
    expected = greedy(host, batch)
    got = greedy(attach(host, ratio=1.0), batch)
    assert_same_generation(got, expected)


@pytest.mark.proves("keep-all = un-attached: beams, returned sequences, scores")
@torch.no_grad()
def test_beams(tiny: Tiny, host: Any) -> None:
    if tiny.placeholder == IMAGE and not installed("5.20"):
        pytest.skip("before 5.20 the un-attached host mixes the rows of a batch up under beams")
    batch = tiny.batch(*ROWS["batch"])
    options = {"num_beams": 3, "num_return_sequences": 3, "output_scores": True, "do_sample": False}
    expected = greedy(host, batch, **options)
    got = greedy(attach(host, ratio=1.0), batch, **options)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.sequences_scores, expected.sequences_scores)


@pytest.mark.proves("text-only prompts untouched")
@torch.no_grad()
def test_text_only(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch([text(1, 8)], [text(2, 5)], labels=True)
    expected = host(**batch)
    attach(host, ratio=0.3)
    got = host(**batch)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.loss, expected.loss)
    del batch["labels"]
    out = greedy(host, batch)
    assert_same_generation(out, greedy(detach(host), batch))


@pytest.mark.proves("negative controls are detected")
@pytest.mark.parametrize("connector", [Scaled, Swapped])
@torch.no_grad()
def test_broken_tokens_are_noticed(tiny: Tiny, host: Any, connector: type) -> None:
    batch = tiny.batch(*ROWS["one"])
    expected = host(**batch).logits
    assert torch.equal(attach(host, Everything())(**batch).logits, expected)
    assert not torch.equal(attach(detach(host), connector())(**batch).logits, expected)


@pytest.mark.proves("negative controls are detected")
@torch.no_grad()
def test_dropped_positions_are_noticed(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tiny.types:
        pytest.skip(f"{INAPPLICABLE}1-D positions")
    batch = tiny.batch(*ROWS["one"])
    expected = host(**batch).logits
    attach(host, Everything())
    monkeypatch.setattr(adapters.HostAdapter, "positions", lambda self, batch: None)
    host.model.rope_deltas = None
    assert not torch.allclose(host(**batch).logits, expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [96, 40, 12, 5, 3])
@torch.no_grad()
def test_deep_features_are_merged_as_the_tokens(tokens: int) -> None:
    rows = torch.randn(96, 32)
    visual = adapters.Visual(rows, 6, (4, 4), levels=(rows, 2 * rows))
    video = training_free()(visual.patches()[None], budget=TokenBudget(max_tokens=tokens), keep_merging=True)
    once, twice = compress.pool_levels(visual, video)
    torch.testing.assert_close(once, video.tokens)
    torch.testing.assert_close(twice, 2 * video.tokens)


@pytest.mark.proves("negative controls are detected")
@torch.no_grad()
def test_wrong_deep_features_are_noticed(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiny.name != "qwen3_vl":
        pytest.skip(f"{INAPPLICABLE}no DeepStack")
    batch = tiny.batch(*ROWS["one"])
    expected = host(**batch).logits
    attach(host, Everything())
    assert torch.equal(host(**batch).logits, expected)
    right = compress.pool_levels
    monkeypatch.setattr(compress, "pool_levels", lambda *args: [level.roll(1, 0) for level in right(*args)])
    assert not torch.allclose(host(**batch).logits, expected, atol=1e-5)
