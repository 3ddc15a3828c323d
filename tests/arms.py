"""Every ablation arm of the paper as a small connector, and videos to try them on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynfocus_connector import DynFocusConfig, DynFocusConnector, build_connector

DIM, DIM_TEXT, DIM_OUT, PATCHES = 6, 5, 10, 16
SMALL: dict[str, Any] = {
    "dim": DIM,
    "dim_out": DIM_OUT,
    "dim_text": DIM_TEXT,
    "num_prototypes": 5,
    "focus_ratio": 0.6,
    "pool_grid": 2,
    "num_samples": 6,
    "spatial_prototypes": (4, 2),
    "spatial_neighbors": (3, 2),
}
ARMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "concatenation": {"cones": "concatenation"},
    "cross_attention": {"cones": "cross_attention"},
    "cone_patches": {"cones": "patches"},
    "cone_rods": {"cones": "rods"},
    "cone_none": {"cones": "none"},
    "no_rods": {"rod_tokens": 0},
    "patches_without_rods": {"cones": "patches", "rod_tokens": 0},
    "rods_see_patches": {"rod_input": "patches"},
    "cosine": {"rod_attention": "cosine", "dim_text": None},
    "importance": {"scorer": "importance", "distance_scale": "max"},
    "question": {"scorer": "question"},
    "elementwise_max": {"score_input": "elementwise_max", "score_shares_context": True, "score_epsilon": 1e-5},
    "one_level": {"spatial_prototypes": (4,)},
    "three_levels": {"spatial_prototypes": (4, 3, 2)},
    "global_mean": {"pool_grid": 1},
    "uniform": {"merge_weights": "uniform"},
    "centers": {"merge_weights": "centers"},
    "kmeans": {"clustering": "kmeans"},
    "weighted_kmeans": {"clustering": "weighted_kmeans", "clustering_seeding": "k-means++"},
    "straight_through": {"relaxation": "straight_through"},
    "exact": {"num_samples": None},
    "authors_code": {
        "merge_weights": "uniform",
        "clustering": "kmeans",
        "clustering_seeding": "random",
        "score_input": "elementwise_max",
        "score_shares_context": True,
        "score_epsilon": 1e-5,
        "gradient": "diagonal",
        "focus_ratio": 0.45,
        "spatial_order": "grouped",
        "rods_when_all_focus": True,
    },
}


def small(arm: str = "paper", **changes: Any) -> DynFocusConnector:
    """The arm with weights that do not depend on other tests, in float64 and evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DynFocusConfig(**{**SMALL, **ARMS[arm], **changes})
        return build_connector(config, dtype=torch.float64).eval()


def video(batch: int = 1, frames: int = 9, *, seed: int = 0, patches: int = PATCHES, dim: int = DIM) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, patches, dim, generator=generator, dtype=torch.float64)


def question(connector: DynFocusConnector, batch: int = 1, tokens: int = 3, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, connector.encoder.rods.dim_text, generator=generator, dtype=torch.float64)
