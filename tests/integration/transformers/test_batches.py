"""A batch gives what its prompts give one by one, and the past does not see the future."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynfocus_transformers import attach
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.table import INAPPLICABLE
from tests.integration.transformers.tiny import Picture, Tiny, Video, text

EVEN = [[text(1, 3), Video(6, 1), text(2, 6), text(7, 2)], [text(3, 12), Video(6, 2), text(4, 4), text(8, 5)]]
RAGGED = [
    [text(1, 3), Video(6, 1), text(2, 6), text(7, 2)],
    [text(3, 12), Video(3, 2), text(4, 4), Video(9, 3), text(5, 2), text(8, 5)],
    [text(6, 4), text(9, 2)],
]
TOLERANCE = {"atol": 2e-5, "rtol": 0}


def assert_batch_is_singles(tiny: Tiny, host: Any, rows: list, left: bool) -> None:
    batch = tiny.batch(*rows, left=left, labels=True)
    together = host(**batch)
    counts = [report.tokens_after for report in host.dynfocus_report]
    alone = []
    for index, row in enumerate(rows):
        single = tiny.batch(row, labels=True)
        logits = host(**single).logits[0]
        alone += [report.tokens_after for report in host.dynfocus_report] if len(row) > 2 else []
        real = batch["attention_mask"][index].bool()
        torch.testing.assert_close(together.logits[index, real], logits, **TOLERANCE)
    assert counts == alone


@pytest.mark.proves("batch = singles")
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@torch.no_grad()
def test_batch(tiny: Tiny, host: Any, left: bool) -> None:
    assert_batch_is_singles(tiny, attach(host, trained(), ratio=0.4), EVEN, left)


@pytest.mark.proves("batch = singles: ragged videos, several, none")
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@torch.no_grad()
def test_ragged_batch(tiny: Tiny, host: Any, left: bool) -> None:
    if not tiny.ragged:
        pytest.skip(f"{INAPPLICABLE}takes videos of one length only")
    assert_batch_is_singles(tiny, attach(host, trained(), ratio=0.4), RAGGED, left)


@pytest.mark.proves("frames need not be square")
@torch.no_grad()
def test_oblong_frames(tiny: Tiny, host: Any) -> None:
    if tiny.name not in ("qwen2_5_vl", "qwen3_vl", "video_llama_3"):
        pytest.skip(f"{INAPPLICABLE}square frames only")
    rows = [[text(1, 3), Video(6, 1, (3, 8)), text(2, 6)], [Video(5, 2, (5, 2)), text(4, 4), text(3, 3)]]
    assert_batch_is_singles(tiny, attach(host, trained(), ratio=0.5), rows, True)


@pytest.mark.proves("pictures and several videos in one prompt")
@torch.no_grad()
def test_pictures_stay(tiny: Tiny, host: Any) -> None:
    attach(host, training_free(), ratio=0.4)
    rows = [[text(1, 3), Picture(1), text(2, 40), Video(6, 1), text(3, 40), Video(6, 2), text(4, 4)]]
    batch = tiny.batch(*rows)
    logits = host(**batch).logits
    other = tiny.batch([text(1, 3), Picture(9), *rows[0][2:]])
    assert len(host.dynfocus_report) == 2
    dropped = sum(report.tokens_before - report.tokens_after for report in host.dynfocus_report)
    classes = 2 * 6 if tiny.name == "video_llava" else 0
    assert logits.shape[1] == batch["input_ids"].shape[1] - dropped - classes
    assert not torch.allclose(host(**other).logits[0, -1], logits[0, -1], atol=1e-5)


@pytest.mark.proves("no future leak")
@torch.no_grad()
def test_no_future_leak(tiny: Tiny, host: Any) -> None:
    attach(host, trained(), ratio=0.4)
    batch = tiny.batch([text(1, 3), Video(6, 1), text(2, 6), text(7, 4)], labels=True)
    logits = host(**batch).logits
    batch["input_ids"][0, -1] = batch["labels"][0, -1] = 99
    changed = host(**batch).logits
    assert torch.equal(changed[:, :-1], logits[:, :-1])
    assert not torch.allclose(changed[:, -1], logits[:, -1], atol=1e-4)


@pytest.mark.proves("the question reaches the tokens")
@torch.no_grad()
def test_question_matters(tiny: Tiny, host: Any) -> None:
    attach(host, trained(), ratio=0.4)
    batch = tiny.batch([text(1, 3), Video(6, 1), text(2, 6)])
    place = int((batch["input_ids"] == tiny.placeholder).nonzero()[-1, 1])
    asked, silent = (host(**batch, dynfocus={"question": mode}).logits for mode in ("last", "none"))
    assert not torch.allclose(asked[0, -1], silent[0, -1], atol=1e-5)
    assert torch.equal(asked[0, :3], silent[0, :3])
    batch["input_ids"][0, place + 4] = 98
    assert not torch.allclose(host(**batch).logits[0, -8], asked[0, -8], atol=1e-6)
    assert torch.equal(host(**batch, dynfocus={"question": "none"}).logits[0, -8], silent[0, -8])
