"""`model.dynfocus_report[i].write_html`: the page of `dynfocus compress` about a video of a host."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynfocus_connector.baselines import build_baseline
from dynfocus_transformers import TemporalPruner, VideoReport, attach
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.tiny import HOSTS, Tiny, Video, text

ROW = [text(1, 3), Video(6, 1), text(2, 6)]
COLOURS = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10], [10, 250, 250], [250, 10, 250]])


def pictures(count: int) -> torch.Tensor:
    """One plain colour each."""
    return COLOURS[torch.arange(count) % 6].to(torch.uint8)[:, None, None].repeat(1, 36, 64, 1)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def shown(page: str) -> list[int]:
    """The colour of every picture of the page, by its place in COLOURS."""
    found = []
    for source in re.findall(r'data:image/jpeg;base64,([^"]+)"', page):
        mean = np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))).reshape(-1, 3).mean(0)
        found.append(int((COLOURS - torch.from_numpy(mean)).abs().sum(1).argmin()))
    return found


@torch.no_grad()
def told(name: str, connector: Any, row: list[Any] = ROW, **settings: Any) -> VideoReport:
    """The report of one call of a host."""
    host = attach(HOSTS[name].model(), connector, **settings)
    host(**HOSTS[name].batch(row))
    (report,) = host.dynfocus_report
    return report


@pytest.fixture(scope="module")
def report() -> VideoReport:
    return told("llava_onevision", training_free(), ratio=0.4)


@pytest.mark.proves("a page about each video")
@torch.no_grad()
def test_the_page_tells_what_the_report_does(tiny: Tiny, host: Any, tmp_path: Path) -> None:
    attach(host, trained(), ratio=0.4)
    lengths = (6, 4) if tiny.ragged else (6, 6)
    host(**tiny.batch(*([text(i, 3), Video(length, i), text(2, 6)] for i, length in enumerate(lengths))))
    for report, count in zip(host.dynfocus_report, lengths, strict=True):
        assert report.joined == (2 if tiny.name.startswith("qwen") else 1)
        path = report.write_html(tmp_path / "page.html", frames=pictures(count * report.joined), title="clip.mp4")
        page = path.read_text()
        frames = data_of(page)["frames"]
        assert [t for t, frame in enumerate(frames) if frame["focus"]] == report.focus_frames
        assert [frame["tokens"] for frame in frames] == report.frame_index.bincount(minlength=count).tolist()
        assert sum(frame["tokens"] for frame in frames) == report.tokens_after
        assert data_of(page)["grid"] == [4, 4]
        assert shown(page) == [t * report.joined % 6 for t in range(count)]
        assert "<h1>clip.mp4</h1>" in page
        assert "No question took part" not in page
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html"]


def test_in_training_nothing_of_the_graph_is_kept() -> None:
    host = attach(HOSTS["qwen3_vl"].model(), trained(), ratio=0.4).train()
    host(**HOSTS["qwen3_vl"].batch(ROW, labels=True)).loss.backward()
    (report,) = copy.deepcopy(host.dynfocus_report)
    assert pickle.loads(pickle.dumps(report)).focus_frames == report.focus_frames
    for tensor in (*report.selection, *report.spatial, report.frame_index, report.kind):
        assert not tensor.requires_grad
    assert report.selection.prototypes.untyped_storage().nbytes() == 0


KINDS = {
    "bytes, channels last": lambda pixels: pixels,
    "bytes, channels first": lambda pixels: pixels.movedim(-1, 1),
    "numpy": lambda pixels: pixels.numpy(),
    "a list of numpy": lambda pixels: list(pixels.numpy()),
    "PIL": lambda pixels: [Image.fromarray(frame.numpy()) for frame in pixels],
    "PIL with a palette": lambda pixels: [Image.fromarray(frame.numpy()).convert("P") for frame in pixels],
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind(report: VideoReport, tmp_path: Path, kind: str) -> None:
    page = report.write_html(tmp_path / "page.html", frames=KINDS[kind](pictures(6))).read_text()
    assert shown(page) == list(range(6))
    assert "No pictures were given" not in page


def test_without_pictures_and_times_the_page_says_so(report: VideoReport, tmp_path: Path) -> None:
    page = report.write_html(tmp_path / "page.html").read_text()
    assert shown(page) == []
    for note in ("No pictures were given.", "the clock counts frames", "Training-free: no trained weights"):
        assert note in page
    timed = report.write_html(tmp_path / "page.html", timestamps=[0, 2, 4, 6, 8, 10]).read_text()
    assert "the clock counts frames" not in timed
    assert [frame["start"] for frame in data_of(timed)["frames"]] == [0, 2, 4, 6, 8, 10]


def test_the_last_pair_may_be_half(tmp_path: Path) -> None:
    report = told("qwen2_5_vl", training_free(), ratio=0.4)
    times = [t / 2 for t in range(11)]
    page = report.write_html(tmp_path / "page.html", frames=pictures(11), timestamps=times).read_text()
    assert shown(page) == [0, 2, 4, 0, 2, 4]
    assert [frame["start"] for frame in data_of(page)["frames"]] == [0, 1, 2, 3, 4, 5]


def test_object_prototypes_are_painted_where_they_were_kept(report: VideoReport, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert data_of(report.write_html(path, frames=pictures(6)).read_text())["levels"] == []
    whole = told("llava_onevision", training_free(), ratio=0.4, keep_merging=True)
    assert data_of(whole.write_html(path).read_text())["levels"] == []
    data = data_of(whole.write_html(path, frames=pictures(6)).read_text())
    assert data["levels"] == [4, 2]
    frame = whole.focus_frames[0]
    labels = torch.tensor(list(base64.b64decode(data["frames"][frame]["regions"]))).view(2, 16)
    row = whole.spatial.row[0, frame]
    assert torch.equal(labels[:, :, None] == labels[:, None], row[:, :, None] == row[:, None])


@pytest.mark.parametrize("keep_merging", [False, True])
def test_frames_that_a_short_budget_left_out(tmp_path: Path, keep_merging: bool) -> None:
    row = [text(1, 3), Video(24, 1), text(2, 6)]
    report = told("llava_onevision", training_free(), row, max_tokens=30, keep_merging=keep_merging)
    page = report.write_html(tmp_path / "page.html", frames=pictures(24)).read_text()
    tokens = report.frame_index.bincount(minlength=24)
    part = tokens.nonzero()[:, 0].tolist()
    assert 1 < len(part) < 24
    frames = data_of(page)["frames"]
    assert [frame["start"] for frame in frames] == part
    assert [frame["tokens"] for frame in frames] == tokens[part].tolist()
    assert [part[t] for t, frame in enumerate(frames) if frame["focus"]] == report.focus_frames
    assert shown(page) == [t % 6 for t in part]
    assert f"too short for all 24 frames: {len(part)} of them" in page
    assert [frame["regions"] is not None for frame in frames] == [keep_merging and frame["focus"] for frame in frames]


def test_how_events_rank(tmp_path: Path) -> None:
    def why(connector: Any, **settings: Any) -> str:
        return told("llava_onevision", connector, ratio=0.4, **settings).write_html(tmp_path / "page.html").read_text()

    assert "ranks by its learned score" in why(trained())
    free = training_free()
    assert "how well it matches" not in why(free)
    free.estimator.text_weight = 0.5
    object.__setattr__(free.config, "text_weight", 0.5)
    assert "how well it matches the question" in why(free)
    silent = why(free, question="none")
    assert "how well it matches" not in silent
    assert "No question took part." in silent


@pytest.mark.parametrize("name", ["uniform", "two_tokens", "keep_all"])
def test_baselines_have_pages(tmp_path: Path, name: str) -> None:
    report = told("llava_onevision", build_baseline(name, training_free().config).eval(), ratio=0.4)
    frames = data_of(report.write_html(tmp_path / "page.html").read_text())["frames"]
    assert sum(frame["focus"] for frame in frames) == len(report.selection.is_focus[0].nonzero())
    assert sum(frame["tokens"] for frame in frames) == report.tokens_after


FLOATS = torch.rand(6, 3, 8, 8)
BAD = [
    ({"frames": pictures(5)}, ValueError, r"expected 6 frames, got 5\. Pass those the processor saw"),
    ({"frames": pictures(12)}, ValueError, r"expected 6 frames, got 12\."),
    ({"timestamps": [0.0] * 7}, ValueError, r"expected 6 timestamps, got 7\."),
    ({"timestamps": [0, 1, 2, 2, 3, 4]}, ValueError, r"expected ascending timestamps, got \[0.0, 1.0, 2.0, 2.0"),
    ({"frames": FLOATS}, TypeError, r".*unsigned bytes .* got Tensor of float32 \[3, 8, 8\]\. .*not its pixel values"),
    ({"frames": pictures(6)[..., :1]}, TypeError, r".* got Tensor of uint8 \[36, 64, 1\]"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_bad_pages(report: VideoReport, tmp_path: Path, options: dict[str, Any], error: Any, message: str) -> None:
    path = report.write_html(tmp_path / "page.html")
    before = path.read_bytes()
    with pytest.raises(error, match=f"write_html: {message}"):
        report.write_html(path, **options)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == before


def test_pairs_are_explained(tmp_path: Path) -> None:
    report = told("qwen2_5_vl", training_free(), ratio=0.4)
    for count in (5, 10, 13):
        with pytest.raises(ValueError, match=rf"expected 6 frames or up to 12, as the host joins 2 .*, got {count}\."):
            report.write_html(tmp_path / "page.html", frames=pictures(count))


def test_connectors_that_choose_no_frames(tmp_path: Path) -> None:
    report = told("llava_onevision", TemporalPruner())
    with pytest.raises(ValueError, match=r"write_html: .* without a selection\. It made 24 tokens of 96"):
        report.write_html(tmp_path / "page.html")
