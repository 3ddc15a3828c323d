"""The main job as a function: what it keeps, what it refuses, what it writes."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dynfocus_connector import DynFocusConfig, TokenBudget, TokenKind, build_connector
from dynfocus_video import compress as compress_module
from dynfocus_video import text_encoder
from dynfocus_video.atomic import output_folder, replace_together
from dynfocus_video.clips import demo_clip
from dynfocus_video.compress import Compression, compress_video
from dynfocus_video.features import CHUNK, encode_stream, seen_share
from dynfocus_video.present import notes_of, summary_of, table_of, write_results
from dynfocus_video.reader import iter_frames
from dynfocus_video.resizing import FrameSize
from dynfocus_video.sampling import Sampling
from tests.comparing import assert_makes_no_tensor_elsewhere
from tests.footage import BIKES_CUTS, SkewedFootage, write_skewed_footage

FIVE = Sampling(fps=5.0)


class TinyEncoder:
    """Mean colours on a 4 × 4 grid; remembers how many frames it was shown at a time."""

    name, dim, grid, frame_size, joint_space = "tiny", 3, (4, 4), FrameSize(32, 32), False

    def __init__(self, *, spoil: int | None = None) -> None:
        self.shown: list[int] = []
        self.spoil = spoil

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        features = frames.float().reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).flatten(1, 2) / 255
        if self.spoil is not None and sum(self.shown) <= self.spoil < sum(self.shown) + len(frames):
            features[self.spoil - sum(self.shown), 0, 0] = torch.nan
        self.shown.append(len(frames))
        return features


@pytest.fixture(scope="module")
def bikes() -> Compression:
    return compress_video(demo_clip("bikes.mp4"), sampling=FIVE)


def tiny(**options: object) -> Compression:
    return compress_video(demo_clip("bikes.mp4"), **({"encoder": TinyEncoder(), "sampling": FIVE} | options))


def test_no_tensor_is_made_elsewhere() -> None:
    assert_makes_no_tensor_elsewhere(lambda: compress_video(demo_clip("bikes.mp4"), thumbnails=False)[:3])


def test_every_shot_of_bikes_holds_a_focus_frame(bikes: Compression) -> None:
    edges = [0.0, *(cut / 25 for cut in BIKES_CUTS), 10.0]
    shots = [sum(start <= time < end for time in bikes.focus_times) for start, end in pairwise(edges)]
    assert min(shots) >= 1, shots
    assert len(bikes.focus_times) == 20


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> list[SkewedFootage]:
    folder = tmp_path_factory.mktemp("skewed")
    return [write_skewed_footage(folder / f"{seed}.mp4", seed) for seed in range(4)]


@pytest.mark.parametrize("seed", range(4))
def test_every_short_insert_holds_a_focus_frame(seed: int, skewed: list[SkewedFootage]) -> None:
    result = compress_video(skewed[seed].path, sampling=FIVE, num_prototypes=8, focus_ratio=1.0, thumbnails=False)
    assert len(result.focus_times) == 8
    for start, end in skewed[seed].inserts:
        assert any(start - 0.02 <= time < end for time in result.focus_times), (start, result.focus_times)


def test_uniform_frames_catch_at_most_one_insert_on_average(skewed: list[SkewedFootage]) -> None:
    uniform = [(i + 0.5) * 60 / 8 for i in range(8)]
    caught = [sum(any(start <= time < end for time in uniform) for start, end in one.inserts) for one in skewed]
    assert sum(caught) / len(caught) <= 1


def test_files_hold_everything(bikes: Compression, tmp_path: Path) -> None:
    tokens, page = write_results(bikes, tmp_path, "bikes.mp4")
    stored = load_file(tokens)
    assert set(stored) == {
        *("tokens", "frame_index", "kind", "anchor", "offsets"),
        *("timestamps", "is_focus", "event", "scores", "prototype_index"),
    }
    assert stored["tokens"].shape == (860, bikes.config.dim)
    assert stored["is_focus"].dtype == torch.bool
    assert stored["timestamps"].dtype == torch.float32
    assert {stored[name].shape for name in ("timestamps", "is_focus", "event")} == {(50,)}
    assert {stored[name].shape for name in ("scores", "prototype_index")} == {(25,)}
    cones = stored["is_focus"][stored["frame_index"]]
    assert torch.equal(cones, stored["kind"] == TokenKind.CONE)
    with safe_open(tokens, "pt") as file:
        metadata = file.metadata()
    assert DynFocusConfig.from_dict(json.loads(metadata["config"])) == bikes.config
    assert json.loads(metadata["training_free"]) is True
    assert page.stat().st_size < 2_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "tokens.safetensors"]


def test_same_file_same_tokens(bikes: Compression) -> None:
    again = compress_video(demo_clip("bikes.mp4"), sampling=FIVE)
    assert torch.equal(again.video.tokens, bikes.video.tokens)


def test_table_and_numbers_agree(bikes: Compression) -> None:
    numbers = summary_of(bikes)
    assert (numbers["frames"], numbers["events"], numbers["tokens"], numbers["all_patches"]) == (50, 25, 860, 12800)
    assert sum(numbers["tokens_per_frame"]) == 860
    text = table_of(bikes, "bikes.mp4", {"report": Path("out/report.html")})
    for words in ("frames        50", "focus frames  20", "6.7 %", "Training-free", "decode", "out/report.html"):
        assert words in text
    json.dumps(numbers, allow_nan=False)


def test_streaming_shows_the_encoder_a_few_frames_at_a_time() -> None:
    encoder = TinyEncoder()
    result = tiny(encoder=encoder)
    assert sum(encoder.shown) == len(result.timestamps) == 50
    assert max(encoder.shown) == CHUNK


def test_nan_features_name_the_frame() -> None:
    with pytest.raises(ValueError, match=r"compress_video: expected finite .* in 1 of 50 frames, first in frame 37"):
        tiny(encoder=TinyEncoder(spoil=37))


@pytest.mark.parametrize("budget", [TokenBudget(max_tokens=60), TokenBudget(ratio=0.05), TokenBudget(max_tokens=300)])
def test_frames_a_budget_leaves_out_are_never_encoded_and_nothing_else_changes(budget: TokenBudget) -> None:
    encoder = TinyEncoder()
    result = tiny(encoder=encoder, budget=budget)
    stream = iter_frames(demo_clip("bikes.mp4"), FIVE, size=None)
    features = encode_stream(stream, TinyEncoder(), thumbnails=False).features
    whole = build_connector(result.config).eval()(features[None], grid=(4, 4), budget=budget)
    assert torch.equal(whole.tokens, result.video.tokens)
    assert sum(encoder.shown) == len(result.timestamps) == (50 if budget.max_tokens == 300 else len(result.timestamps))
    assert len(result.video.tokens) <= budget.tokens_for(50, 16)
    resampled = len(result.timestamps) < 50
    assert any("token budget is too short for the gist of all 50" in note for note in notes_of(result)) == resampled


def test_a_budget_of_everything_keeps_every_patch() -> None:
    result = tiny(budget=TokenBudget(ratio=1.0))
    assert len(result.video.tokens) == 50 * 16


def test_presets_and_numbers_of_prototypes() -> None:
    authors = tiny(preset="authors_code")
    assert (authors.config.num_prototypes, authors.config.focus_ratio) == (80, 0.45)
    own = tiny(num_prototypes=4, focus_ratio=0.5)
    assert len(own.focus_times) == 2
    with pytest.raises(ValueError, match=r"expected preset to be one of .*, got 'papr'"):
        tiny(preset="papr")


def checkpoint(folder: Path, dim: int = 3, **changes: object) -> str:
    config = DynFocusConfig.paper(dim=dim, dim_out=5, dim_text=7, **changes)
    build_connector(config).save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_is_used(tmp_path: Path) -> None:
    result = tiny(checkpoint=checkpoint(tmp_path / "trained"), num_prototypes=6)
    assert not result.training_free
    assert result.video.tokens.shape[1] == 5
    assert len(result.focus_times) == 5
    assert not any("Training-free" in note for note in notes_of(result))


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "trained", dim=9)
    with pytest.raises(ValueError, match=r"expected features of width 9, .* got an encoder of width 3\."):
        tiny(checkpoint=path)
    with pytest.raises(ValueError, match="expected a preset or a checkpoint, got both"):
        tiny(checkpoint=path, preset="paper")
    with pytest.raises(ValueError, match=r"expected a folder that save_pretrained wrote, got './nowhere'"):
        tiny(checkpoint="./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected config\.json"):
        tiny(checkpoint=str(tmp_path / "empty"))


def test_a_question_counts_only_with_a_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    mute = tiny(question="which?")
    assert not mute.question_counts
    assert any("question cannot influence" in note for note in notes_of(mute))
    green = torch.tensor([[[-1.0, 5.0, -1.0]]])
    monkeypatch.setattr(compress_module, "_encode_question", lambda *_: green)
    asked = tiny(question="which?", text_encoder="some-clip")
    assert asked.question_counts
    assert asked.config.text_weight == 0.5
    assert not any("question" in note for note in notes_of(asked))
    assert not torch.equal(asked.video.tokens, mute.video.tokens)
    monkeypatch.setattr(compress_module, "_encode_question", lambda *_: green.repeat(1, 1, 2))
    with pytest.raises(ValueError, match=r"expected question features of width 3, .* got 6"):
        tiny(question="which?", text_encoder="some-clip")


class OnGpu(torch.Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True


def test_a_stage_ends_when_the_gpu_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the GPU moves, while it is waited for; no stage counts the work of another."""
    now, asked_for, compress = 0.0, 0.0, compress_module._compress

    def ask(result: Any, seconds: float) -> Any:
        nonlocal asked_for
        asked_for += seconds
        return result

    def synchronize(device: torch.device) -> None:
        nonlocal now, asked_for
        now, asked_for = now + asked_for, 0.0

    encoder, question = TinyEncoder(), torch.ones(1, 1, 3).as_subclass(OnGpu)
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda frames: ask(encode(frames).as_subclass(OnGpu), len(frames)))
    monkeypatch.setattr(compress_module, "_encode_question", lambda *_: ask(question, 3.0))
    monkeypatch.setattr(compress_module, "_compress", lambda *inputs: ask(compress(*inputs), 5.0))
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    result = tiny(encoder=encoder, question="which?", text_encoder="some-clip")
    assert result.seconds == {"load": 3.0, "decode": 0.0, "encode": 50.0, "compress": 5.0}


class FakeTower:
    """A text tower of width 3 that says which of its two faces was asked."""

    name, dim = "fake", 3

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(texts), 4, 3), torch.ones(len(texts), 4, dtype=torch.bool)

    def embed(self, texts: list[str]) -> torch.Tensor:
        return torch.full((len(texts), 3), 2.0)


def test_questions_are_read_whole_without_training_and_word_by_word_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "load_text_encoder", lambda name, device: FakeTower())
    encoder = TinyEncoder()
    assert compress_module._encode_question("q", "fake", encoder, True, "cpu").shape == (1, 4, 3)
    with pytest.raises(ValueError, match="expected frame features in a space shared with text"):
        compress_module._encode_question("q", "fake", encoder, False, "cpu")
    encoder.joint_space = True
    assert torch.equal(compress_module._encode_question("q", "fake", encoder, False, "cpu"), torch.full((1, 1, 3), 2.0))


def test_overlays_know_what_the_encoder_saw() -> None:
    assert seen_share(FrameSize(224, 224, fit="stretch"), 272, 640) == (0, 0, 1, 1)
    left, top, width, height = seen_share(FrameSize(224, 224), 112, 224)
    assert (left, top, width, height) == (0.25, 0.0, 0.5, 1.0)


def test_replacing_files_is_all_or_nothing(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_together({first: lambda path: path.write_text("new"), second: fail})
    assert first.read_text() == "old"
    assert list(tmp_path.iterdir()) == [first]
    replace_together({first: lambda path: path.write_text("new")})
    assert first.read_text() == "new"


def test_folders_made_for_nothing_vanish(tmp_path: Path) -> None:
    with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with output_folder(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"expected an output folder that can be written, got .*file"),
        output_folder(tmp_path / "file"),
    ):
        pass
