"""`dynfocus redundancy`: which videos, which ratios, one figure."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import av
import pytest
import torch

from dynfocus_video import encoders, text_encoder
from dynfocus_video.cli import main
from dynfocus_video.redundancy_command import find_folders, read_questions, sample_videos
from dynfocus_video.resizing import FrameSize
from tests.integration.video.writing import picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets: `still` shows one picture, `moving` another one each second."""
    folder = tmp_path_factory.mktemp("sets")
    for name, pictures in (("still", [3] * 48), ("moving", [7 * (i // 8) for i in range(48)])):
        (folder / name).mkdir()
        for copy in "ab":
            write_pictures(folder / name / f"{copy}.mp4", pictures)
    return folder


def write_pictures(path: Path, indices: list[int]) -> None:
    """Eight per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in indices:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode())


class Colours:
    """An encoder and a text encoder in one space: brightness and darkness."""

    name, dim, grid, joint_space, frame_size = "colours", 2, (1, 1), True, FrameSize(8, 8)

    def encode(self, values):  # type: ignore[no-untyped-def]
        if isinstance(values, list):
            bright = torch.tensor([["bright" in text for text in values]]).float().mT
            return torch.stack([bright, 1 - bright], dim=-1), torch.ones(len(values), 1, dtype=torch.bool)
        bright = values.float().mean((1, 2, 3))[:, None] / 255
        return torch.stack([bright, 1 - bright], dim=-1)


def test_both_sets_are_told_apart(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "fig.svg"
    assert main(["redundancy", str(folder), "--temporal-threshold", "0.999", "--out", str(figure)]) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert table["still"][:2] == ["2", "100.0%"]
    assert float(table["moving"][1].rstrip("%")) < 50
    assert table["still"][2] == "–"
    drawing = ElementTree.parse(figure).getroot()
    assert "still: temporal repetition 100%" in "".join(drawing.itertext())
    assert [path.name for path in tmp_path.iterdir()] == ["fig.svg"]


def test_questions_decide_what_is_irrelevant(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "load_encoder", lambda *_, **__: Colours())
    monkeypatch.setattr(text_encoder, "load_text_encoder", lambda *_, **__: Colours())
    monkeypatch.chdir(tmp_path)
    ratios = {}
    for word in ("bright", "dark"):
        questions = tmp_path / f"{word}.jsonl"
        lines = [{"video": f"{s}/{v}.mp4", "question": word, "answer": "?"} for s in ("still", "moving") for v in "ab"]
        questions.write_text("\n".join(json.dumps(line) for line in lines))
        options = ["--questions", str(questions), "--text-encoder", "x", "--relevance-threshold", "0.5"]
        assert main(["redundancy", str(folder), "--temporal-threshold", "0.5", *options]) == 0
        table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
        ratios[word] = float(table["moving"][2].rstrip("%"))
    assert ratios["bright"] + ratios["dark"] == pytest.approx(100, abs=0.2)
    assert ratios["bright"] != ratios["dark"] or ratios["bright"] == 50


def test_the_sample_follows_the_seed() -> None:
    videos = [Path(f"{i}.mp4") for i in range(30)]
    assert sample_videos(videos, 20, 0) == sample_videos(videos, 20, 0)
    assert sample_videos(videos, 20, 0) != sample_videos(videos, 20, 1)
    assert sample_videos(videos[:5], 20, 0) == videos[:5]


def test_several_questions_of_one_video_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"video": "a", "question": "who?", "answer": w} for w in ("one", "two")]))
    assert read_questions(path) == {"a": "who? one who? two"}


def test_videos_in_the_folder_itself(folder: Path) -> None:
    assert list(find_folders(folder / "still")) == ["still"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "expected a folder of videos, got 'nowhere'"),
        (["EMPTY"], "expected videos (.avi"),
        (["SETS", "--sample", "0"], "--sample >= 1, got 0"),
        (["SETS", "--text-encoder", "x"], "--questions and --relevance-threshold"),
        (["SETS", "--questions", "BAD"], "JSON or JSONL"),
        (["SETS", "--questions", "SHORT"], "entry 0 without ['answer']"),
    ],
)
def test_bad_input(
    options: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").write_text("{")
    (tmp_path / "short").write_text('{"video": "a", "question": "b"}')
    places = {"SETS": folder, "EMPTY": tmp_path / "empty", "BAD": tmp_path / "bad", "SHORT": tmp_path / "short"}
    figure = tmp_path / "fig.svg"
    words = [str(places.get(option, option)) for option in options]
    assert main(["redundancy", *words, "--temporal-threshold", "0.5", "--out", str(figure)]) == 1
    assert message in capsys.readouterr().err
    assert not figure.exists()
