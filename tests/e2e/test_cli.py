"""`dynfocus` as a person or a machine calls it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_video import cli
from dynfocus_video.cli import main
from dynfocus_video.clips import demo_clip
from dynfocus_video.compress_command import progress_bar
from dynfocus_video.info import collect

BIKES = "bikes.mp4"


def bikes() -> str:
    return str(demo_clip(BIKES))


def test_a_clip_becomes_tokens_a_page_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "out"
    assert main(["compress", bikes(), "--question", "What happens after the taxi?", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for words in ("frames", "events", "focus frames", "tokens", "ratio", "seconds", "Training-free", "report.html"):
        assert words in printed.out
    assert "question cannot influence" in printed.out
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "tokens.safetensors"]


def test_machines_get_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampling = ["--frames", "20", "--rule", "index"]
    events = ["--prototypes", "4", "--focus-ratio", "0.5"]
    assert main(["compress", bikes(), "--json", *sampling, *events, "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["events"], len(found["focus_times"])) == (20, 4, 2)
    assert found["tokens"] == 2 * 40 + 18 * 2
    assert found["training_free"] is True
    assert Path(found["report_file"]).is_file()


def test_decord_takes_the_same_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord", reason="decord is published for Linux on x86-64 only")
    found = []
    for decoder in ("pyav", "decord"):
        assert main(["compress", bikes(), "--json", "--decoder", decoder, "--out", str(tmp_path)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["focus_frames"] == found[1]["focus_frames"]


def test_a_short_budget_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", bikes(), "--fps", "5", "--max-tokens", "60", "--out", str(tmp_path)]) == 0
    assert "too short for the gist of all 50 sampled frames" in capsys.readouterr().out
    assert "too short for the gist of all 50 sampled frames" in (tmp_path / "report.html").read_text(encoding="utf-8")


def matroska(path: Path) -> Path:
    """bikes.mp4 in a container that can be cut."""
    import av

    with av.open(bikes()) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def cut_file(folder: Path) -> list[str]:
    whole = matroska(folder / "whole.mkv").read_bytes()
    (folder / "whole.mkv").unlink()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    return [str(folder / "cut.mkv")]


def text_file(folder: Path) -> list[str]:
    (folder / "notes.mp4").write_text("not a video\n" * 20)
    return [str(folder / "notes.mp4")]


def empty_file(folder: Path) -> list[str]:
    (folder / "empty.mp4").write_bytes(b"")
    return [str(folder / "empty.mp4")]


def sound_file(folder: Path) -> list[str]:
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return [str(folder / "sound.wav")]


def headless_mp4(folder: Path) -> list[str]:
    (folder / "half.mp4").write_bytes(Path(bikes()).read_bytes()[:20000])
    return [str(folder / "half.mp4")]


def narrow_checkpoint(folder: Path) -> list[str]:
    build_connector(DynFocusConfig.paper(dim=9, dim_out=4, dim_text=4)).save_pretrained(folder / "trained")
    return [bikes(), "--checkpoint", str(folder / "trained")]


BAD = [
    ("missing", lambda _: ["nowhere.mp4"], "expected an existing file, got 'nowhere.mp4'"),
    ("directory", lambda folder: [str(folder)], "expected a video file, got the directory"),
    ("empty", empty_file, r"empty file .* \(0 bytes\)"),
    ("text", text_file, "which is text"),
    ("sound", sound_file, "expected a video stream"),
    ("truncated and strict", lambda folder: [*cut_file(folder), "--strict"], "expected a whole video"),
    ("nothing decodable", headless_mp4, "expected a whole video|at least one whole frame|frames that decode"),
    ("zero frames", lambda _: [bikes(), "--frames", "0"], "expected frames >= 1, got 0"),
    ("zero fps", lambda _: [bikes(), "--fps", "0"], "expected fps > 0, got 0"),
    ("unknown encoder", lambda _: [bikes(), "--encoder", "clipp"], "clipp"),
    ("unknown timm model", lambda _: [bikes(), "--encoder", "timm:no_such_model"], "no_such_model"),
    ("checkpoint of another width", narrow_checkpoint, "expected features of width 9"),
    ("checkpoint missing", lambda _: [bikes(), "--checkpoint", "./nowhere"], "expected a folder that save_pre"),
    ("budget too small", lambda _: [bikes(), "--max-tokens", "1"], "expected at least 2 tokens for 10 frames"),
    (
        "budget too small for all",
        lambda _: [bikes(), "--max-tokens", "15", "--when-short", "error"],
        "expected at least 20 tokens for 10 frames .*, got 15",
    ),
    ("budget of nothing", lambda _: [bikes(), "--ratio", "0"], "expected 0 < ratio <= 1, got 0"),
    ("too many events in focus", lambda _: [bikes(), "--focus-ratio", "1.5"], "expected 0 <= focus_ratio <= 1"),
    (
        "text encoder without a shared space",
        lambda folder: [bikes(), "--question", "Where?", "--text-encoder", str(folder)],
        "got 'embedded'",
    ),
    ("no device", lambda _: [bikes(), "--device", "nonsense"], "nonsense"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_has_its_own_message_and_leaves_nothing(
    make: Callable[[Path], list[str]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    arguments = make(inputs)
    before = sorted(tmp_path.rglob("*"))
    assert main(["compress", *arguments, "--out", str(tmp_path / "new" / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dynfocus: ")
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert re.search(message, printed.err), printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["compress", bikes(), "--out", str(out)]) == 1
        assert "expected an output folder that can be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_nan_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dynfocus_video import compress

    load = compress._load_encoder

    def spoiled(*arguments: object) -> object:
        encoder = load(*arguments)
        encode = encoder.encode
        monkeypatch.setattr(encoder, "encode", lambda frames: encode(frames) / torch.zeros(()), raising=False)
        return encoder

    monkeypatch.setattr(compress, "_load_encoder", spoiled)
    assert main(["compress", bikes(), "--out", str(tmp_path / "out")]) == 1
    assert "expected finite features, got NaN or Inf in 10 of 10 frames, first in frame 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_old_results_survive_an_error(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    assert main(["compress", "nowhere.mp4", "--out", str(tmp_path)]) == 1
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_cut_file_keeps_what_decodes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", *cut_file(tmp_path), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["frames"] < 10
    assert "%" in found["truncated"]
    assert "The file is not whole" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_debug_shows_where_an_error_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "compress", "nowhere.mp4"], ["compress", "nowhere.mp4", "--debug"]):
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["compress"], ["nonsense"], ["compress", "a", "--fps=1", "--frames=2"]])
def test_arguments_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: dynfocus" in capsys.readouterr().err


def test_a_strangers_broken_verb_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [
        EntryPoint("gone", "no_such_module:add", cli.GROUP),
        EntryPoint("info", "dynfocus_video.info:add", cli.GROUP),
        EntryPoint("exits", "sys:exit", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: broken)
    assert main(["info"]) == 0
    printed = capsys.readouterr()
    assert "the verb 'gone' cannot be loaded: No module named 'no_such_module'" in printed.err
    assert "the verb 'exits' cannot be loaded" in printed.err
    assert "30,307,712" in printed.out


def test_a_person_sees_a_progress_bar_and_a_machine_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("clip.mp4") as advance:
        assert advance is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("dynfocus_video.compress_command.BAR_AFTER", 0.0)
    with progress_bar("clip.mp4") as advance:
        assert advance is not None
        advance(3, 10)
        advance(10, 10)
    assert "clip.mp4" in capsys.readouterr().err


def test_verbs_come_from_entry_points(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"compress", "info"} <= {entry.name for entry in cli.entry_points(group=cli.GROUP)}
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    with pytest.raises(SystemExit):
        main(["info"])
    capsys.readouterr()


def test_info_counts_what_the_presets_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found = collect()
    paper, authors = (list(found["presets"][name].values()) for name in ("paper", "authors_code"))
    assert paper == [25, 20, 40, 2, 30_307_712, 12_897_281]
    assert authors[:4] == [80, 36, 38, 2]
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))


def test_the_installed_command(tmp_path: Path) -> None:
    command = shutil.which("dynfocus", path=str(Path(sys.executable).parent))
    assert command is not None
    job = [command, "compress", bikes(), "--out", str(tmp_path / "out")]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(job, env=one_thread, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "report.html").is_file()
    parser = "import sys; from dynfocus_video.cli import build_parser; build_parser()"
    code = f"{parser}; print({{'torch', 'av'}} & set(sys.modules))"
    light = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert light.stdout.strip() == "set()"
