from __future__ import annotations

import pytest
import torch

from dynfocus_connector import ConeEncoder
from tests.comparing import assert_close
from tests.reference.networks import cone_rows

FUSIONS = ["multi_grained", "concatenation", "cross_attention"]


def inputs(batch=1, focus=2, pooled=4, rows=6, dim=3):
    events = torch.randn(batch, focus, pooled, dim, dtype=torch.float64)
    objects = torch.randn(batch, focus, rows, dim, dtype=torch.float64)
    return events, objects, torch.ones(batch, focus, rows, dtype=torch.bool)


def encoder(fusion):
    return ConeEncoder(3, pooled=4, first_level=4, fusion=fusion, dtype=torch.float64)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_oracle(fusion):
    module, (events, objects, mask) = encoder(fusion), inputs()
    rows = module(events, objects, mask)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    for k in range(2):
        levels = [objects[0, k, :4].numpy(), objects[0, k, 4:].numpy()]
        assert_close(rows[0, k], cone_rows(events[0, k].numpy(), levels, fusion, weights))


@pytest.mark.parametrize(("fusion", "tokens"), [("multi_grained", 40), ("concatenation", 32), ("cross_attention", 16)])
def test_tokens_of_table_12(fusion, tokens):
    assert ConeEncoder(8, fusion=fusion).num_tokens(24) == tokens


@pytest.mark.parametrize("fusion", FUSIONS)
def test_weights_are_the_same_map(fusion):
    module, (events, objects, mask) = encoder(fusion), inputs()
    sources = torch.cat([events, objects], dim=2)
    assert_close(module.weights(events, objects, mask) @ sources, module(events, objects, mask))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradient(fusion):
    module, (events, objects, mask) = encoder(fusion), inputs(focus=1)
    events.requires_grad_()
    objects.requires_grad_()
    assert torch.autograd.gradcheck(lambda e, o: module(e, o, mask), (events, objects))


def test_attention_by_hand():
    """With zero weights every real row counts alike, missing rows not at all."""
    module = encoder("cross_attention")
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    events, objects, mask = inputs()
    mask[..., 4:] = False
    assert_close(module(events, objects, mask), objects[:, :, :4].mean(2, keepdim=True).expand(-1, -1, 4, -1))


def test_only_attention_has_parameters():
    counts = {fusion: sum(p.numel() for p in encoder(fusion).parameters()) for fusion in FUSIONS}
    assert counts == {"multi_grained": 0, "concatenation": 0, "cross_attention": 2 * (3 * 3 + 3)}
