import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.chat import Conversation
from dynfocus_reference.train import train
from dynfocus_reference.training.checkpoint import (
    MARKER,
    carry_over,
    checkpoints,
    ensure_room,
    mark_complete,
    newest_complete,
    rotate,
)
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.trainer import TooManyBadSamplesError

from .conftest import talk, write_video

pytest.importorskip("accelerate")
REPOSITORY = Path(__file__).parents[3]
COLOURS = ("red", "blue", "green", "cyan", "pink", "grey", "gold", "teal")


def write_run(folder, records, **changes):
    """A run of the preset `tiny` as a file."""
    (folder / "set.json").write_text(json.dumps(records))
    values = {
        "model": "tiny",
        "output": str(folder / "out"),
        "train": ["dynamic", "projector", "language_model"],
        "sources": [{"path": "set.json"}],
        "data_root": str(folder),
        "learning_rate": 1e-3,
        "global_batch_size": 4,
        "batch_size_per_gpu": 2,
        "max_steps": 4,
        "zero": 0,
        "bf16": False,
        "save_steps": 2,
        "workers": 0,
        "report_to": [],
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_video(folder / f"{number}.mp4", seconds=2 + 3 * number, seed=number)
    return folder


def shown(clips, number, question="Which colour?"):
    return talk(f"<image>\n{question}", f"{COLOURS[number]} ball", video=str(clips / f"{number % 4}.mp4"))


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def launch(*arguments, processes=2):
    """Start torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(REPOSITORY), *(str(REPOSITORY / name) for name in ("integrations", "reference_model"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process):
    """kill -9 for the launcher and its workers, which have sessions of their own."""
    import psutil

    launcher = psutil.Process(process.pid)
    for one in [launcher, *launcher.children(recursive=True)]:
        one.kill()
    process.communicate()


def finish(process, seconds=240):
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.fixture
def mixed(clips, tmp_path):
    records = [shown(clips, i) for i in range(4)] + [talk(f"Say {i}", f"number {i}") for i in range(4)]
    return write_run(tmp_path, records)


def test_a_stopped_run_goes_on_with_the_same_losses(mixed, tmp_path):
    whole = train(load_config(mixed))
    assert len(losses(whole)) == 4
    other = load_config(mixed, [f"output={tmp_path / 'other'}"])

    class Stop(Exception):
        pass

    from dynfocus_reference.training import trainer as module

    def die(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.state.global_step == 3:
            raise Stop

    original = module.ReferenceTrainer.log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.ReferenceTrainer, "log", die)
        with pytest.raises(Stop):
            train(other)
    half = tmp_path / "other" / "checkpoint-3"
    half.mkdir()
    (half / "trained.safetensors").write_bytes(b"half")
    resumed = train(other)
    assert losses(resumed) == losses(whole)
    one, two = (load_file(Path(config.output) / "trained.safetensors") for config in (load_config(mixed), other))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not half.exists()


def test_the_exported_model_answers(mixed):
    trainer = train(load_config(mixed, ["max_steps=1"]))
    folder = Path(trainer.args.output_dir) / "model"
    model = ReferenceModel.from_pretrained(folder)
    for (name, one), two in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert ReferenceProcessor.from_pretrained(folder).tokenizer.eos_token == "</s>"


def test_a_checkpoint_holds_the_connector_and_nothing_frozen(mixed, clips, tmp_path):
    trainer = train(load_config(mixed, ["train=[projector]", "max_steps=2", "data.template=plain"]))
    state = load_file(Path(trainer.args.output_dir) / "checkpoint-2" / "trained.safetensors")
    assert sorted(state) == sorted(f"connector.{name}" for name in trainer.model.connector.state_dict())
    assert not (Path(trainer.args.output_dir) / "model").exists()
    start = dict(ReferenceModel(preset("tiny")).named_parameters())
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == {
        name for name in start if name.startswith("connector.encoder.projector.")
    }
    first = str(trainer.args.output_dir)
    for carry, same in (("projector", {"connector.encoder.projector."}), ("all", {"connector."})):
        torch.manual_seed(5)
        model = ReferenceModel(preset("tiny"))
        told = carry_over(model, first, carry, seed=9)
        now = dict(model.named_parameters())
        kept = [name for name in state if name.startswith(tuple(same))]
        assert all(torch.equal(now[name], state[name]) for name in kept)
        assert f"{len(kept)} tensors taken" in told
        drawn = [name for name in state if name not in kept and name.endswith("weight") and now[name].ndim > 1]
        assert not any(torch.equal(now[name], state[name]) for name in drawn)


def test_what_is_not_carried_is_drawn_from_the_seed_of_stage_2(tmp_path):
    first = ReferenceModel(preset("tiny"))
    state = {name: value.data for name, value in first.named_parameters() if name.startswith("connector.")}
    save_file(state, tmp_path / "trained.safetensors")
    models = []
    for seed in (9, 9, 10):
        models.append(ReferenceModel(preset("tiny")))
        carry_over(models[-1], tmp_path, "projector", seed)
    score = [model.connector.estimator.score.regress[0].weight for model in models]
    assert torch.equal(score[0], score[1])
    assert not torch.equal(score[0], score[2])


def test_carrying_over_what_does_not_fit(tmp_path):
    model = ReferenceModel(preset("tiny"))
    with pytest.raises(FileNotFoundError, match=r"expected trained\.safetensors"):
        carry_over(model, tmp_path, "projector", 0)
    save_file({"connector.encoder.projector.content.0.bias": torch.zeros(3)}, tmp_path / "trained.safetensors")
    with pytest.raises(ValueError, match=r"got 1 that do not fit: \['connector.encoder.projector.content.0.bias'\]"):
        carry_over(model, tmp_path, "projector", 0)


def test_bad_samples_stop_the_run_above_the_share(clips, tmp_path):
    records = [shown(clips, i) for i in range(4)] + [talk("<image>\nWhat?", "x", video="gone.mp4") for _ in range(4)]
    path = write_run(tmp_path, records, max_steps=2, save_steps=100)
    with pytest.raises(TooManyBadSamplesError, match=r"at most 0\.1 bad samples .*\n.*gone.mp4"):
        train(load_config(path))
    trainer = train(load_config(path, ["max_bad_share=0.6"]))
    assert len(trainer.bad) >= 1
    assert trainer.state.log_history[-2]["skipped_samples"] == len(trainer.bad)


def test_a_stage_that_trains_nothing_is_skipped(mixed):
    assert train(load_config(mixed, ["train=[]"])) is None


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


def test_no_room(tmp_path):
    with pytest.raises(OSError, match=r"expected 1000000000.0 GB of room .* Nothing was overwritten"):
        ensure_room(tmp_path, 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="expected a folder that can be written"):
        ensure_room(tmp_path / "file" / "inside", 0)


@pytest.mark.parametrize("stages", ["1,2,3"])
def test_zero_stages_agree_on_adversarial_mixtures(clips, tmp_path, stages):
    """At every step the two ranks see different things: text, an image-like clip, a long video, a bad sample."""
    pytest.importorskip("deepspeed")
    text = [talk(f"Say {i}", f"number {i}") for i in range(4)]
    gone = talk("<image>\nWhat?", "x", video="gone.mp4")
    records = [text[0], shown(clips, 3), shown(clips, 0), text[1], text[2], gone, shown(clips, 2), shown(clips, 0)]
    changes = {"global_batch_size": 2, "batch_size_per_gpu": 1, "frames_per_chunk": 3, "max_bad_share": 0.9}
    path = write_run(tmp_path, records, **changes)
    finish(launch(Path(__file__).with_name("zero_worker.py"), path, tmp_path, stages))
    found = json.loads((tmp_path / "losses.json").read_text())
    first, *others = found.values()
    assert len(first) == 4
    for other in others:
        assert other == pytest.approx(first, abs=2e-3)
    states = [load_file(tmp_path / f"zero{stage}" / "trained.safetensors") for stage in found]
    assert all(state.keys() == states[0].keys() for state in states)
    assert ReferenceModel.from_pretrained(tmp_path / "zero3" / "model")


def kill_and_resume(mixed, tmp_path, zero):
    arguments = ("-m", "dynfocus_reference.train", mixed, f"zero={zero}", "max_steps=6", "global_batch_size=4")
    finish(launch(*arguments, f"output={tmp_path / 'whole'}"))
    killed = launch(*arguments, f"output={tmp_path / 'killed'}")
    marker = tmp_path / "killed" / "checkpoint-2" / MARKER
    start = time.monotonic()
    while not marker.exists() and time.monotonic() - start < 120 and killed.poll() is None:
        time.sleep(0.02)
    kill(killed)
    assert marker.exists()
    assert not (tmp_path / "killed" / "trained.safetensors").exists()
    finish(launch(*arguments, f"output={tmp_path / 'killed'}"))
    states = [load_file(tmp_path / name / "trained.safetensors") for name in ("whole", "killed")]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_kill_and_resume(mixed, tmp_path, zero):
    pytest.importorskip("deepspeed")
    kill_and_resume(mixed, tmp_path, zero)


@pytest.mark.slow
def test_sixteen_videos_are_learnt_by_heart_and_answered(tmp_path):
    records = []
    for number, letter in enumerate("abcdefghijklmnop"):
        write_video(tmp_path / f"{number}.mp4", seconds=2, seed=number)
        records.append(talk("<image>\nWho?", f"{letter} team", video=f"{number}.mp4"))
    path = write_run(
        tmp_path,
        records,
        sources=[{"path": "set.json", "root": "."}],
        learning_rate=2e-3,
        global_batch_size=16,
        batch_size_per_gpu=16,
        data={"placeholder": "front"},
        max_steps=150,
        save_steps=1000,
        gradient_checkpointing=False,
        log_steps=5,
    )
    trainer = train(load_config(path))
    assert losses(trainer)[-1] < 0.01
    model = ReferenceModel.from_pretrained(tmp_path / "out" / "model").eval()
    processor = ReferenceProcessor.from_pretrained(tmp_path / "out" / "model")
    answers = []
    for number in range(16):
        clip = processor.read(tmp_path / f"{number}.mp4")
        answers.append(Conversation(model, processor, clip.frames).ask("Who?", max_new_tokens=12))
    assert answers == [f"{letter} team" for letter in "abcdefghijklmnop"]
