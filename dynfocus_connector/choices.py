"""The names of everything that can be chosen; what each means stands with the module that does it."""

from __future__ import annotations

from typing import Literal

DistanceScale = float | Literal["max"]
MergeWeights = Literal["importance", "uniform", "centers"]
Clustering = Literal["density_peaks", "kmeans", "weighted_kmeans"]
Seeding = Literal["farthest", "k-means++", "random"]

Scorer = Literal["network", "question", "importance"]
ScoreInput = Literal["largest_norm", "elementwise_max"]
GradientEstimator = Literal["rao_blackwell", "leave_one_out", "plain", "diagonal"]
Relaxation = Literal["soft", "straight_through", "gumbel"]

SpatialOrder = Literal["by_level", "grouped"]
Fusion = Literal["multi_grained", "concatenation", "cross_attention"]
Cones = Literal["multi_grained", "concatenation", "cross_attention", "patches", "rods", "none"]
RodInput = Literal["prototypes", "patches"]
RodAttention = Literal["learned", "cosine"]
ProjectorKind = Literal["mlp2x_gelu"]
