"""Rivals with the connector's contract, on every host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynfocus_connector import DynFocusConfig, TokenBudget
from dynfocus_connector.baselines import build_baseline
from dynfocus_transformers import TemporalPruner, attach, detach
from dynfocus_transformers.pruner import temporal_change
from tests.integration.transformers.connectors import SMALL
from tests.integration.transformers.tiny import WIDTH, Tiny, Video, text

ROWS = [[text(1, 3), Video(6, 1), text(2, 6)], [text(3, 2), Video(6, 2), text(4, 4)]]
NAMES = ["uniform", "random", "mean_pooling", "two_tokens", "token_merging", "keep_all"]


@pytest.mark.proves("baselines under the same contract")
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_baseline(tiny: Tiny, host: Any, name: str) -> None:
    batch = tiny.batch(*ROWS)
    plain = host(**batch).logits
    attach(host, build_baseline(name, DynFocusConfig.training_free(dim=WIDTH, **SMALL)).eval(), ratio=0.4)
    logits = host(**batch).logits
    out = host.generate(**batch, max_new_tokens=2, min_new_tokens=2, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(out.logits[0], logits[:, -1], atol=2e-5, rtol=0)
    for report in host.dynfocus_report:
        assert report.tokens_after <= (96 if name == "keep_all" else 38)
    assert torch.equal(logits, plain) == (name == "keep_all")


@pytest.mark.proves("temporal-redundancy pruner")
@torch.no_grad()
def test_pruner(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch(*ROWS)
    plain = host(**batch).logits
    attach(host, TemporalPruner())
    assert host(**batch).logits.shape[1] < plain.shape[1]
    assert [report.tokens_after for report in host.dynfocus_report] == [24, 24]
    assert torch.equal(attach(detach(host), TemporalPruner(1.0))(**batch).logits, plain)


def test_change_is_one_minus_cosine() -> None:
    video = torch.randn(4, 3, 8)
    for t in range(1, 4):
        for n in range(3):
            expected = 1 - torch.cosine_similarity(video[t, n], video[t - 1, n], dim=0)
            torch.testing.assert_close(temporal_change(video)[t, n], expected)
    assert (temporal_change(video)[0] == 2).all()


def test_pruner_keeps_what_changes() -> None:
    video = torch.randn(1, 1, 16, 8).repeat(1, 5, 1, 1)
    video[0, 3, 7:9] += 5 * torch.randn(2, 8)
    kept = TemporalPruner()(video, budget=TokenBudget(max_tokens=20))
    slots = kept.frame_index * 16 + kept.anchor
    assert slots.tolist() == [*range(16), 3 * 16 + 7, 3 * 16 + 8, 4 * 16 + 7, 4 * 16 + 8]
    assert torch.equal(kept.tokens, video.flatten(0, 2)[slots])
    mask = torch.tensor([[True, True, True, False, False]])
    assert TemporalPruner(0.5)(video, frame_mask=mask).frame_index.max() <= 2
