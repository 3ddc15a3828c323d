"""All rows of the benchmark, by name."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from dynfocus_connector import (
    DynFocusConfig,
    DynFocusConnector,
    ScoreNetwork,
    build_connector,
    density_peaks,
    perturbed_topk,
)
from dynfocus_connector.score import min_max
from dynfocus_connector.spatial import SpatialPrototypes
from tests.benchmark.speed.operation import Operation, Setting
from tests.benchmark.speed.scenes import scene_frames, scene_points
from tests.benchmark.speed.topk_operations import topk_operations
from tests.benchmark.speed.twins import (
    DenseTopK,
    connector_twin,
    density_peaks_twin,
    encode_twin,
    spatial_twin,
)

LEVELS, NEIGHBORS = (16, 8), (8, 3)
DIM, PATCHES, POOLED, WIDTH = 1408, 256, 16, 4096
NEAR_STATIC = (
    "within-scene noise 1e-3; the gate compares scenes of noise 0.3, as float32 `cdist` cannot rank these. Of the 136 "
    "tiles of 64 × 64 frames on one triangle, 28 hold near-duplicates and are computed a second time, in float64"
)


def all_operations(*, quick: bool = False) -> list[Operation]:
    """Every row; with `quick` the same at small sizes, without targets."""
    if quick:
        rows = [temporal(100, 64, series="T-DPC, width 64"), temporal(200, 64, series="T-DPC, width 64")]
        return [*rows, spatial(4, dim=64), *topk_operations(((60, 24),)), select(64), whole(30, encoder=False, dim=64)]
    temporal_rows = [
        temporal(1000, POOLED * DIM, target=1.8),
        temporal(1000, POOLED * DIM, noise=1e-3),
        *(temporal(n, DIM, series="T-DPC, width 1408") for n in (500, 1000, 2000, 4000)),
        temporal(10_000, DIM, target=2.5, memory_target=100, series="T-DPC, width 1408"),
    ]
    spatial_rows = [spatial(n, target=3.0 if n == 256 else None) for n in (32, 64, 128, 256)]
    connector_rows = [whole(n, encoder=False, target=3.0 if n == 1000 else None) for n in (125, 250, 500, 1000)]
    return [
        *temporal_rows[:-1],
        *spatial_rows,
        *topk_operations(),
        select(DIM),
        *connector_rows[:-1],
        temporal_rows[-1],
        connector_rows[-1],
        encode(1000),
        whole(1000, encoder=True, target=2.0),
    ]


def find(key: str) -> Operation:
    """The row of that name."""
    rows = {row.key: row for row in [*all_operations(), *all_operations(quick=True)]}
    return rows[key]


def same_clusters(ours: Any, twin: Any) -> None:
    """Equal centres and equal members."""
    assert torch.equal(ours.centers, twin.centers), f"expected the centres {twin.centers}, got {ours.centers}"
    assert torch.equal(ours.assignment, twin.assignment), "expected equal assignments"


def same_values(ours: Tensor, twin: Tensor) -> None:
    """Equal to a thousandth of the largest entry. In half precision nine rows in ten are, to its own rounding: a first
    level that is rounded otherwise can cluster otherwise."""
    assert ours.shape == twin.shape, f"expected shape {tuple(twin.shape)}, got {tuple(ours.shape)}"
    error = (ours - twin).abs().amax(-1).flatten() / twin.abs().max()
    single = ours.dtype == torch.float32
    worst = error.float().quantile(1.0 if single else 0.9).item()
    assert worst < (1e-3 if single else 3e-2), f"expected equal values, got error {worst:.2g}"


def nearly_all_values(ours: Tensor, twin: Tensor) -> None:
    """Of thousands of frames some have two densities that tie within float32's rounding, which either path may break
    the wrong way: one token in 200 may differ."""
    assert ours.shape == twin.shape, f"expected shape {tuple(twin.shape)}, got {tuple(ours.shape)}"
    error = (ours - twin).abs().amax(-1).flatten() / twin.abs().max()
    tolerance, share = (1e-3, 0.005) if ours.dtype == torch.float32 else (3e-2, 0.1)
    differing = (error > tolerance).float().mean().item()
    assert differing <= share, f"expected at most {share:.1%} of the tokens to differ, got {differing:.2%}"


def temporal(
    frames: int,
    dim: int,
    *,
    noise: float = 0.3,
    series: str | None = None,
    target: float | None = None,
    memory_target: float | None = None,
) -> Operation:
    """T-DPC: the frames of a video into 25 events."""
    static = noise < 0.1
    return Operation(
        name="T-DPC",
        case=f"{frames} frames × {dim}" + (", near-static" if static else ""),
        inputs=lambda setting: (scene_points(setting, frames, dim, noise),),
        gate_inputs=(lambda setting: (scene_points(setting, frames, dim),)) if static else None,
        note=NEAR_STATIC if static else "",
        ours=lambda points: density_peaks(points, 25, 5),
        twin=lambda points: density_peaks_twin(points, 25, 5),
        agree=same_clusters,
        multiply_adds=frames**2 * dim / 2,
        traffic=4 * frames * dim,
        frames=frames,
        series=series,
        target=target,
        memory_target=memory_target,
        why="the products of one triangle alone, at the rate of a square product, are two thirds of our time (× floor)",
    )


def spatial(frames: int, *, dim: int = DIM, target: float | None = None) -> Operation:
    """S-DPC: the patches of every frame into 16 and 8 prototypes, merging included."""
    module = SpatialPrototypes(LEVELS, NEIGHBORS)

    def ours(features: Tensor) -> Tensor:
        if not hasattr(module, "cluster"):  # a revision to compare with
            return module(features[None]).merge(features[None])[0]
        return module.cluster(features[None])[1][0]

    return Operation(
        name="S-DPC",
        case=f"{frames} frames × {PATCHES} × {dim}",
        inputs=lambda setting: (scene_frames(setting, frames, PATCHES, dim),),
        ours=ours,
        twin=lambda features: spatial_twin(features, LEVELS, NEIGHBORS)[0],
        agree=same_values,
        multiply_adds=frames * (PATCHES**2 / 2 + PATCHES + LEVELS[0] ** 2 / 2 + LEVELS[0]) * dim,
        traffic=4 * frames * (PATCHES + sum(LEVELS)) * dim,
        frames=frames,
        series="S-DPC",
        target=target,
        why="the one triangle of the Gram matrix that is needed and one reading of the patches are two thirds of our "
        "time; the rest is the search for neighbours, centres and members",
    )


@cache
def connector_of(encoder: bool, dim: int, setting: Setting) -> DynFocusConnector:
    """The paper's connector, or the same without the matrices of Dyn. Enc."""
    torch.manual_seed(0)
    changes: dict[str, Any] = {} if encoder else {"projector": None, "rod_attention": "cosine", "dim_text": None}
    return build_connector(DynFocusConfig.paper(dim=dim, **changes), device=setting.device, dtype=setting.dtype).eval()


def select(dim: int) -> Operation:
    """Dyn. Select in training: φ, min–max and the smoothed Top-K, forward and backward."""
    size = sum(p.numel() for p in ScoreNetwork(dim, device="meta").parameters())

    def inputs(setting: Setting) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        prototypes = torch.randn(1, 25, POOLED, dim, generator=generator).to(setting.device)
        noise = torch.randn(1, 500, 25, generator=generator).to(setting.device)
        torch.manual_seed(0)
        return ScoreNetwork(dim, device=setting.device), prototypes, noise

    def run(choose: Any, network: ScoreNetwork, prototypes: Tensor, noise: Tensor) -> Tensor:
        network.zero_grad()
        soft = choose(min_max(network(prototypes)), noise)
        (soft * torch.linspace(0, 1, 25, device=soft.device)).sum().backward()
        return soft.detach()

    return Operation(
        name="Dyn. Select",
        case=f"25 events × {dim}, training",
        inputs=inputs,
        ours=lambda *given: run(lambda s, z: perturbed_topk(s, 20, noise=z), *given),
        twin=lambda *given: run(lambda s, z: DenseTopK.apply(s, z, 20, 0.1), *given),
        agree=same_values,
        multiply_adds=3 * 25 * size,
        traffic=4 * 3 * size,
        parameters=size,
    )


def encode(frames: int) -> Operation:
    """Dyn. Enc.: keys, attention, F_fine and F_coarse, given G_t and the events of 20 focus frames."""

    def inputs(setting: Setting) -> tuple[Any, ...]:
        connector = connector_of(True, DIM, setting)
        generator = torch.Generator().manual_seed(0)
        sizes = ((frames, sum(LEVELS), DIM), (20, POOLED, DIM), (32, 768))
        objects, events, text = (torch.randn(size, generator=generator).to(*setting) for size in sizes)
        focus = torch.arange(20, device=setting.device) * frames // 20
        return connector, objects, objects.new_zeros(frames, dtype=torch.long), events, focus, text

    @torch.no_grad()
    def ours(connector: Any, objects: Tensor, densest: Tensor, events: Tensor, focus: Tensor, text: Tensor) -> Tensor:
        encoder = connector.encoder
        cones = encoder.projector.fine(
            encoder.cones(events[None], objects[focus][None], objects[focus][None, ..., 0] == 0)
        )
        real = torch.ones_like(objects[None, ..., 0], dtype=torch.bool)
        rods = encoder.projector.coarse(encoder.rods(objects[None], real, densest[None], text[None]))
        rest = torch.ones(frames, dtype=torch.bool, device=focus.device).index_fill_(0, focus, False)
        pieces = iter(cones[0]), iter(rods[0, rest])
        return torch.cat([next(pieces[int(other)]) for other in rest.tolist()])

    rows = 20 * 40 + frames
    return Operation(
        name="Dyn. Enc.",
        case=f"{frames} frames × {DIM} → {WIDTH}",
        inputs=inputs,
        ours=ours,
        twin=torch.no_grad()(encode_twin),
        agree=same_values,
        multiply_adds=rows * (DIM * WIDTH + WIDTH**2) + frames * (DIM * WIDTH + sum(LEVELS) * DIM**2),
        traffic=4 * 30_307_712,
        parameters=30_307_712,
        note="the matrix products are the same in both",
    )


def whole(frames: int, *, encoder: bool, dim: int = DIM, target: float | None = None) -> Operation:
    """The connector from features to tokens, in evaluation."""

    def inputs(setting: Setting) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(1)
        text = torch.randn(1, 32, 768, generator=generator).to(*setting) if encoder else None
        return connector_of(encoder, dim, setting), scene_frames(setting, frames, PATCHES, dim)[None], text

    pieces = [temporal(frames, POOLED * dim), spatial(frames, dim=dim)]
    parameters, products = 0, sum(piece.multiply_adds for piece in pieces)
    if encoder:
        row = encode(frames)
        parameters, products = row.parameters, products + row.multiply_adds
    return Operation(
        name="Connector",
        case=f"{frames} frames × {PATCHES} × {dim}, {'with' if encoder else 'without'} Dyn. Enc.",
        inputs=inputs,
        ours=torch.no_grad()(lambda connector, features, text: connector(features, text).tokens),
        twin=torch.no_grad()(connector_twin),
        agree=nearly_all_values,
        note="the gate lets one token in 200 differ: two densities of a frame may tie within float32's rounding",
        multiply_adds=products,
        traffic=4 * frames * PATCHES * dim,
        parameters=parameters + select(dim).parameters,
        frames=frames,
        series="with Dyn. Enc." if encoder else "connector without Dyn. Enc.",
        target=target,
        why="S-DPC is most of it and gains what its own row gains"
        + ("; the products of Dyn. Enc. are the same in both" if encoder else ""),
    )
