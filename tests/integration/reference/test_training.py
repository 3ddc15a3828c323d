import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.train import build, train
from dynfocus_reference.training.carry import carry_over
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.trainer import TooManyBadSamplesError

from .conftest import run_verb, talk
from .runs import mixture, shown, write_run
from .test_lora import stop_at

pytest.importorskip("accelerate")


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
    projector, rods, score = (
        f"connector.{part}.*" for part in ("encoder.projector", "encoder.rods", "estimator.score")
    )
    sentences = {
        "projector": f"{first}/trained.safetensors: {projector} (6); drawn with seed 9: {score} (10), {rods} (4)",
        "all": f"{first}/trained.safetensors: {projector} (6), {rods} (4), {score} (10); drawn with seed 9: nothing",
    }
    for carry, same in (("projector", {"connector.encoder.projector."}), ("all", {"connector."})):
        torch.manual_seed(5)
        model = ReferenceModel(preset("tiny"))
        told = carry_over(model, first, carry, seed=9)
        now = dict(model.named_parameters())
        kept = [name for name in state if name.startswith(tuple(same))]
        assert all(torch.equal(now[name], state[name]) for name in kept)
        assert sentences[carry] in told
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


def test_the_two_stages_of_the_paper_one_after_the_other(clips, tmp_path, caplog):
    """The named runs by the command; only sizes, sets and length are other ones."""
    (tmp_path / "set.json").write_text(json.dumps(mixture(clips)))
    small = ["model=tiny", "zero=0", "bf16=false", "sources=[{path: set.json}]", f"data_root={tmp_path}", "workers=0"]
    small += ["global_batch_size=4", "batch_size_per_gpu=2", "max_steps=2", "report_to=[]"]
    one, two = tmp_path / "stage1", tmp_path / "stage2"
    assert run_verb("train", "stage1", *small, f"output={one}") == 0
    trained = load_file(one / "trained.safetensors")
    changes = [*small, f"output={two}", f"init_from_stage1={one}", "seed=1"]
    begun = dict(build(load_config("stage2", changes))[0].named_parameters())
    same = {name for name, value in trained.items() if torch.equal(value, begun[name])}
    assert same >= {name for name in trained if name.startswith("connector.encoder.projector.")}
    assert not any(name in same for name in trained if "rods" in name and name.endswith("weight"))
    assert run_verb("train", "stage2", *changes) == 0
    assert f"taken from {one}/trained.safetensors: connector.encoder.projector.* (6); drawn with seed 1" in caplog.text
    ended = dict(ReferenceModel.from_pretrained(two / "model").named_parameters())
    moved = {name.split(".")[0] for name, value in begun.items() if not torch.equal(value, ended[name])}
    assert moved == {"connector", "language_model"}


def test_bad_samples_stop_the_run_above_the_share(clips, tmp_path):
    records = [shown(clips, i) for i in range(4)] + [talk("<image>\nWhat?", "x", video="gone.mp4") for _ in range(4)]
    path = write_run(tmp_path, records, max_steps=2, save_steps=100)
    with pytest.raises(TooManyBadSamplesError, match=r"at most 0\.1 bad samples .*\n.*gone.mp4"):
        train(load_config(path))
    trainer = train(load_config(path, ["max_bad_share=0.6"]))
    assert len(trainer.bad) >= 1
    assert trainer.state.log_history[-2]["skipped_samples"] == len(trainer.bad)


def test_a_run_that_goes_on_remembers_its_bad_samples(clips, tmp_path, monkeypatch):
    records = [shown(clips, i) for i in range(4)] + [talk("<image>\nWhat?", "x", video="gone.mp4") for _ in range(4)]
    path = write_run(tmp_path, records, max_bad_share=0.9, save_steps=1)
    whole = train(load_config(path, [f"output={tmp_path / 'whole'}"]))
    with monkeypatch.context() as patch:
        patch.setattr("dynfocus_reference.training.trainer.mark_complete", stop_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(load_config(path))
    resumed = train(load_config(path))
    assert resumed.bad == whole.bad
    assert len(whole.bad) == 8
    lines = [[line["skipped_samples"] for line in run.state.log_history if "loss" in line] for run in (whole, resumed)]
    assert lines[0] == lines[1]
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    with pytest.raises(TooManyBadSamplesError, match=r"at most 6.4 bad samples .* got [78]"):
        train(load_config(path, ["max_bad_share=0.4"]))


def test_a_stage_that_trains_nothing_is_skipped(mixed):
    assert train(load_config(mixed, ["train=[]"])) is None
