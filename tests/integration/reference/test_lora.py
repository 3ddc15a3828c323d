import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from dynfocus_reference import ReferenceModel, preset
from dynfocus_reference.lora import ADAPTER, LoraOptions, add_adapters, merge
from dynfocus_reference.model_info import model_info
from dynfocus_reference.train import build, train
from dynfocus_reference.trainable import patterns_of
from dynfocus_reference.training.config import load_config

from .conftest import run_verb, video_batch
from .runs import losses, mixture, write_run, zero_runs

pytest.importorskip("accelerate")
SMALL = {"train": ["dynamic", "projector", "lora"], "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


def same_start(dtype=torch.float32):
    torch.manual_seed(0)
    return ReferenceModel(preset("tiny")).eval().to(dtype)


def stir(model):
    """Adapters that do something."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ADAPTER in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture(scope="module")
def adapted(clips, tmp_path_factory):
    """A run with adapters: its file, its folder, its trainer."""
    folder = tmp_path_factory.mktemp("lora")
    path = write_run(folder, mixture(clips), **SMALL)
    return path, folder / "out", train(load_config(path))


def test_without_the_switch_nothing_changes(mixed):
    model, _ = build(load_config(mixed))
    plain = ReferenceModel(preset("tiny"))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not any(ADAPTER in name for name in model.state_dict())
    trainer = train(load_config(mixed, ["max_steps=1"]))
    assert not list(Path(trainer.args.output_dir).rglob("adapter*"))


def test_new_adapters_change_no_logit_and_follow_their_seed():
    model, batch = same_start(), video_batch([3, 5])
    expected = model(**batch).logits
    with_random_state = torch.get_rng_state()
    add_adapters(model.language_model, LoraOptions(rank=4), seed=7)
    assert torch.equal(torch.get_rng_state(), with_random_state)
    assert torch.equal(model.eval()(**batch).logits, expected)
    drawn = {name: value for name, value in model.named_parameters() if ADAPTER in name}
    assert len(drawn) == 4 * 7 * 2
    for seed, same in ((7, True), (8, False)):
        other = same_start()
        add_adapters(other.language_model, LoraOptions(rank=4), seed=seed)
        again = dict(other.named_parameters())
        assert all(torch.equal(value, again[name]) for name, value in drawn.items()) == same


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_merged_weights_give_the_same_logits(targets):
    model, options = same_start(torch.float64), LoraOptions(rank=4, alpha=6, targets=targets)
    batch = {name: value.double() if name == "frames" else value for name, value in video_batch([3, 5]).items()}
    plain = model(**batch).logits
    add_adapters(model.language_model, options)
    stir(model)
    expected = model.eval()(**batch).logits
    assert (expected - plain).abs().max() > 0.1
    merged = same_start(torch.float64)
    merged.load_state_dict(merge(model.state_dict(), options))
    torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-9, atol=1e-9)


def test_a_checkpoint_holds_the_connector_and_the_adapters(adapted):
    _, output, trainer = adapted
    state = load_file(output / "checkpoint-4" / "trained.safetensors")
    model = trainer.model
    assert sorted(state) == sorted(
        name for name, _ in model.named_parameters() if name.startswith("connector.") or ADAPTER in name
    )
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(state)
    torch.manual_seed(0)
    start, _ = build(load_config(adapted[0]))
    now = dict(model.named_parameters())
    for name, value in start.named_parameters():
        moved = not torch.equal(value, now[name])
        assert not moved or name in state, name
    changed = [name for name, value in start.named_parameters() if not torch.equal(value, now[name])]
    assert sum("lora_B" in name for name in changed) == 4 * 7


def test_the_exported_model_is_merged(adapted):
    _, output, trainer = adapted
    exported, batch = ReferenceModel.from_pretrained(output / "model").eval(), video_batch([3, 5])
    assert [name for name, _ in exported.named_parameters()] == [name for name, _ in same_start().named_parameters()]
    expected = trainer.model.eval()(**batch).logits
    torch.testing.assert_close(exported(**batch).logits, expected, rtol=1e-4, atol=1e-5)


def test_peft_reads_the_adapters(adapted):
    path, output, trainer = adapted
    base, _ = build(load_config(path, ["train=[projector]", "lora=null"]))
    names = {name.replace(".base_layer.", "."): value for name, value in trainer.model.named_parameters()}
    for name, value in base.named_parameters():
        value.data.copy_(names[name])
    assert json.loads((output / "adapter" / "adapter_config.json").read_text())["r"] == 4
    for folder in (output / "adapter", output / "checkpoint-2" / "adapter"):
        assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    language_model = PeftModel.from_pretrained(base.language_model, str(output / "adapter")).eval()
    ids = torch.tensor([[1, 5, 6, 9]])
    expected = trainer.model.language_model.eval()(input_ids=ids).logits
    torch.testing.assert_close(language_model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    loaded = load_file(output / "adapter" / "adapter_model.safetensors")
    assert set(language_model.state_dict()) >= {name.replace(".weight", ".default.weight") for name in loaded}


def test_a_stopped_run_goes_on(adapted, tmp_path):
    path, _, whole = adapted
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynfocus_reference.training.trainer.mark_complete", stop_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(load_config(path, [f"output={output}"]))
    assert (output / "checkpoint-2" / "COMPLETE").exists()
    resumed = train(load_config(path, [f"output={output}"]))
    assert losses(resumed) == losses(whole)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (output, path.parent / "out"))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"got lora .LoraOptions\(rank=4, .* now .LoraOptions\(rank=8"):
        train(load_config(path, [f"output={output}", "lora.rank=8"]))


def stop_at(step):
    from dynfocus_reference.training.checkpoint import mark_complete

    def mark(folder, facts):
        if facts["step"] == step:
            raise KeyboardInterrupt
        mark_complete(folder, facts)

    return mark


def test_trainable_parameters_are_counted(capsys):
    layer = 4 * (4096 + 4096) * 128 + 3 * (4096 + 11008) * 128
    adapters = 32 * layer
    assert adapters == 319_815_680
    stage = model_info(preset("paper-7b"))["stages"]["stage2-lora"]
    assert stage["trainable"] == adapters + 44_287_745
    per_gpu = [round(size / 1e9, 1) for size in stage["bytes_per_gpu"]]
    assert per_gpu == [21.6, 17.8, 17.2, 2.7]
    assert run_verb("train", "stage2-lora", "model=paper-7b", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"{adapters + 44_287_745:,}" in printed
    assert f"{7_954_285_441 + adapters:,}" in printed


def test_the_named_run_has_the_default_adapters():
    config = load_config("stage2-lora")
    assert config.lora == LoraOptions()
    assert config.train == ("dynamic", "projector", "lora")
    assert load_config("stage2-lora", ["lora.rank=8"]).lora == LoraOptions(rank=8)
    assert load_config("stage2").lora is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["lora=null"], r"got lora None and train \['dynamic', 'projector', 'lora'\]"),
        (["train=[projector]"], r"got lora LoraOptions\(.* and train \['projector'\]"),
        (["train=[lora, language_model]"], r"'language_model' without both, .* train \['lora', 'language_model'\]"),
        (["lora.rnk=4"], r"LoraOptions in 'stage2-lora': expected keys among .* got \['rnk'\]"),
        (["lora.rank=0"], "rank >= 1, alpha > 0 and 0 <= dropout < 1, got 0, 256.0 and 0.05"),
        (["lora.alpha=0"], "got 128, 0.0 and 0.05"),
        (["lora.dropout=1"], "got 128, 256.0 and 1.0"),
        (["lora.rank=many"], "expected rank to be int, got 'many'"),
        (["lora=4", "lora.rank=2"], "expected 'lora' to hold keys of its own, got 4"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        load_config("stage2-lora", changes)


@pytest.mark.parametrize(
    ("targets", "told"), [(["q_prj", "v_proj"], r"\['q_prj'\]"), ("linear", "'linear'"), (["norm"], r"\['norm'\]")]
)
def test_targets_that_are_no_linear_layers(targets, told):
    with pytest.raises(ValueError, match=rf"'all-linear' or a list among \['down_proj', .*'v_proj'\], got {told}"):
        add_adapters(same_start().language_model, LoraOptions(targets=targets))


@pytest.mark.slow
def test_two_processes_train_adapters(clips, tmp_path):
    pytest.importorskip("deepspeed")
    path = write_run(tmp_path, mixture(clips), **SMALL)
    two, three = zero_runs(tmp_path, f"zero2:2:{path}", f"zero3:3:{path}").values()
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in three], abs=2e-3)
    start, options = build(load_config(path))[0], load_config(path).lora
    start.set_trainable(patterns_of(["projector"]))
    for stage in (2, 3):
        output = tmp_path / f"zero{stage}"
        state = {**start.state_dict(), **load_file(output / "trained.safetensors")}
        assert sum(ADAPTER in name and "lora_B" in name and bool(state[name].any()) for name in state) == 4 * 7
        exported = dict(ReferenceModel.from_pretrained(output / "model").named_parameters())
        expected = {name: value for name, value in merge(state, options).items() if name in exported}
        assert len(expected) == len(exported)
        torch.testing.assert_close(dict(exported), expected, rtol=1e-6, atol=1e-7)
