"""Tokens and parameters of every preset and ablation: writes docs/results/configurations.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_connector.saving import replace_file

PAGE = Path(__file__).parents[2] / "docs" / "results" / "configurations.md"
FRAMES, PATCHES = 100, 256

ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "Table 6: tokens of a rod and a cone frame": {
        "(0, 40)": {"rod_tokens": 0},
        "(0, 256)": {"rod_tokens": 0, "cones": "patches"},
        "(2, 256)": {"cones": "patches"},
        "(2, 2), also “w/o DPE + CCE” of Table 8": {"cones": "rods"},
        "(2, 0)": {"cones": "none"},
        "(2, 40)": {},
    },
    "Table 11: clustering of frames": {
        "k-means": {"clustering": "kmeans"},
        "weighted k-means": {"clustering": "weighted_kmeans"},
        "density peaks": {},
    },
    "Table 12: fusion in the cones": {
        "cross-attention": {"cones": "cross_attention"},
        "concatenation": {"cones": "concatenation"},
        "concatenation, multi-grained": {},
    },
    "Fig. 3: events and share in focus": {
        **{f"L = {n}": {"num_prototypes": n} for n in (10, 15, 20, 25, 30, 40, 55, 60)},
        **{f"r = {r}": {"focus_ratio": r} for r in (0.2, 0.4, 0.6, 0.8, 1.0)},
    },
    "Spatial levels": {
        "one: 16": {"spatial_prototypes": (16,), "spatial_neighbors": (8,)},
        "two: 16, 8": {},
        "three: 16, 8, 4": {"spatial_prototypes": (16, 8, 4)},
    },
    "B.3: design of rods, pooling and merging": {
        "rods on patches": {"rod_input": "patches"},
        "one pooled row, P = 1": {"pool_grid": 1},
        "uniform weights": {"merge_weights": "uniform"},
        "centre frames alone": {"merge_weights": "centers"},
    },
    "Scorers": {
        "question-conditioned (ours)": {"scorer": "question"},
        "importance": {"scorer": "importance"},
    },
}


def main() -> None:
    """Build every arm on the meta device, count, write the page."""
    lines = [
        "# Configurations",
        "",
        "Every ablation of the paper is a configuration. Regenerate with `python tests/benchmark/configurations.py`.",
        "",
        f"Features of width 1408, tokens of width 4096, {PATCHES} patches per frame; the last column is for a video of",
        f"{FRAMES} frames. Parameters of CCE leave out the projection of the text features, as Table 9 does.",
        "",
        *table({"paper": DynFocusConfig.paper(), "authors_code": DynFocusConfig.authors_code()}),
        *table({"training_free, in the width of the features": DynFocusConfig.training_free()}, header=False),
    ]
    for title, arms in ARMS.items():
        lines += ["", f"## {title}", ""]
        lines += table({name: DynFocusConfig.paper(**changes) for name, changes in arms.items()})
        lines += ["", *(f"- {name}: `DynFocusConfig.paper({show(c)})`" for name, c in arms.items() if c)]
    replace_file(PAGE, lambda path: Path(path).write_text("\n".join(lines) + "\n"))
    print(f"wrote {PAGE.name}")


def show(changes: dict[str, Any]) -> str:
    """Keyword arguments as code."""
    return ", ".join(f"{name}={value!r}" for name, value in changes.items())


def table(configs: dict[str, DynFocusConfig], *, header: bool = True) -> list[str]:
    """One row per configuration."""
    head = [
        "| | cone frame | rod frame | DPE parameters | CCE parameters | tokens of the video |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    return (head if header else []) + [row(name, config) for name, config in configs.items()]


def row(name: str, config: DynFocusConfig) -> str:
    """Counts of one configuration."""
    connector = build_connector(config, device="meta")
    counts = connector.encoder.token_counts(PATCHES)
    text = sum(p.numel() for p in connector.encoder.rods.query.parameters())
    dpe = sum(p.numel() for p in connector.estimator.parameters())
    cce = sum(p.numel() for p in connector.encoder.parameters()) - text
    tokens = connector.num_tokens(FRAMES, PATCHES)
    return f"| {name} | {counts.cone} | {counts.rod} | {dpe:,} | {cce:,} | {tokens:,} |"


if __name__ == "__main__":
    main()
