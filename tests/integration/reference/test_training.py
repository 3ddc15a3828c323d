import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.train import train
from dynfocus_reference.training.carry import carry_over
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.trainer import TooManyBadSamplesError

from .conftest import talk
from .runs import shown, write_run
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
