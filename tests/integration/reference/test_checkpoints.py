import hashlib
import re
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dynfocus_reference.train import build, facts_of, train
from dynfocus_reference.trainable import count_parameters
from dynfocus_reference.training import room, trainer
from dynfocus_reference.training.checkpoint import (
    MARKER,
    WRITING,
    begin,
    checkpoints,
    drop_half_written,
    mark_complete,
    newest_complete,
    rotate,
)
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.room import SMALL_FILES, checkpoint_bytes, ensure_room, replace_folder, run_bytes

from .runs import finish, losses, mixture, start, write_run

pytest.importorskip("accelerate")
MOMENTS = ("weights", "optimizer", "marker", "rotation", "export")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums do not depend on how many threads share them out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """A run that nothing stopped: its file, its folder, its losses."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_run(folder, mixture(clips), max_steps=6, keep_checkpoints=1)
    return path, folder / "out", losses(train(load_config(path)))


@pytest.fixture(scope="module")
def torn(whole, tmp_path_factory):
    """The same run, killed in the middle of each kind of write."""
    folder = tmp_path_factory.mktemp("torn")
    finish(start(Path(__file__).with_name("torn_worker.py"), whole[0], folder))
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def digest(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def assert_went_on(whole, output, resumed):
    """The losses, the weights and the folders of a run that nothing stopped."""
    _, unbroken, expected = whole
    assert len(expected) == 6
    assert losses(resumed) == expected
    one, two = (load_file(folder / "trained.safetensors") for folder in (unbroken, output))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert files(output) == files(unbroken)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_a_write(whole, torn, moment):
    output = torn / moment
    newest = {"rotation": "checkpoint-4", "export": "checkpoint-6"}.get(moment, "checkpoint-2")
    assert [path.name for path in checkpoints(output, complete=True)] == [newest]
    left = {"rotation": "checkpoint-2", "export": None}.get(moment, "checkpoint-4")
    assert [path.name for path in checkpoints(output, complete=False)] == ([left] if left else [])
    assert not (output / "model").exists()
    resumed = train(load_config(whole[0], [f"output={output}"]))
    assert_went_on(whole, output, resumed)


def test_a_finished_run_does_no_further_step(whole, tmp_path):
    path, _, _ = whole
    changes = [f"output={tmp_path / 'out'}", "max_steps=3", "save_steps=1"]
    first, again = (train(load_config(path, changes)) for _ in range(2))
    assert again.state.global_step == first.state.global_step == 3
    assert losses(again) == losses(first)


@pytest.mark.parametrize("limit", [1_000_000, 5_000_000], ids=["in the weights", "in the optimizer"])
def test_the_disk_fills_up_in_the_middle_of_a_write(whole, tmp_path, monkeypatch, limit):
    """A limit on the size of files stands for the full disk: the kernel refuses the rest of a write."""
    output, limits, before = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE), {}

    def fill_up(folder):
        begin(folder)
        if folder.name == "checkpoint-4":
            before.update(digest(output / "checkpoint-2"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))

    config = load_config(whole[0], [f"output={output}"])
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "begin", fill_up)
        try:
            with pytest.raises(OSError, match=r"write .*checkpoint-4', got: .* beside it: \['checkpoint-2'\]"):
                train(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert before
    assert digest(output / "checkpoint-2") == before
    assert (output / "checkpoint-4" / "optimizer.pt").exists() == (limit > 4_000_000)
    assert_went_on(whole, output, train(config))


def test_what_is_half_written_is_out_of_the_way_before_a_run_goes_on(whole, tmp_path):
    config = load_config(whole[0], [f"output={tmp_path / 'out'}", "max_steps=2"])
    first = train(config)
    before = files(tmp_path / "out")
    begin(tmp_path / "out" / "checkpoint-5")
    (tmp_path / "out" / "checkpoint-5" / "trained.safetensors").write_bytes(b"half")
    assert losses(train(config)) == losses(first)
    assert files(tmp_path / "out") == before


def test_settings_that_changed_since_the_checkpoint(whole, monkeypatch):
    path, output, _ = whole
    before = digest(output)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"settings '.*checkpoint-6' was written under, got world_size 1, now 2"):
        train(load_config(path))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"got seed 0, now 1, global_batch_size 4, now 8"):
        train(load_config(path, ["seed=1", "global_batch_size=8"]))
    assert digest(output) == before


def with_free(monkeypatch, free):
    """A disk with `free()` bytes left."""
    disk = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=free()), rmtree=shutil.rmtree)
    monkeypatch.setattr(room, "shutil", disk)


def test_a_run_knows_before_it_begins_what_it_will_write(whole, tmp_path, monkeypatch):
    path, output, _ = whole
    model, _ = build(load_config(path))
    needed = 2 * checkpoint_bytes(model) + 4 * count_parameters(model)
    assert run_bytes(model, tmp_path, 1, exports=True) == needed
    with_free(monkeypatch, lambda: needed - 1)
    config = load_config(path, [f"output={tmp_path / 'out'}"])
    told = rf"{needed / 1e9:.3f} GB of room for a run with keep_checkpoints=1 .* got {(needed - 1) / 1e9:.3f} GB"
    with pytest.raises(OSError, match=told):
        train(config)
    assert files(tmp_path / "out") == []
    with_free(monkeypatch, lambda: needed)
    assert train(config).state.global_step == 6
    assert run_bytes(model, output, 1, exports=False) == checkpoint_bytes(model)


def test_no_room_for_the_next_checkpoint(whole, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with_free(monkeypatch, lambda: 0 if (output / "checkpoint-2" / MARKER).exists() else 10**12)
    with pytest.raises(OSError, match=r"expected 0.028 GB of room for checkpoint-4 .* got 0.000 GB"):
        train(load_config(whole[0], [f"output={output}"]))
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    assert_went_on(whole, output, train(load_config(whole[0], [f"output={output}"])))


def test_checkpoints_are_as_large_as_was_said(whole):
    path, output, _ = whole
    said = checkpoint_bytes(build(load_config(path))[0])
    written = sum(file.stat().st_size for file in (output / "checkpoint-6").iterdir())
    assert 0.5 * (said - SMALL_FILES) < written < said - SMALL_FILES + 300_000


def test_no_room(tmp_path):
    with pytest.raises(OSError, match=r"expected 1000000000.000 GB of room for a checkpoint in .* Nothing was"):
        ensure_room(tmp_path, 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="expected a folder that can be written"):
        ensure_room(tmp_path / "file" / "inside", 0)


def test_complete_checkpoints(tmp_path):
    for step in (2, 10, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert newest_complete(tmp_path, {}) is None
    for step in (2, 10):
        mark_complete(tmp_path / f"checkpoint-{step}", {"world_size": 2, "zero": 1})
    assert newest_complete(tmp_path, {"world_size": 2}).name == "checkpoint-10"
    with pytest.raises(ValueError, match="got world_size 2, now 4"):
        newest_complete(tmp_path, {"world_size": 4, "zero": 1})
    rotate(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path, complete=True)] == ["checkpoint-10"]
    assert [path.name for path in checkpoints(tmp_path, complete=False)] == ["checkpoint-30"]
    assert not (tmp_path / "checkpoint-30" / MARKER).exists()


def test_an_older_checkpoint_says_what_it_does_not_know(tmp_path, caplog):
    (tmp_path / "checkpoint-2").mkdir()
    mark_complete(tmp_path / "checkpoint-2", {"zero": 1})
    assert newest_complete(tmp_path, {"zero": 1, "seed": 0, "epochs": 1.0}).name == "checkpoint-2"
    assert "checkpoint-2 does not say, and nobody compares: epochs, seed" in caplog.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("batch_size_per_gpu=1", "batch_size_per_gpu 2, now 1"),
        ("learning_rate=0.5", "learning_rate 0.001, now 0.5"),
        ("max_steps=5", "max_steps 4, now 5"),
        ("epochs=2", "epochs 1.0, now 2"),
        ("data.template=plain", "data.template 'vicuna_v1', now 'plain'"),
        ("sources=[{path: set.json, weight: 2}]", "sources [['set.json', 1.0]], now [['set.json', 2"),
    ],
)
def test_a_run_that_goes_on_keeps_its_settings(mixed, change, told):
    config = load_config(mixed)
    folder = Path(config.output, "checkpoint-2")
    begin(folder)
    mark_complete(folder, facts_of(config, 1))
    assert newest_complete(config.output, facts_of(load_config(mixed, ["workers=3"]), 1)) == folder
    with pytest.raises(ValueError, match=f"got {re.escape(told)}"):
        train(load_config(mixed, [change]))


def test_what_a_run_did_not_finish_is_deleted_and_nothing_else(tmp_path):
    begin(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "mine").write_text("")
    begin(tmp_path / "checkpoint-4")
    mark_complete(tmp_path / "checkpoint-4", {})
    assert not (tmp_path / "checkpoint-4" / WRITING).exists()
    assert drop_half_written(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    (aside,) = tmp_path.glob("not-mine-checkpoint-3-*")
    assert files(aside) == ["mine"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    def write(text):
        def inside(folder):
            folder.mkdir()
            (folder / "file").write_text(text)
            if text == "half":
                raise OSError("full")

        return inside

    replace_folder(tmp_path / "model", write("one"))
    with pytest.raises(OSError, match="full"):
        replace_folder(tmp_path / "model", write("half"))
    assert (tmp_path / "model" / "file").read_text() == "one"
    replace_folder(tmp_path / "model", write("two"))
    assert (tmp_path / "model" / "file").read_text() == "two"
    assert files(tmp_path) == ["model", "model/file"]
