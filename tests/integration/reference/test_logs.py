import importlib.util
import itertools
import sys
from types import SimpleNamespace

import pytest
import torch

from dynfocus_reference.train import train
from dynfocus_reference.training import meters
from dynfocus_reference.training.arguments import PACKAGES, training_arguments
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.meters import Meters

from .conftest import video_batch
from .runs import REPOSITORY

pytest.importorskip("accelerate")
tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
ITEMS = {
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "frames_per_second",
    "skipped_samples",
    "data_wait_share",
}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass by one with every look."""
    looks = itertools.count()
    monkeypatch.setattr(meters, "time", SimpleNamespace(monotonic=lambda: next(looks)))


@pytest.mark.parametrize("lengths", [[3, 5], [1], []])
def test_tokens_are_those_that_the_language_model_reads(model, lengths):
    text = {"input_ids": torch.tensor([[1, 5, 6, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
    batch = video_batch(lengths) if lengths else text
    batch = {"attention_mask": torch.ones_like(batch["input_ids"]), "clip_index": torch.arange(len(lengths)), **batch}
    read = []
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(int(kwargs["attention_mask"].sum())), with_kwargs=True
    )
    meter = Meters()
    meter.count(batch, model)
    model(**batch)
    assert [meter.tokens] == read
    assert meter.frames == sum(lengths)


def test_a_line_tells_the_whole_run(clock):
    meter = Meters()  # at 0
    with meter.waiting():  # from 1 to 2
        pass
    meter.tokens, meter.frames = 300, 12
    three_alike = meter.line(2, lambda values: 3 * values)  # at 3; the next line begins at 4
    assert three_alike == {
        "tokens_per_second": 300.0,
        "frames_per_second": 12.0,
        "data_wait_share": 0.333,
        "skipped_samples": 6,
    }
    assert meter.line(0, lambda values: values) == dict.fromkeys(three_alike, 0)


def test_every_line_has_every_item_and_tensorboard_shows_them(mixed, clock):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = train(load_config(mixed, ["report_to=[tensorboard]", "workers=1"]))
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 4
    assert all(line.keys() >= ITEMS for line in lines)
    assert [line["data_wait_share"] for line in lines] == [0.333] * 4  # one of the three looks that make a line
    assert all(line["tokens_per_second"] > 0 for line in lines)
    (folder,) = {path.parent for path in mixed.parent.rglob("events.out.tfevents.*")}
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) >= {f"train/{item}" for item in ITEMS}
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx([line["loss"] for line in lines])


def test_a_logger_that_is_not_installed_is_named_before_a_model_is_read(mixed, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    with pytest.raises(ImportError, match=r'report_to: \[wandb\], found none.* "dynfocus-connector\[wandb\]"'):
        train(load_config(mixed, ["model=/nowhere", "report_to=[tensorboard, wandb]"]))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in PACKAGES.values():
        assert any(requirement.startswith(f"{package}>=") for requirement in project[extra])


def test_tensorboard_by_default_and_others_by_name(mixed):
    assert load_config("stage1").report_to == load_config("stage2").report_to == ("tensorboard",)
    config = load_config(mixed, ["report_to=[tensorboard, wandb]"])
    assert training_arguments(config, 1).report_to == ["tensorboard", "wandb"]
    assert training_arguments(load_config(mixed), 1).report_to == []
