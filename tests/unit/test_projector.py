from __future__ import annotations

import torch

from dynfocus_connector.projector import IdentityProjector, Projector
from tests.comparing import assert_close
from tests.reference.networks import coarse, fine


def test_oracle():
    module = Projector(3, 5, dtype=torch.float64)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    rows = torch.randn(2, 3, dtype=torch.float64)
    assert_close(module.fine(rows), fine(rows.numpy(), weights))
    assert_close(module(rows), module.fine(rows))
    assert_close(module.coarse(rows), coarse(rows.numpy(), weights))


def test_content_shares_f_fine():
    module, rows = Projector(3, 5), torch.randn(4, 2, 3)
    assert torch.equal(module.coarse(rows)[:, 0], module.fine(rows[:, 0]))


def test_parameters_of_the_paper():
    module = Projector(1408, 4096, device="meta")
    assert sum(p.numel() for p in module.content.parameters()) == 22_552_576
    assert sum(p.numel() for p in module.context.parameters()) == 5_771_264


def test_gradient():
    module = Projector(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(module.coarse, torch.randn(2, 2, dtype=torch.float64, requires_grad=True))


def test_identity():
    rows = torch.randn(2, 2, 3)
    module = IdentityProjector()
    assert module.fine(rows) is rows
    assert module.coarse(rows) is rows
    assert module(rows) is rows
