"""The recipe as it runs on several GPUs: torchrun, DeepSpeed, two processes."""

import json
import random
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dynfocus_reference import ReferenceModel, ReferenceProcessor
from dynfocus_reference.chat import Conversation
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.records import MODALITIES
from dynfocus_reference.data.sampler import GroupedSampler
from dynfocus_reference.train import build
from dynfocus_reference.training.checkpoint import MARKER, WRITING, checkpoints
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.room import SMALL_FILES, checkpoint_bytes

from .conftest import talk, write_video
from .runs import finish, kill, launch, mixture, shown, write_run, zero_runs
from .test_logs import ITEMS

pytest.importorskip("accelerate")
pytest.importorskip("deepspeed")
STAGES = (1, 2, 3)


def gone(kind, question="What?"):
    """A sample that cannot be used."""
    return talk(f"<image>\n{question}", "x", **{kind: "gone"})


@pytest.fixture(scope="module")
def adversarial(clips, tmp_path_factory):
    """A run whose steps show the first process something quite different from the second.

    What fills no batch of its modality comes last, mixed; questions of one word come before longer ones.
    """
    folder = tmp_path_factory.mktemp("adversarial")
    Image.new("RGB", (80, 40), "red").save(clips / "red.png")
    texts = [talk(f"Say {i}", f"number {i}") for i in range(2)]
    images = [gone("image"), talk("<image>\nWhich colour is this?", "red", image=str(clips / "red.png"))]
    videos = [gone("video"), gone("video"), shown(clips, 3)]
    changes = {"global_batch_size": 4, "frames_per_chunk": 3, "max_bad_share": 0.9}
    return write_run(folder, [*videos, *images, *texts], **changes)


def test_a_step_shows_one_process_text_or_nothing_and_the_other_pictures(adversarial):
    config = load_config(adversarial)
    data = ConversationDataset(config.sources, build(config)[1], config.data)
    drawn = [draw.sample for draw in GroupedSampler(*data.sketch(), config.global_batch_size)]
    seen = ["nothing" if "bad" in data[i] else data.record(i).modality for i in drawn]
    assert seen == ["text", "text", "nothing", "image", "nothing", "nothing", "video"]
    assert set(seen) - {"nothing"} == set(MODALITIES)


def test_zero_stages_agree_on_adversarial_mixtures(adversarial, tmp_path):
    found = zero_runs(tmp_path, *(f"zero{stage}:{stage}:{adversarial}" for stage in STAGES))
    first, *others = [[line["loss"] for line in lines] for lines in found.values()]
    assert len(first) == 4
    for other in others:
        assert other == pytest.approx(first, abs=2e-3)
    assert [[line["skipped_samples"] for line in lines] for lines in found.values()] == [[1, 3, 4, 6]] * 3
    assert all(line.keys() >= ITEMS for lines in found.values() for line in lines)
    states = [load_file(tmp_path / name / "trained.safetensors") for name in found]
    assert all(state.keys() == states[0].keys() for state in states)
    assert ReferenceModel.from_pretrained(tmp_path / "zero3" / "model")
    said = checkpoint_bytes(build(load_config(adversarial))[0])
    for name in found:
        folder = tmp_path / name / "checkpoint-4"
        written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert 0.5 * (said - SMALL_FILES) < written < said - SMALL_FILES + 300_000, name


def kill_at_random(process, folder):
    """kill -9 while a checkpoint is written, or in the steps after it. When that was."""
    name, file = random.choice(("checkpoint-2", "checkpoint-4")), random.choice((WRITING, MARKER))
    later, start = random.uniform(0, 0.4), time.monotonic()
    while not any((folder / name / seen).exists() for seen in (file, MARKER)):
        assert process.poll() is None
        assert time.monotonic() - start < 240
        time.sleep(0.005)
    time.sleep(later)
    assert process.poll() is None
    kill(process)
    assert not (folder / "model").exists()
    return f"killed {later:.3f} s after {file} of {name}"


def told(folder):
    """What a finished run has logged, speeds left out; the samples that each process skipped."""
    newest = checkpoints(folder, complete=True)[-1]
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    kept = ("step", "loss", "learning_rate", "grad_norm", "skipped_samples")
    return [{name: line[name] for name in kept} for line in history if "loss" in line], [
        json.loads((newest / f"skipped_{rank}.json").read_text()) for rank in range(2)
    ]


@pytest.mark.parametrize("zero", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_killed_run_goes_on_as_if_nothing_had_been(clips, tmp_path, zero):
    """Three steps are an epoch, two a checkpoint; the same command is given twice."""
    path = write_run(tmp_path, [*mixture(clips), gone("video")], max_steps=12, save_steps=2, max_bad_share=0.9)
    whole, killed = (("-m", "dynfocus_reference.train", path, f"zero={zero}", f"output={tmp_path / name}")
                     for name in ("whole", "killed"))  # fmt: skip
    finish(launch(*whole))
    moment = kill_at_random(launch(*killed), tmp_path / "killed")
    finish(launch(*killed))
    lines, skipped = told(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["skipped_samples"] == sum(map(len, skipped)) > 2
    assert told(tmp_path / "killed") == (lines, skipped), moment
    states = [load_file(tmp_path / name / "trained.safetensors") for name in ("whole", "killed")]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_sixteen_videos_are_learnt_by_heart_and_answered(tmp_path):
    letters, records = "abcdefghijklmnop", []
    for number, letter in enumerate(letters):
        write_video(tmp_path / f"{number}.mp4", seconds=2, seed=number)
        records.append(talk("<image>\nWho?", f"{letter} team", video=f"{number}.mp4"))
    path = write_run(
        tmp_path,
        records,
        sources=[{"path": "set.json", "root": "."}],
        learning_rate=2e-3,
        global_batch_size=16,
        batch_size_per_gpu=8,
        max_steps=150,
        save_steps=150,
        gradient_checkpointing=False,
    )
    finish(launch("-m", "dynfocus_reference.train", path, "zero=2"), seconds=600)
    assert told(tmp_path / "out")[0][-1]["loss"] < 0.01
    model = ReferenceModel.from_pretrained(tmp_path / "out" / "model").eval()
    processor = ReferenceProcessor.from_pretrained(tmp_path / "out" / "model")
    clips = [processor.read(tmp_path / f"{number}.mp4").frames for number in range(16)]
    assert [Conversation(model, processor, clip).ask("Who?", max_new_tokens=12) for clip in clips] == [
        f"{letter} team" for letter in letters
    ]
