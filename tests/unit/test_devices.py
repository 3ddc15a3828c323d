"""Nothing is made on a device of its own: what lies with its inputs here lies with them on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from dynfocus_connector import (
    CompressedVideo,
    DynFocusConfig,
    DynFocusConnector,
    StreamingConnector,
    TokenBudget,
    build_baseline,
    build_connector,
    density_peaks,
    estimate_redundancy,
    exact_topk,
    hard_topk,
    kmeans,
    peaks,
    perturbed_topk,
    splice,
    tiled,
    weighted_kmeans,
)
from dynfocus_connector.baselines import Baseline
from dynfocus_connector.topk_gumbel import gumbel_topk
from tests.arms import ARMS, DIM, DIM_OUT, DIM_TEXT, SMALL, question, small, video
from tests.comparing import assert_makes_no_tensor_elsewhere

CONNECTORS: dict[str, Callable[..., DynFocusConnector]] = {
    **{arm: partial(small, arm) for arm in ARMS},
    "gumbel": partial(small, relaxation="gumbel"),
    "asked": partial(small, "importance", text_weight=0.5, dim_text=None),
    "training_free": lambda: build_connector(DynFocusConfig.training_free(dim=DIM, **FREE), dtype=torch.float64),
}
FREE = {name: SMALL[name] for name in ("num_prototypes", "pool_grid", "spatial_prototypes", "spatial_neighbors")}
TOKENS, SHORT, EVERYTHING = TokenBudget(max_tokens=40), TokenBudget(max_tokens=9), TokenBudget(ratio=1.0)


def real() -> Tensor:
    """Of three videos of nine frames the second has seven, the third none."""
    return torch.arange(9) < torch.tensor([[9], [7], [0]])


def step(connector: nn.Module, frames: Tensor, text: Tensor | None = None, **options: Any) -> list[Any]:
    """Tokens, all that is told of them, and gradients."""
    connector.zero_grad()
    frames = frames.clone().requires_grad_()
    found = connector(frames, text, **options)
    (found.tokens.square().sum() + 0 * frames.sum()).backward()
    views = found.to_padded(), found.tokens_per_frame(), CompressedVideo.pack(found.split())
    return [found, views, frames.grad, [p.grad for p in connector.parameters()]]


@pytest.mark.parametrize("name", CONNECTORS)
def test_connector(name: str) -> None:
    connector, frames = CONNECTORS[name](), video(3)
    call = partial(step, connector, frames, question(connector, 3))
    connector.train()
    assert_makes_no_tensor_elsewhere(call)
    assert_makes_no_tensor_elsewhere(partial(call, frame_mask=real()))
    connector.eval()
    assert_makes_no_tensor_elsewhere(partial(call, frame_mask=real(), budget=EVERYTHING))
    if name not in ("cone_rods", "cone_none"):  # whose tokens nobody can budget
        assert_makes_no_tensor_elsewhere(partial(call, budget=TOKENS))
        assert_makes_no_tensor_elsewhere(partial(call, frame_mask=real(), budget=TOKENS))


PER_FRAME = {"text": video(3, patches=3, dim=DIM_TEXT), "text_mask": video(3, patches=3)[..., 0] > 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "grid": {"grid": (2, 8)},
    "hard": {"hard": True},
    "focus_index": {"focus_index": torch.tensor([[1, 4], [7, -1], [-1, -1]])},
    "noise": {"noise": video(3, 6, patches=5)[..., 0]},
    "text per frame": PER_FRAME,
    "some frames": {**PER_FRAME, "frame_mask": real(), "budget": SHORT},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_the_connector(name: str) -> None:
    connector, frames = small().train(), video(3)
    assert_makes_no_tensor_elsewhere(partial(step, connector, frames, **OPTIONS[name]))


@pytest.mark.parametrize("relaxation", ["soft", "gumbel"])
def test_a_generator_of_the_caller(relaxation: str) -> None:
    connector, frames = small(relaxation=relaxation).train(), video(3)
    assert_makes_no_tensor_elsewhere(lambda: step(connector, frames, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("frame_mask", [None, real()])
@pytest.mark.parametrize("budget", [None, TOKENS, EVERYTHING])
def test_merging_of_other_features(budget: TokenBudget | None, frame_mask: Tensor | None) -> None:
    frames = video(3)
    call = partial(small(), frames, frame_mask=frame_mask, budget=budget, keep_merging=True)
    assert_makes_no_tensor_elsewhere(lambda: call().pool_like(frames))


@pytest.mark.parametrize("budget", [None, TOKENS])
@pytest.mark.parametrize("name", get_args(Baseline))
def test_baseline(name: Baseline, budget: TokenBudget | None) -> None:
    rival = build_baseline(name, DynFocusConfig(**SMALL), dtype=torch.float64)
    frames, text = video(3), PER_FRAME["text"]
    assert_makes_no_tensor_elsewhere(partial(step, rival, frames, text, budget=budget))
    assert_makes_no_tensor_elsewhere(partial(step, rival, frames, text, frame_mask=real(), budget=budget))


@pytest.mark.parametrize("arm", ["paper", "question", "weighted_kmeans"])
def test_stream(arm: str) -> None:
    connector, frames = small(arm), video(1, 30)[0]
    text = question(connector)

    def watch() -> list[Any]:
        stream, found = StreamingConnector(connector, 12), []
        for piece in frames.split(10):
            stream.push(piece)
            found += [stream.tokens(), stream.tokens(text, budget=SHORT), stream.span, stream.frame_index]
        return found

    assert_makes_no_tensor_elsewhere(watch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("longest", [2, 1024])
def test_density_peaks(monkeypatch: pytest.MonkeyPatch, longest: int, dtype: torch.dtype) -> None:
    """By tiles and by a matrix, with copies, which are looked at twice."""
    monkeypatch.setattr(peaks, "LONGEST_MATRIX", longest)
    monkeypatch.setattr(tiled, "NUMBERS_PER_BLOCK", 1)
    points = video(2, 150, patches=1, dim=300)[:, :, 0].repeat(1, 2, 1).to(dtype)
    points[0, 3] = torch.nan
    for scale in (1.0, "max"):
        assert_makes_no_tensor_elsewhere(partial(density_peaks, points, 5, 4, distance_scale=scale))


@pytest.mark.parametrize("seeding", ["farthest", "k-means++", "random"])
@pytest.mark.parametrize("clustering", [kmeans, weighted_kmeans])
def test_kmeans(clustering: Callable[..., Any], seeding: str) -> None:
    points, mask = video(3)[..., 0, :], real()
    assert_makes_no_tensor_elsewhere(partial(clustering, points, 3, seeding=seeding))
    assert_makes_no_tensor_elsewhere(partial(clustering, points, 3, seeding=seeding, mask=mask))


def test_topk() -> None:
    scores, counts = video(2)[..., 0, 0], torch.tensor([2, 3])
    for choose in (hard_topk, exact_topk, perturbed_topk, gumbel_topk):
        for k in (2, counts):
            assert_makes_no_tensor_elsewhere(partial(choose, scores, k))


@pytest.mark.parametrize("side", ["left", "right"])
def test_splicing(side: str) -> None:
    found, table = small()(video(2)), nn.Embedding(10, DIM_OUT, dtype=torch.float64)
    ids, mask = torch.tensor([[1, -200, 2], [0, 3, -200]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    options: dict[str, Any] = {"placeholder": -200, "labels": ids, "attention_mask": mask, "padding_side": side}
    assert_makes_no_tensor_elsewhere(partial(splice, found, ids, table, **options))


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_redundancy(reduction: str) -> None:
    frames, text = video(1, 9)[0, :, 0], video(1, 3, seed=1)[0, :, 0]
    options: dict[str, Any] = {"temporal_threshold": 0.5, "relevance_threshold": 0.5, "reduction": reduction}
    assert_makes_no_tensor_elsewhere(partial(estimate_redundancy, frames, text, **options))


def test_weights_lie_where_they_are_wanted(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    assert_makes_no_tensor_elsewhere(lambda: build_connector(DynFocusConfig(**SMALL), device="cpu").state_dict())
    assert_makes_no_tensor_elsewhere(lambda: DynFocusConnector.from_pretrained(tmp_path).state_dict())
