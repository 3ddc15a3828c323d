from __future__ import annotations

import numpy as np
import pytest
import torch

from dynfocus_connector import RodEncoder
from tests.comparing import assert_close, assert_every_parameter_has_a_gradient
from tests.reference.networks import rod_rows


def inputs(batch=2, frames=3, rows=5, dim=4, queries=6, dim_text=4):
    sources = torch.randn(batch, frames, rows, dim, dtype=torch.float64)
    text = torch.randn(batch, queries, dim_text, dtype=torch.float64)
    return sources, torch.ones(batch, frames, rows, dtype=torch.bool), torch.randint(0, rows, (batch, frames)), text


def weights_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("attention", "dim_text"), [("learned", 4), ("learned", None), ("learned", 7), ("cosine", None), ("cosine", 4)]
)
@pytest.mark.parametrize("per_frame", [False, True])
def test_oracle(attention, dim_text, per_frame):
    module = RodEncoder(4, dim_text, attention=attention, temperature=0.5, dtype=torch.float64)
    sources, mask, densest, text = inputs(dim_text=dim_text or 4)
    if per_frame:
        text = torch.randn(2, 3, *text.shape[1:], dtype=torch.float64)
    rows = module(sources, mask, densest, text)
    temperature = 0.5 if attention == "cosine" else None
    for b, t in np.ndindex(2, 3):
        q = (text[b, t] if per_frame else text[b]).numpy()
        expected = rod_rows(sources[b, t].numpy(), q, weights_of(module), 0, temperature)
        assert_close(rows[b, t], expected)


def test_by_hand():
    """Zero logits: the context is the mean as well."""
    module = RodEncoder(2, 2)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    sources = torch.tensor([[[[1.0, 0.0], [3.0, 2.0]]]])
    rows = module(
        sources, torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 3, 2)
    )
    assert rows.tolist() == [[[[2.0, 1.0], [2.0, 1.0]]]]


def test_cosine_finds_what_is_asked_for():
    module = RodEncoder(2, attention="cosine", temperature=0.01)
    sources = torch.tensor([[[[10.0, 0.0], [0.0, 0.1]]]])
    mask, densest = torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long)
    assert_close(module(sources, mask, densest, torch.tensor([[[0.0, 5.0]]]))[0, 0, 1], [0.0, 0.1], 1e-5, 1e-6)


@pytest.mark.parametrize("text_given", ["none", "masked", "empty"])
def test_no_question_gives_the_densest_source(text_given):
    module = RodEncoder(4, 4, dtype=torch.float64)
    sources, mask, densest, text = inputs()
    question = {
        "none": (None, None),
        "masked": (text, torch.zeros(2, 6, dtype=torch.bool)),
        "empty": (text[:, :0], None),
    }[text_given]
    rows = module(sources, mask, densest, *question)
    for b, t in np.ndindex(2, 3):
        assert torch.equal(rows[b, t, 1], sources[b, t, densest[b, t]])
        assert_close(rows[b, t, 0], sources[b, t].mean(0))
    rows.sum().backward()
    assert_every_parameter_has_a_gradient(module)


@pytest.mark.parametrize("garbage", [1e3, torch.nan])
def test_masked_text_has_no_part(garbage):
    module = RodEncoder(4, 4, dtype=torch.float64)
    sources, mask, densest, text = inputs()
    text_mask = torch.tensor([[True, False, True, True, False, False]]).expand(2, -1)
    changed = torch.where(text_mask[..., None], text, garbage)
    assert_close(module(sources, mask, densest, changed, text_mask), module(sources, mask, densest, text[:, [0, 2, 3]]))


def test_masked_sources_have_no_part():
    module = RodEncoder(4, 4, dtype=torch.float64)
    sources, mask, densest, text = inputs()
    mask[..., 3:] = False
    shorter = module(sources[:, :, :3], mask[:, :, :3], densest.clamp(max=2), text)
    assert_close(module(sources, mask, densest.clamp(max=2), text), shorter)


@pytest.mark.parametrize("attention", ["learned", "cosine"])
def test_gradient(attention):
    module = RodEncoder(
        3, 3 if attention == "learned" else None, attention=attention, temperature=0.7, dtype=torch.float64
    )
    sources, mask, densest, text = inputs(1, 2, 3, 3, 2, 3)
    sources.requires_grad_()
    text.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: module(s, mask, densest, q), (sources, text))


def test_parameters():
    assert sum(p.numel() for p in RodEncoder(1408, device="meta").parameters()) == 1_983_872
    assert sum(p.numel() for p in RodEncoder(4, 3).parameters()) == (4 * 4 + 4) + (3 * 4 + 4)
    assert not list(RodEncoder(4, attention="cosine").parameters())
