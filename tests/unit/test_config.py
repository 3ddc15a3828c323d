from __future__ import annotations

import dataclasses
import json

import pytest

from dynfocus_connector import DynFocusConfig

PRESETS = [DynFocusConfig.paper, DynFocusConfig.authors_code, DynFocusConfig.training_free]


def test_paper():
    config = DynFocusConfig.paper()
    assert (config.num_prototypes, config.focus_ratio, config.pool_grid) == (25, 0.8, 4)
    assert (config.dim, config.dim_out, config.dim_text) == (1408, 4096, 768)
    assert (config.spatial_prototypes, config.spatial_neighbors) == ((16, 8), (8, 3))
    assert (config.sigma, config.num_samples, config.merge_weights) == (0.1, 500, "importance")
    assert config.distance_scale == 1.0
    assert config == DynFocusConfig()


def test_authors_code():
    config = DynFocusConfig.authors_code()
    assert (config.num_prototypes, config.focus_ratio) == (80, 0.45)
    assert (config.clustering, config.clustering_seeding, config.merge_weights) == ("kmeans", "random", "uniform")
    assert (config.score_input, config.score_epsilon) == ("elementwise_max", 1e-5)
    assert (config.spatial_prototypes, config.spatial_order) == ((16, 6), "grouped")
    assert config.rods_when_all_focus


def test_training_free():
    config = DynFocusConfig.training_free()
    assert (config.scorer, config.projector, config.distance_scale) == ("importance", None, "max")


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset):
    config = preset(dim=64)
    assert config.dim == 64
    assert DynFocusConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DynFocusConfig().dim = 3
    assert len({DynFocusConfig(), DynFocusConfig(spatial_prototypes=[16, 8])}) == 1
