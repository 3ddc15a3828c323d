"""A `ReferenceModel` under the Trainer of transformers, without anything of ours around it."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from dynfocus_reference import ReferenceModel, preset

from .conftest import video_batch

pytest.importorskip("accelerate")
LENGTHS = (3, 12, 1, 20)


@pytest.fixture(scope="module")
def samples():
    """Clips of four lengths, each with its own answer."""
    torch.manual_seed(1)
    return [video_batch([length]) for length in LENGTHS]


def collate(samples):
    return {
        name: torch.cat([sample[name] for sample in samples])
        for name in ("input_ids", "labels", "frames", "clip_lengths", "question_ids", "question_mask")
    }


def trained(folder, samples, **changes):
    """A trainer after eight steps, and its losses."""
    torch.manual_seed(0)
    model = ReferenceModel(preset("tiny"))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        max_steps=8,
        learning_rate=2e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **changes,
    )
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=samples, eval_dataset=samples)
    trainer.train()
    return trainer, [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.fixture(scope="module")
def plain(samples, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), samples)


def test_it_trains_and_evaluates(plain, samples):
    trainer, losses = plain
    assert losses[-1] < 0.7 * losses[0]
    told = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == told
    with torch.no_grad():
        one_by_one = [float(trainer.model.eval()(**sample).loss) for sample in samples]
    assert told == pytest.approx(sum(one_by_one) / len(samples), rel=1e-5)


def test_gradient_checkpointing_changes_no_loss(plain, samples, tmp_path):
    trainer, losses = trained(tmp_path, samples, gradient_checkpointing=True)
    assert all(layer.gradient_checkpointing for layer in trainer.model.language_model.model.layers)
    assert losses == pytest.approx(plain[1], rel=1e-4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain[0].evaluate()["eval_loss"], rel=1e-4)
