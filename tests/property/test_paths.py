"""The laws on every path of the code: a matrix, tiles, one graph, a stream, the interpreted kernel; in every dtype."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from dynfocus_connector import StreamingConnector, peaks
from dynfocus_connector.kernels import has_triton
from tests.arms import small, video
from tests.comparing import assert_close

FRAMES, PATCHES, DIM = 7, 16, 64
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def connector_in(dtype):
    return small("importance", dim=DIM, focus_ratio=0.4).to(dtype)


def footage(dtype):
    """Three scenes, of which the second has a frame and its copy; small numbers, which no dtype rounds much."""
    noise = 0.1 * video(1, FRAMES, patches=PATCHES, dim=DIM, seed=1)
    frames = video(1, 3, patches=PATCHES, dim=DIM)[:, [0, 0, 0, 1, 1, 2, 2]] + noise
    frames[:, 4] = frames[:, 3]
    return frames.to(dtype)


def plain(connector):
    return connector


def one_graph(connector):
    return torch.compile(connector, fullgraph=True, backend="eager")


def stream(connector):
    def run(frames):
        memory = StreamingConnector(connector, 3 * FRAMES)
        for few in frames[0].split(3):
            memory.push(few)
        return memory.tokens()

    return run


def interpreted(connector):
    connector.encoder.spatial.kernels = True
    return connector


def assert_laws(path, dtype):
    """Each of them over whole videos, through the path alone."""
    connector, frames = connector_in(dtype), footage(dtype)
    run = path(connector)
    result = run(frames)
    assert_same(run(frames.clone()), result, 0.0)  # the same video, the same tokens
    assert result.tokens.dtype == dtype
    counts = connector.encoder.token_counts(PATCHES)
    expected = torch.where(result.selection.is_focus[0], counts.cone, counts.rod)
    assert result.frame_index.tolist() == torch.arange(FRAMES).repeat_interleave(expected).tolist()  # coverage
    assert 4 not in result.selection.prototype_index  # of copies the first is the peak
    assert_close(result.selection.soft_mask.sum(-1), torch.ones(1, 2))

    exact = connector.double()(frames.double())
    connector.to(dtype)
    assert torch.equal(result.selection.prototype_index, exact.selection.prototype_index)
    assert torch.equal(result.selection.focus_index, exact.selection.focus_index)
    assert_close(result.tokens, exact.tokens, 8 * torch.finfo(dtype).eps, 8 * torch.finfo(dtype).eps)

    scaled = run(frames * 4)
    assert torch.equal(scaled.selection.focus_index, result.selection.focus_index)  # no scale moves a frame
    assert torch.equal(scaled.frame_index, result.frame_index)

    frames[0, 6] = torch.nan
    damaged = run(frames)
    assert damaged.frame_index.unique().tolist() == list(range(FRAMES))
    assert damaged.tokens[damaged.frame_index < 6].isfinite().all()  # damage stays where it is


def assert_same(actual, expected, tolerance):
    for name in ("frame_index", "kind", "anchor"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    assert_close(actual.tokens, expected.tokens, tolerance, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", [plain, pytest.param(one_graph, marks=pytest.mark.compile), stream])
def test_laws(path, dtype):
    torch._dynamo.reset()
    assert_laws(path, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_laws_in_tiles(monkeypatch, dtype):
    monkeypatch.setattr(peaks, "LONGEST_MATRIX", 2)
    assert_laws(plain, dtype)


WORK = """
from tests.property.test_paths import DTYPES, assert_laws, interpreted
for dtype in DTYPES:
    assert_laws(interpreted, dtype)
    print(dtype, flush=True)
"""


@pytest.mark.skipif(not has_triton(), reason="needs Triton")
def test_laws_of_the_interpreted_kernel():
    """In a process of its own: Triton asks for its interpreter when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(dtype) for dtype in DTYPES], done.stderr[-2000:]
