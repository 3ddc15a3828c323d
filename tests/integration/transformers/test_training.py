"""Losses, gradients, Trainer, PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dynfocus_transformers import attach, compress_batch, set_trainable
from dynfocus_transformers.adapters import adapter_for
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.tiny import HOSTS, Picture, Tiny, Video, installed, text

SHIFTS = ("encoder.rods.key.bias", "estimator.score.regress.4.bias")
"""what a softmax and a min-max normalisation cancel: their gradient is zero in exact arithmetic"""
EXTRAS = ["past_key_values", "rope_deltas"]
"""what older hosts, attached or not, let Trainer take for predictions: InternVL before 5.20, Qwen before 5.23"""
ROW = [text(1, 3), Video(6, 1), text(2, 6), text(7, 4)]
OTHER = [text(3, 5), Video(6, 2), text(4, 3), text(8, 2)]


def checkpointed(model: Any) -> None:
    """Gradient checkpointing, by the name of the transformers at hand."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert len(layers) > 1


@pytest.mark.proves("loss with labels")
@torch.no_grad()
def test_loss(tiny: Tiny, host: Any) -> None:
    attach(host, training_free(), ratio=0.4)
    batch = tiny.batch(ROW, OTHER, labels=True)
    after = torch.zeros_like(batch["labels"], dtype=torch.bool)
    after[:, 1:] = batch["input_ids"][:, :-1] == tiny.placeholder
    after &= batch["input_ids"] != tiny.placeholder
    batch["labels"] = torch.where(after, batch["input_ids"], batch["labels"])
    out = host(**batch)
    assert out.logits.shape[:2] == batch["labels"].shape
    shifted = out.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(*shifted))
    short = host(**batch, dynfocus={"expand_logits": False})
    assert short.logits.shape[1] < out.logits.shape[1]
    assert torch.equal(short.loss, out.loss)
    pair = host(**batch, return_dict=False)
    assert torch.equal(pair[1], out.logits)


@pytest.mark.proves("training-free stays deterministic in training")
@torch.no_grad()
def test_training_free_in_training(tiny: Tiny, host: Any) -> None:
    attach(host, training_free(), ratio=0.4)
    batch = tiny.batch(ROW, OTHER, labels=True)
    assert torch.equal(host.eval()(**batch).loss, host.train()(**batch).loss)


@pytest.mark.proves("gradient reaches every connector parameter")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_gradients(tiny: Tiny, host: Any, checkpointing: bool) -> None:
    attach(host, trained(), ratio=0.4).train()
    if checkpointing:
        checkpointed(host)
    host(**tiny.batch(ROW, OTHER, labels=True)).loss.backward()
    for name, parameter in host.dynfocus.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name not in SHIFTS:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.proves("gradient checkpointing changes no gradient")
def test_checkpointing(tiny: Tiny, host: Any) -> None:
    attach(host, trained(), ratio=0.4).train()
    batch = tiny.batch(ROW, OTHER, labels=True)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpointed(host)
        host.zero_grad()
        torch.manual_seed(3)
        host(**batch).loss.backward()
        found.append({name: p.grad.clone() for name, p in host.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], msg=name)


@pytest.mark.proves("steps without a video train every parameter (with zero)")
@pytest.mark.parametrize("picture", [[], [Picture(1)]], ids=["text only", "picture"])
def test_step_without_video(tiny: Tiny, host: Any, picture: list[Picture]) -> None:
    batch = tiny.batch([text(1, 8), *picture, text(2, 3)], labels=True)
    expected = host.train()(**batch).loss
    loss = attach(host, trained(), ratio=0.4)(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for name, parameter in host.dynfocus.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() == 0, name


class Rows(torch.utils.data.Dataset):
    """Four prompts, ready-made."""

    def __init__(self, tiny: Tiny) -> None:
        self.rows = [[text(i, 3), Video(6, i), text(20 + i, 4), text(30 + i, 3)] for i in range(4)]
        self.tiny = tiny

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row": self.rows[index]}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return self.tiny.batch(*[item["row"] for item in items], left=False, labels=True)


def trainer(tiny: Tiny, model: Any, folder: Path, *, steps: int = 2, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    rows = Rows(tiny)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=1e-2,
        dataloader_pin_memory=False,
        save_steps=2,
    )
    return Trainer(model, arguments, rows.collate, train_dataset=rows, eval_dataset=rows, **options)


@pytest.mark.proves("Trainer: train, save, resume, evaluate with compute_metrics")
def test_trainer(tiny: Tiny, host: Any, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def metrics(prediction: Any) -> dict[str, float]:
        logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
        seen["shapes"] = logits.shape[:2], labels.shape
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"own_loss": float(loss)}

    attach(host, trained(), ratio=0.4)
    before = {name: p.clone() for name, p in host.dynfocus.named_parameters()}
    set_trainable(host)
    run = trainer(tiny, host, tmp_path, steps=4, compute_metrics=metrics)
    run.train()
    moved = [name for name, p in host.dynfocus.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) >= len(before) - len(SHIFTS)
    result = run.evaluate(ignore_keys=None if installed("5.23") else EXTRAS)
    assert seen["shapes"][0] == seen["shapes"][1]
    assert result["eval_own_loss"] == pytest.approx(result["eval_loss"], rel=1e-5)
    fresh = attach(tiny.model(), trained(), ratio=0.4)
    with torch.no_grad():
        for parameter in fresh.dynfocus.parameters():
            parameter.zero_()
    set_trainable(fresh)
    trainer(tiny, fresh, tmp_path / "resumed", steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, host.get_parameter(name)), name


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl"])
def test_resume_where_the_host_trains(name: str, tmp_path: Path) -> None:
    """As the guide says it: Trainer alone does not restore what transformers saves under other names."""
    tiny = HOSTS[name]
    host = attach(tiny.model(), trained(), ratio=0.4)
    trainer(tiny, host, tmp_path, steps=4).train()
    folder = tmp_path / "checkpoint-2"
    fresh = attach(type(tiny.model()).from_pretrained(folder), folder, ratio=0.4)
    trainer(tiny, fresh, tmp_path / "resumed", steps=4).train(resume_from_checkpoint=str(folder))
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, host.get_parameter(name)), name


@pytest.mark.proves("PEFT LoRA, the connector saved with it")
def test_peft(tiny: Tiny, host: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    plain = host.state_dict()
    attach(host, trained(), ratio=0.4)
    config = peft.LoraConfig(r=2, target_modules=r".*(language_model|text_model).*q_proj", modules_to_save=["dynfocus"])
    wrapped = peft.get_peft_model(host, config).train()
    batch = tiny.batch(ROW, OTHER, labels=True)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(**batch).loss.backward()
        optimizer.step()
    trainable = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert any("lora" in name for name in trainable)
    assert any("dynfocus" in name for name in trainable)
    wrapped.eval().save_pretrained(tmp_path, save_embedding_layers=False)
    with torch.no_grad():
        expected = wrapped(**batch).logits
        fresh = tiny.build()
        fresh.load_state_dict(plain)
        loaded = peft.PeftModel.from_pretrained(attach(fresh.eval(), trained(), ratio=0.4), tmp_path).eval()
        torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-6, rtol=0)
        out = loaded.generate(**tiny.batch(ROW), max_new_tokens=2, do_sample=False)
    assert out.shape[0] == 1
    found, state = loaded.state_dict(), wrapped.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@torch.no_grad()
def test_compress_batch_is_what_forward_sees(tiny: Tiny, host: Any) -> None:
    batch = tiny.batch(ROW, OTHER)
    known = {key: value.clone() for key, value in batch.items()}
    short = compress_batch(adapter_for(host), training_free(), batch)
    for key, value in known.items():
        assert torch.equal(batch[key], value), key
    if "inputs_embeds" in short:
        del short["input_ids"]
    assert torch.equal(host(**short).logits, attach(host, training_free())(**batch).logits)
