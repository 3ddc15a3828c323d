"""Everything that can be chosen, as plain values; the presets of the paper and of the authors' code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynfocus_connector.choices import (
    Clustering,
    Cones,
    DistanceScale,
    GradientEstimator,
    MergeWeights,
    ProjectorKind,
    Relaxation,
    RodAttention,
    RodInput,
    ScoreInput,
    Scorer,
    Seeding,
    SpatialOrder,
)


@dataclass(frozen=True)
class DynFocusConfig:
    """A connector, described by values that JSON can hold. The defaults are the paper's.

    `DynamicPrototypeEstimator` and `CompactCooperativeEncoder` say what each field means.

    Example:
        >>> DynFocusConfig.paper(dim=1024, dim_out=3584).dim_out
        3584
    """

    dim: int = 1408
    dim_out: int | None = 4096
    dim_text: int | None = 768

    num_prototypes: int = 25
    focus_ratio: float = 0.8
    pool_grid: int = 4
    temporal_neighbors: int = 5
    distance_scale: DistanceScale = 1.0
    merge_weights: MergeWeights = "importance"
    clustering: Clustering = "density_peaks"
    clustering_seeding: Seeding = "farthest"
    clustering_seed: int = 0

    scorer: Scorer = "network"
    score_input: ScoreInput = "largest_norm"
    score_hidden: Sequence[int] | None = None
    score_shares_context: bool = False
    score_epsilon: float = 0.0
    text_weight: float = 0.0
    sigma: float = 0.1
    num_samples: int | None = 500
    gradient: GradientEstimator = "rao_blackwell"
    gradient_samples: int | None = None
    relaxation: Relaxation = "soft"

    spatial_prototypes: Sequence[int] = (16, 8)
    spatial_neighbors: Sequence[int] = (8, 3)
    spatial_order: SpatialOrder = "by_level"
    cones: Cones = "multi_grained"
    rod_tokens: int = 2
    rod_input: RodInput = "prototypes"
    rod_attention: RodAttention = "learned"
    rod_temperature: float = 0.01
    rods_when_all_focus: bool = False
    projector: ProjectorKind | None = "mlp2x_gelu"

    def __post_init__(self) -> None:
        for name in ("score_hidden", "spatial_prototypes", "spatial_neighbors"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    @classmethod
    def paper(cls, **changes: Any) -> DynFocusConfig:
        """25 event prototypes, ratio 0.8, 16 + 8 spatial prototypes: 40 tokens per cone frame, 2 per rod frame."""
        return cls(**changes)

    @classmethod
    def authors_code(cls, **changes: Any) -> DynFocusConfig:
        """What the authors' published code does: 80 k-means events, ratio 0.45, 38 / 2 tokens (docs/deviations.md)."""
        values: dict[str, Any] = {
            "num_prototypes": 80,
            "focus_ratio": 0.45,
            "merge_weights": "uniform",
            "clustering": "kmeans",
            "clustering_seeding": "random",
            "score_input": "elementwise_max",
            "score_shares_context": True,
            "score_epsilon": 1e-5,
            "gradient": "diagonal",
            "spatial_prototypes": (16, 6),
            "spatial_order": "grouped",
            "rods_when_all_focus": True,
        }
        return cls(**{**values, **changes})

    @classmethod
    def training_free(cls, **changes: Any) -> DynFocusConfig:
        """No parameters at all: frames ranked by importance, tokens in the width of the features."""
        values: dict[str, Any] = {
            "dim_text": None,
            "distance_scale": "max",
            "scorer": "importance",
            "rod_attention": "cosine",
            "projector": None,
        }
        return cls(**{**values, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DynFocusConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: names that no field has.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"DynFocusConfig: expected fields among {known}, got {unknown}.")
        return cls(**values)
