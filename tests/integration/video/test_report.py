"""The page: escaped, self-contained, complete, and saying why."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from dynfocus_connector import CompressedVideo, DynFocusConfig, TokenBudget, build_connector
from dynfocus_video.report import VideoReport, render_report, script_json, write_report
from dynfocus_video.report_frames import clock_for
from dynfocus_video.thumbnails import MOST_SMALL_PICTURES, for_page, size_of, thumbnail

EVIL = "</script><script>alert('x')</script><!-- \"&' <img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Every element with its attributes; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID and tag not in ("path",):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def compressed(frames: int = 12, *, budget: TokenBudget | None = None, **changes: object) -> CompressedVideo:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, frames, 64, 8, generator=generator)
    options = {"num_prototypes": 5, "focus_ratio": 0.6, "spatial_prototypes": (6, 3)} | changes
    config = DynFocusConfig.training_free(dim=8, **options)
    return build_connector(config).eval()(features, budget=budget, keep_merging=True)


def report_about(video: CompressedVideo, **changes: object) -> VideoReport:
    count = video.selection.event.shape[1]
    picture = thumbnail(torch.arange(36 * 64 * 3).reshape(36, 64, 3).to(torch.uint8), 64)
    report = VideoReport(
        title="clip.mp4",
        timestamps=[i / 2 for i in range(count)],
        thumbnails=[picture] * count,
        selection=video.selection,
        tokens_per_frame=video.frame_index.bincount(minlength=count).tolist(),
        grid=(8, 8),
        spatial=video.merging.spatial,
    )
    return report._replace(**changes)


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_names_and_questions_are_escaped_everywhere() -> None:
    report = report_about(compressed(), title=EVIL, question=EVIL, notes=[EVIL], facts={EVIL: EVIL}, scored_by=EVIL)
    text = render_report(report)
    page = Page(text)
    assert len(page.all("script")) == 2
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert len(page.all("img")) == 12 + 1
    assert EVIL in data_of(text)["frames"][int(report.selection.focus_index[0, 0])]["why"]


def test_json_cannot_leave_its_script_element() -> None:
    assert not set("<>&\u2028") & set(script_json({"a": "</script><!--&\u2028"}))
    assert json.loads(script_json({"a": EVIL})) == {"a": EVIL}


def test_nothing_points_outside() -> None:
    page = Page(text := render_report(report_about(compressed(), question="q")))
    assert not re.search(r"https?://|url\(|@import", text)
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes


def test_a_screen_reader_finds_its_way() -> None:
    page = Page(render_report(report_about(compressed(), question="q")))
    assert [len(page.all(tag)) for tag in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    identifiers = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, "clock") in identifiers
    assert all("alt" in attributes for attributes in page.all("img"))
    frames = [attributes for attributes in page.all("button") if "data-frame" in attributes]
    assert len(frames) == 12
    assert all("event" in attributes["aria-label"] and "tokens" in attributes["aria-label"] for attributes in frames)
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_every_frame_is_a_row_of_the_table_and_an_entry_of_the_data() -> None:
    video = compressed()
    text = render_report(report_about(video))
    body = text[text.index('<table class="frames">') :]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", body)][1:]
    assert [int(row[0]) for row in cells] == list(range(12))
    assert [int(row[2]) for row in cells] == video.selection.event[0].tolist()
    assert [row[3] == "focus" for row in cells] == video.selection.is_focus[0].tolist()
    assert sum(int(row[6]) for row in cells) == len(video.tokens)
    data = data_of(text)["frames"]
    assert [frame["focus"] for frame in data] == video.selection.is_focus[0].tolist()
    assert [frame["tokens"] for frame in data] == [int(row[6]) for row in cells]


def test_regions_are_the_prototypes_that_patches_joined() -> None:
    video = compressed()
    data = data_of(render_report(report_about(video)))
    row = video.merging.spatial.row[0]
    assert data["levels"] == [6, 3]
    for index, frame in enumerate(data["frames"]):
        assert (frame["regions"] is not None) == frame["focus"]
        if frame["focus"]:
            labels = torch.tensor(list(base64.b64decode(frame["regions"]))).reshape(2, 64)
            same = labels[:, :, None] == labels[:, None]
            assert torch.equal(same, row[index][:, :, None] == row[index][:, None])


def test_sentences_say_why() -> None:
    video = compressed()
    frames = data_of(render_report(report_about(video)))["frames"]
    for index, frame in enumerate(frames):
        peak = index in video.selection.prototype_index[0].tolist()
        expected = "Kept in detail" if frame["focus"] else "Kept coarsely"
        assert frame["why"].startswith(f"{expected} ({frame['tokens']} tokens)"), frame["why"]
        assert ("stands for event" in frame["why"]) == peak
    ranks = sorted(int(found[1]) for frame in frames if (found := re.search(r"number (\d+) of\s5", frame["why"])))
    assert ranks == [1, 2, 3, 4, 5]
    assert {int(re.search(r"number (\d+)", frame["why"])[1]) for frame in frames if frame["focus"]} == {1, 2, 3}


def test_sentences_say_so_where_no_event_had_to_yield() -> None:
    frames = data_of(render_report(report_about(compressed(focus_ratio=1.0))))["frames"]
    reasons = [frame["why"] for frame in frames if frame["focus"]]
    assert len(reasons) == 5
    assert all(why.startswith("Kept in detail") and why.endswith("every event is in focus.") for why in reasons)


@pytest.mark.parametrize(
    "video",
    [
        compressed(budget=TokenBudget(ratio=1.0)),
        compressed(budget=TokenBudget(max_tokens=60, when_short="focus_only"), rod_tokens=0),
        compressed(1),
        compressed(focus_ratio=1.0),
        compressed(3, merge_weights="centers"),
    ],
    ids=["everything", "no rods", "one frame", "all events", "few frames"],
)
def test_every_kind_of_result_makes_a_page(video: CompressedVideo) -> None:
    text = render_report(report_about(video))
    Page(text)
    assert f"<dd>{len(video.tokens):,}</dd><dt>tokens</dt>" in text
    assert "nan" not in text[text.index('class="lane') : text.index('class="axis"')]


def test_a_static_video_has_copies_without_importance() -> None:
    config = DynFocusConfig.training_free(dim=8, num_prototypes=2)
    video = build_connector(config).eval()(torch.ones(1, 5, 64, 8), keep_merging=True)
    frames = data_of(render_report(report_about(video)))["frames"]
    assert "a copy" in {frame["importance"] for frame in frames}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thumbnails": [None]}, "expected thumbnails of 12 frames .*, got 1"),
        ({"tokens_per_frame": [1, 2]}, "expected tokens_per_frame of 12 frames .*, got 2"),
        ({"timestamps": []}, "expected at least 1 frame, got 0"),
        ({"timestamps": [0.0], "thumbnails": [None], "tokens_per_frame": [2]}, "expected selection of 1 .*, got 12"),
    ],
)
def test_lengths_must_agree(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"write_report: {message}"):
        render_report(report_about(compressed(), **changes))


def test_a_selection_of_two_videos_is_refused() -> None:
    two = build_connector(DynFocusConfig.training_free(dim=8)).eval()(torch.randn(2, 12, 64, 8), keep_merging=True)
    with pytest.raises(ValueError, match="expected the selection of 1 video, got 2"):
        render_report(report_about(two))


def test_pages_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    report = report_about(compressed())
    path = write_report(tmp_path / "page.html", report)
    assert path.read_text(encoding="utf-8") == render_report(report)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="expected thumbnails"):
        write_report(path, report._replace(thumbnails=[]))
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == before


def test_pictures_of_long_videos_are_few_and_small() -> None:
    noise = torch.randint(0, 256, (180, 320, 3), dtype=torch.uint8)
    picture = thumbnail(noise, 320)
    is_focus = [i % 200 == 0 for i in range(4000)]
    pictures = for_page([picture] * 4000, is_focus)
    shown = [page for page, focus in zip(pictures, is_focus, strict=True) if page is not None and not focus]
    assert len(shown) == MOST_SMALL_PICTURES
    assert all(page is not None for page, focus in zip(pictures, is_focus, strict=True) if focus)
    assert size_of(pictures[0]) == (320, 180)
    assert size_of(shown[0]) == (96, 54)


def test_clocks() -> None:
    assert clock_for(100, 1.0)(61) == "1:01"
    assert clock_for(100, 0.2)(59.96) == "1:00.0"
    assert clock_for(100, 0.04)(1.04) == "0:01.04"
    assert clock_for(7200, 1.0)(3661) == "1:01:01"
