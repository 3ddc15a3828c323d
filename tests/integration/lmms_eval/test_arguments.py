"""What --model_args may say, and which weights a cache is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("av")

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.engine import host_of, load_engine, model_folder
from dynfocus_lmms_eval.fingerprint import check_weights, fingerprint
from dynfocus_video.sampling import Sampling


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"expected pretrained and any of host, connector, max_tokens, .*weights, got no pretrained"),
        ({"pretrained": "x", "max_frames": 8, "temp": 1}, r"expected pretrained and any of .*, got max_frames, temp"),
        ({"pretrained": "x", "dtype": "int8"}, r"expected dtype among float32, bfloat16, float16, got 'int8'"),
        ({"pretrained": "x", "frames": 0}, r"expected frames to be a whole number >= 1, got 0"),
        ({"pretrained": "x", "max_tokens": 1.5}, r"expected max_tokens to be a whole number >= 1, got 1.5"),
        ({"pretrained": "x", "fps": -1}, r"Sampling: expected fps > 0, got -1"),
        ({"pretrained": "x", "decode_errors": "skip"}, r"decode_errors among stop, unanswered, got 'skip'"),
        ({"pretrained": "x", "host": "vllm"}, r"host 'reference', 'transformers' or 'module:callable', got 'vllm'"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        ModelArguments.parse(**given)


def test_frames_are_sampled_by_the_papers_rule():
    assert ModelArguments.parse(pretrained="x").sampling() == Sampling(fps=1.0, rule="index")
    assert ModelArguments.parse(pretrained="x", frames=200).sampling() == Sampling(frames=200, rule="index")
    assert ModelArguments.parse(pretrained="x", frames=200, fps=2).sampling() == Sampling(fps=2.0, rule="index")


def test_the_folder_says_who_loads_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dynfocus_reference"}))
    assert host_of(ModelArguments.parse(pretrained=str(tmp_path))) == "reference"
    assert host_of(ModelArguments.parse(pretrained="Qwen/Qwen2.5-VL-7B-Instruct")) == "transformers"
    assert host_of(ModelArguments.parse(pretrained="x", host="my.code:load")) == "my.code:load"
    assert Path(model_folder("planted")).name == "checkpoint"


def test_a_host_that_cannot_be_imported_says_so():
    with pytest.raises(ValueError, match=r"expected a 'module:callable' that can be imported, got 'no.such:load'"):
        load_engine(ModelArguments.parse(pretrained="x", host="no.such:load"), "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_the_fingerprint_follows_the_weights(folder, tmp_path_factory):
    arguments = ModelArguments.parse(pretrained=str(folder))
    first = fingerprint(arguments)
    assert first == fingerprint(arguments)
    assert (first[0], len(first)) == ("w", 12)
    (folder / "notes.txt").write_text("not a weight")
    assert fingerprint(arguments) == first
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert fingerprint(arguments) != first
    connector = tmp_path_factory.mktemp("connector")
    (connector / "model.safetensors").write_bytes(b"connector")
    with_connector = ModelArguments.parse(pretrained=str(folder), connector=str(connector))
    assert fingerprint(with_connector) != fingerprint(arguments)


def test_the_hubs_cache_names_files_by_their_content(folder, tmp_path_factory):
    import hashlib

    linked, content = tmp_path_factory.mktemp("linked"), (folder / "model.safetensors").read_bytes()
    blob = linked / hashlib.sha256(content).hexdigest()
    blob.write_bytes(b"never read")
    (linked / "snapshot").mkdir()
    (linked / "snapshot" / "model.safetensors").symlink_to(blob)
    (linked / "snapshot" / "config.json").write_text("{}")
    assert fingerprint(ModelArguments.parse(pretrained=str(linked / "snapshot"))) == fingerprint(
        ModelArguments.parse(pretrained=str(folder))
    )


def test_a_cache_must_know_the_weights(folder):
    arguments = ModelArguments.parse(pretrained=str(folder))
    known = fingerprint(arguments)
    check_weights(arguments, cached=False)
    with pytest.raises(ValueError, match=rf"expected weights={known}, .*got none.* add weights={known}"):
        check_weights(arguments, cached=True)
    check_weights(ModelArguments.parse(pretrained=str(folder), weights=known), cached=True)
    with pytest.raises(ValueError, match=rf"expected weights={known}, .*got w00"):
        check_weights(ModelArguments.parse(pretrained=str(folder), weights="w00"), cached=False)


def test_weights_that_are_not_here_are_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"hub repository in the cache of this machine, got 'nobody/nothing'"):
        fingerprint(ModelArguments.parse(pretrained="nobody/nothing"))
