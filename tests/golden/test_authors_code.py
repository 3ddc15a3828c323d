"""What the authors' published functions computed, reproduced by ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dynfocus_connector import (
    DynFocusConfig,
    RodEncoder,
    ScoreNetwork,
    SpatialPrototypes,
    build_connector,
    density_peaks,
    hard_topk,
    merge_prototypes,
    perturbed_topk,
)
from dynfocus_connector.pooling import pool_cells
from dynfocus_connector.projector import Projector
from dynfocus_connector.score import min_max
from tests.comparing import assert_close

GOLDEN = load_file(str(Path(__file__).with_name("authors_code.safetensors")))


def golden(prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in GOLDEN.items() if name.startswith(prefix)}


@pytest.mark.parametrize("case", ["dpc0.", "dpc1.", "dpc2.", "dpc3."])
def test_density_peaks(case):
    data = golden(case)
    peaks = density_peaks(data["x"], int(data["num_clusters"]), int(data["num_neighbors"]))
    assert torch.equal(peaks.assignment, data["assignment"])
    assert_close(merge_prototypes(data["x"], peaks, weights="uniform"), data["merged_uniform"], 1e-5, 1e-6)


def test_topk_forward():
    data = golden("topk.")
    k, sigma = int(data["k"]), float(data["sigma"])
    for gradient in ("rao_blackwell", "diagonal"):
        soft = perturbed_topk(data["scores"], k, sigma=sigma, noise=data["noise"], gradient=gradient)
        assert_close(soft, data["soft_mask"], 1e-6, 1e-7)
    assert_close(hard_topk(data["scores"], k).sum(1), (data["scores"].argsort(1).argsort(1) >= 14).double())


def test_min_max():
    config = DynFocusConfig.authors_code()
    assert_close(min_max(GOLDEN["minmax.x"], epsilon=config.score_epsilon), GOLDEN["minmax.y"], 1e-5, 1e-6)


def test_score(monkeypatch):
    """The input is the summary [mean ; maximum] already."""
    data = golden("score.")
    network = ScoreNetwork(24, share_context=True, score_input="elementwise_max")
    names = {"weights.in_conv.": "embed.", "weights.out_conv.": "regress."}
    state = {
        ours + name.removeprefix(theirs): value
        for theirs, ours in names.items()
        for name, value in data.items()
        if name.startswith(theirs)
    }
    network.load_state_dict(state)
    monkeypatch.setattr("dynfocus_connector.score.summarise", lambda prototypes, kind: data["input"])
    assert_close(network(torch.empty(2, 7, 1, 24)), data["output"][..., 0], 1e-5, 1e-6)


def test_rods():
    data = golden("rods.")
    rods, projector = RodEncoder(48), Projector(48, 64)
    theirs = {name.removeprefix("weights."): value for name, value in data.items() if name.startswith("weights.")}
    rods.load_state_dict({f"key.{n}": theirs[f"vlm_att_key_projector.{n}"] for n in ("weight", "bias")})
    state = {f"context.{n}": theirs[f"vlm_att_val_projector.{n}"] for n in ("weight", "bias")}
    state |= {f"content.{i}.{n}": theirs[f"mm_projector.{i}.{n}"] for i in (0, 2) for n in ("weight", "bias")}
    projector.load_state_dict(state)
    sources = data["prototypes"][None]
    mask = torch.ones(sources.shape[:3], dtype=torch.bool)
    rows = rods(sources, mask, torch.zeros(1, 3, dtype=torch.long), data["query"][None])
    assert_close(projector.coarse(rows)[0], data["tokens"], 1e-4, 1e-5)


def test_grouped_spatial_prototypes():
    """Computed in bfloat16 by their code: 1e-2 relative."""
    data = golden("grouped.")
    config = DynFocusConfig.authors_code(dim=48, dim_out=8, dim_text=None)
    spatial = build_connector(config).encoder.spatial
    assert isinstance(spatial, SpatialPrototypes)
    spatial.group_score.load_state_dict({n: data[f"score.{n}"] for n in ("weight", "bias")})
    rows = spatial(data["x"][None]).merge(data["x"][None])[0]
    assert rows.shape == data["tokens"].shape
    error = (rows - data["tokens"]).norm(dim=-1) / data["tokens"].norm(dim=-1)
    assert error.max() < 1e-2


def test_pooling():
    assert_close(pool_cells(GOLDEN["pool.x"][None], (16, 16), 4)[0], GOLDEN["pool.y"], 1e-5, 1e-6)


def test_all_of_it_is_here():
    assert {name.split(".")[0] for name in GOLDEN} == {
        "dpc0", "dpc1", "dpc2", "dpc3", "topk", "minmax", "score", "rods", "grouped", "pool"
    }  # fmt: skip
