"""One row per `raise` in the core: what is said, with its numbers."""

from __future__ import annotations

import ast
import json
import re
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import dynfocus_connector
from dynfocus_connector import (
    CompactCooperativeEncoder,
    CompressedVideo,
    ConeEncoder,
    DynamicPrototypeEstimator,
    DynFocusConfig,
    DynFocusConnector,
    FrameSelection,
    RodEncoder,
    ScoreNetwork,
    SpatialPrototypes,
    StreamingConnector,
    TokenBudget,
    build_baseline,
    build_connector,
    check_features,
    density_peaks,
    estimate_redundancy,
    exact_topk,
    kmeans,
    merge_prototypes,
    perturbed_topk,
    splice,
    weighted_kmeans,
)
from dynfocus_connector.event_baseline import EventMerging
from dynfocus_connector.packing import TokenCounts
from dynfocus_connector.pooled_baselines import MeanPooling, PooledBaseline, TokenMerging
from dynfocus_connector.pooling import resolve_grid
from dynfocus_connector.query_baseline import QueryTokens
from dynfocus_connector.topk_gumbel import gumbel_topk
from tests.arms import small, video

CORE = Path(dynfocus_connector.__file__).parent


class Row(NamedTuple):
    name: str
    call: Any
    message: str
    error: type[Exception] = ValueError


def selection(**changes):
    values = {
        "scores": torch.zeros(1, 2),
        "prototype_index": torch.zeros(1, 2, dtype=torch.long),
        "prototypes": torch.zeros(1, 2, 4, 3),
        "event": torch.zeros(1, 5, dtype=torch.long),
        "soft_mask": torch.zeros(1, 2, 2),
        "focus_index": torch.zeros(1, 2, dtype=torch.long),
        "is_focus": torch.zeros(1, 5, dtype=torch.bool),
        "log_importance": torch.zeros(1, 5),
    }
    return FrameSelection.build(**{**values, **changes})


def compressed(**changes):
    index = torch.zeros(3, dtype=torch.long)
    values = {"tokens": torch.zeros(3, 4), "frame_index": index, "kind": index, "anchor": index}
    return CompressedVideo.build(**{**values, "offsets": torch.tensor([0, 3]), **changes})


def plan(max_tokens, counts=(40, 2), when_short="resample", frames=10):
    return TokenBudget(max_tokens=max_tokens, when_short=when_short).plan(frames, 256, TokenCounts(*counts), 0.8)


def load_without_a_row(tmp_path):
    connector = small()
    connector.save_pretrained(tmp_path)
    config = connector.config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**config, "dim_out": 11}))
    DynFocusConnector.from_pretrained(str(tmp_path))


def saved_nowhere(tmp_path):
    DynFocusConnector.from_pretrained(str(tmp_path))


def spliced(**changes):
    values = {"input_ids": torch.tensor([[1, -200]]), "embed": torch.nn.Embedding(3, 4), "placeholder": -200}
    return splice(compressed(), **{**values, **changes})


def stream(frames=3):
    connector = StreamingConnector(small(), 10)
    connector.push(video(1, frames)[0])
    return connector


POINTS = torch.zeros(1, 6, 3)
SCORES = torch.zeros(2, 4)
ROWS = [
    Row("baseline", lambda: build_baseline("best", DynFocusConfig()), r"'uniform'.*got 'best'"),
    Row(
        "two tokens",
        lambda: build_baseline("two_tokens", small().config)(video().float(), budget=TokenBudget(max_tokens=1)),
        r"at least 2 tokens, got .*max_tokens=1",
    ),
    Row(
        "mean pooling",
        lambda: MeanPooling(6, projector=None)(video(), budget=TokenBudget(ratio=0.001)),
        r"at least 1 token, got 0",
    ),
    Row(
        "token merging",
        lambda: TokenMerging(6, projector=None)(video(), budget=TokenBudget(ratio=0.001)),
        r"at least 1 token, got 0",
    ),
    Row(
        "event merging",
        lambda: EventMerging(6, projector=None)(video(), budget=TokenBudget(ratio=0.001)),
        r"at least 1 token, got 0",
    ),
    Row(
        "query tokens",
        lambda: QueryTokens(6, 6)(video(), torch.zeros(1, 5, 2, 6), budget=TokenBudget(ratio=0.001)),
        r"at least 1 token, got 0",
    ),
    Row("queries per video", lambda: QueryTokens(6, 6)(video(), torch.zeros(1, 2, 6)), r"got \(1, 2, 6\)"),
    Row(
        "no query", lambda: QueryTokens(6, 6)(video(), torch.zeros(1, 5, 0, 6)), r"at least 1 query, got \(1, 5, 0, 6\)"
    ),
    Row("temperature", lambda: gumbel_topk(torch.zeros(1, 3), 1, temperature=0.0), r"> 0, got 0.1 and 0.0"),
    Row("abstract", lambda: PooledBaseline(6)(video().float()), r"a subclass that defines _pool", NotImplementedError),
    Row("no budget", TokenBudget, r"got max_tokens=None and ratio=None"),
    Row("two budgets", lambda: TokenBudget(5, 0.5), r"got max_tokens=5 and ratio=0.5"),
    Row("no tokens", lambda: TokenBudget(0), r"max_tokens >= 1, got 0"),
    Row("ratio above one", lambda: TokenBudget(ratio=1.5), r"0 < ratio <= 1, got 1.5"),
    Row("when short", lambda: TokenBudget(5, when_short="cry"), r"'resample', 'focus_only', 'error'.*got 'cry'"),
    Row("cheap cones", lambda: plan(30, (2, 2)), r"more tokens per cone frame than per rod frame, got 2 and 2"),
    Row(
        "short",
        lambda: plan(19, when_short="error"),
        r"at least 20 tokens for 10 frames with when_short='error', got 19",
    ),
    Row("short of a rod", lambda: plan(1), r"at least 2 tokens for 10 frames with when_short='resample', got 1"),
    Row("short of a cone", lambda: plan(19, when_short="focus_only"), r"at least 40 tokens .*'focus_only', got 19"),
    Row(
        "features",
        lambda: check_features(torch.full((2, 4), torch.nan)[None, None]),
        r"1 of 1 frames, first in frame 0 of video 0",
    ),
    Row(
        "fusion",
        lambda: ConeEncoder(3, fusion="mixed"),
        r"'multi_grained', 'concatenation', 'cross_attention'.*got 'mixed'",
    ),
    Row("config", lambda: DynFocusConfig.from_dict({"dims": 3}), r"among \['dim', .*got \['dims'\]"),
    Row(
        "frames and budget",
        lambda: small()(video(), focus_index=torch.zeros(1, 3, dtype=torch.long), budget=TokenBudget(77)),
        r"got both \(3 frames and .*max_tokens=77",
    ),
    Row("no checkpoint", saved_nowhere, r"expected config.json in .*found none", FileNotFoundError),
    Row("other weights", load_without_a_row, r"missing \[\], extra \[\], mis-shaped .*\(10, 6\) instead of \(11, 6\)"),
    Row("selection", lambda: selection(event=torch.zeros(1, 4)), r"is_focus of shape \(1, 4\), got \(1, 5\)"),
    Row("token index", lambda: compressed(kind=torch.zeros(2)), r"kind of shape \(3,\) for 3 tokens, got \(2,\)"),
    Row("offsets", lambda: compressed(offsets=torch.zeros(1, 2)), r"\(batch \+ 1,\), got \(1, 2\)"),
    Row("nothing to pack", lambda: CompressedVideo.pack([]), r"at least 1 video, got 0"),
    Row("not kept", lambda: compressed().pool_like(torch.zeros(1, 1, 4, 3)), r"keep_merging=True, got merging=None"),
    Row("cones", lambda: CompactCooperativeEncoder(4, cones="all"), r"'patches', 'rods', 'none'.*got 'all'"),
    Row(
        "concatenation of groups",
        lambda: small("authors_code", cones="concatenation"),
        r"spatial_order='by_level' for cones='concatenation', got 'grouped'",
    ),
    Row("rod tokens", lambda: CompactCooperativeEncoder(4, rod_tokens=3), r"0 or 2, got 3"),
    Row(
        "rod input", lambda: CompactCooperativeEncoder(4, rod_input="pixels"), r"'prototypes', 'patches'.*got 'pixels'"
    ),
    Row("projector", lambda: CompactCooperativeEncoder(4, projector="linear"), r"'mlp2x_gelu' or None, got 'linear'"),
    Row(
        "width in the encoder",
        lambda: small().encoder(video(dim=7), small().estimator(video())),
        r"CompactCooperativeEncoder: expected features of width 6, got 7. Build the connector with dim=7",
    ),
    Row("width", lambda: small()(video(dim=7)), r"DynamicPrototypeEstimator: expected features of width 6, got 7"),
    Row("focus", lambda: small().estimator(video(), num_focus=6), r"0 <= num_focus <= 5 event prototypes, got 6"),
    Row(
        "text space",
        lambda: small("importance", text_weight=0.5)(video(), torch.zeros(1, 2, 5).double()),
        r"text of width 6 for text_weight > 0, got 5",
    ),
    Row(
        "events",
        lambda: DynamicPrototypeEstimator(4, num_prototypes=0),
        r"num_prototypes and pool_grid >= 1, got 0 and 4",
    ),
    Row("share", lambda: DynamicPrototypeEstimator(4, focus_ratio=1.2), r"0 <= focus_ratio <= 1, got 1.2"),
    Row(
        "scorer",
        lambda: DynamicPrototypeEstimator(4, scorer="luck"),
        r"'network', 'question', 'importance'.*got 'luck'",
    ),
    Row("seeding", lambda: kmeans(POINTS, 2, seeding="first"), r"'farthest', 'k-means\+\+' or 'random', got 'first'"),
    Row("scale", lambda: density_peaks(POINTS, 2, 2, distance_scale=-1.0), r"distance_scale > 0 or 'max', got -1.0"),
    Row("temperature", lambda: small("cosine", rod_temperature=0.0), r"RodEncoder: expected temperature > 0, got 0.0"),
    Row("neighbors", lambda: density_peaks(POINTS, 2, 0), r"num_neighbors >= 1, got 0"),
    Row("points", lambda: density_peaks(POINTS[0], 2, 2), r"\[batch points dim\], got \(6, 3\)"),
    Row("clusters", lambda: weighted_kmeans(POINTS, 0), r"weighted_kmeans: expected num_clusters >= 1, got 0"),
    Row("no square", lambda: resolve_grid(12, None), r"12 patches to fill a grid, got \(3, 3\). Pass grid"),
    Row("grid", lambda: resolve_grid(257, (16, 16)), r"257 patches to fill a grid, got \(16, 16\). Drop class"),
    Row(
        "weights",
        lambda: merge_prototypes(POINTS, density_peaks(POINTS, 2, 2), weights="best"),
        r"'importance', 'uniform', 'centers'.*got 'best'",
    ),
    Row(
        "one frame", lambda: estimate_redundancy(torch.zeros(1, 3), temporal_threshold=0.5), r"at least 2 frames, got 1"
    ),
    Row(
        "threshold",
        lambda: estimate_redundancy(POINTS[0], POINTS[0], temporal_threshold=0.5),
        r"relevance_threshold with text, got None",
    ),
    Row(
        "text width",
        lambda: estimate_redundancy(POINTS[0], torch.zeros(2, 4), temporal_threshold=0.5, relevance_threshold=0.5),
        r"text of width 3, got 4",
    ),
    Row(
        "reduction",
        lambda: estimate_redundancy(
            POINTS[0], POINTS[0], temporal_threshold=0.5, relevance_threshold=0.5, reduction="min"
        ),
        r"'max' or 'mean', got 'min'",
    ),
    Row("attention", lambda: RodEncoder(4, attention="flash"), r"'learned' or 'cosine', got 'flash'"),
    Row("cosine width", lambda: RodEncoder(4, 3, attention="cosine"), r"dim_text=4 or None .*'cosine', got 3"),
    Row("question width", lambda: small()(video(), torch.zeros(1, 2, 4).double()), r"text of width 5, got 4"),
    Row("hidden", lambda: ScoreNetwork(4, hidden=()), r"at least 1 hidden width, got 0"),
    Row(
        "score input",
        lambda: ScoreNetwork(4, score_input="mean")(torch.zeros(1, 2, 3, 4)),
        r"'largest_norm' or 'elementwise_max', got 'mean'",
    ),
    Row("levels", lambda: SpatialPrototypes((4, 0)), r"got \(4, 0\) and \(8, 3\)"),
    Row(
        "grouped levels", lambda: SpatialPrototypes((4, 3, 2), order="grouped"), r"2 levels for order='grouped', got 3"
    ),
    Row(
        "fixed frames in a stream",
        lambda: StreamingConnector(build_baseline("uniform", small().config)),
        r"with a DynamicPrototypeEstimator, got FixedFrames",
        TypeError,
    ),
    Row("stream bound", lambda: StreamingConnector(small(), 9), r"max_frames >= 10, twice the 5 event.*got 9"),
    Row("empty stream", lambda: stream(0).tokens(), r"at least 1 frame before tokens, got 0"),
    Row("width in a stream", lambda: stream().push(torch.zeros(16, 7)), r"features of width 6, got 7.*dim=7"),
    Row(
        "other patches in a stream",
        lambda: stream().push(video(1, 2, patches=9)[0]),
        r"of 16 patches, torch.float64 on cpu.*got 9, torch.float64",
    ),
    Row(
        "other dtype in a stream",
        lambda: stream().push(video(1, 2)[0].half()),
        r"torch.float64 on .*got 16, torch.float16",
    ),
    Row(
        "text per frame in a stream",
        lambda: stream().tokens(torch.zeros(1, 4, 2, 5)),
        r"text for each of the 3 frames held, got 4",
    ),
    Row("span", lambda: compressed(span=torch.zeros(3)), r"span of shape \(3, 2\) for 3 tokens, got \(3,\)"),
    Row("padding side", lambda: spliced(padding_side="top"), r"'left' or 'right', got 'top'"),
    Row("embedding", lambda: spliced(embed=torch.nn.Embedding(3, 5)), r"as wide as the embedding \(5\), got 4"),
    Row("placeholders", lambda: spliced(input_ids=torch.tensor([[1, 2]])), r"got 0 placeholders and 1 videos"),
    Row("gradient", lambda: perturbed_topk(SCORES, 2, gradient="exact"), r"'rao_blackwell', .*got 'exact'"),
    Row(
        "noise of nothing",
        lambda: perturbed_topk(SCORES, 2, num_samples=None, noise=torch.zeros(2, 3, 4)),
        r"got noise of shape \(2, 3, 4\)",
    ),
    Row("gradient samples", lambda: perturbed_topk(SCORES, 2, gradient_samples=501), r"<= 500 samples, got 501"),
    Row(
        "samples of another gradient",
        lambda: perturbed_topk(SCORES, 2, gradient="plain", gradient_samples=9),
        r"'rao_blackwell', got 9 with 'plain'",
    ),
    Row("scores", lambda: perturbed_topk(SCORES[0], 2), r"\[batch prototypes\], got \(4,\)"),
    Row(
        "mask",
        lambda: exact_topk(SCORES, 2, mask=torch.ones(2, 3, dtype=torch.bool)),
        r"mask of shape \(2, 4\), got \(2, 3\)",
    ),
    Row("max_k", lambda: perturbed_topk(SCORES, 2, max_k=5), r"0 <= max_k <= 4 entries, got 5"),
    Row("k per row", lambda: perturbed_topk(SCORES, torch.ones(3, dtype=torch.long)), r"k of shape \(2,\), got \(3,\)"),
    Row("k", lambda: exact_topk(SCORES, 5), r"0 <= k <= 4 entries, got 5"),
    Row("k and max_k", lambda: exact_topk(SCORES, 3, max_k=2), r"0 <= k <= 2 = max_k, got 3"),
    Row("sigma", lambda: exact_topk(SCORES, 2, sigma=0.0), r"sigma > 0, got 0.0"),
    Row("noise", lambda: perturbed_topk(SCORES, 2, noise=torch.zeros(2, 3)), r"\(2, samples, 4\), got \(2, 3\)"),
    Row("samples", lambda: perturbed_topk(SCORES, 2, num_samples=1), r"at least 2 samples, got 1"),
]


def call(row: Row, tmp_path: Path) -> Exception:
    with pytest.raises(row.error) as caught:
        row.call(tmp_path) if row.call in (load_without_a_row, saved_nowhere) else row.call()
    return caught.value


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_message(row, tmp_path):
    message = str(call(row, tmp_path))
    assert re.search(row.message, message, re.DOTALL), message
    assert re.match(r"[\w.]+: expected ", message), message
    assert message.endswith("."), message


def test_every_raise_has_a_row(tmp_path):
    reached = set()
    for i, row in enumerate(ROWS):
        folder = tmp_path / str(i)
        folder.mkdir()
        frames = traceback.extract_tb(call(row, folder).__traceback__)
        reached |= {
            (Path(frame.filename).name, frame.lineno) for frame in frames if Path(frame.filename).parent == CORE
        }
    silent = [
        f"{path.name}:{node.lineno}"
        for path in sorted(CORE.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        and not any(name == path.name and node.lineno <= line <= node.end_lineno for name, line in reached)
    ]
    assert not silent, silent


def test_connectors_are_built_from_the_same_names():
    assert build_connector(small().config).config == small().config
