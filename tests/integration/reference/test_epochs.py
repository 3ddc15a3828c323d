"""A sample stands in both places over the epochs, whoever loads it and wherever the run began."""

import pytest
from torch.utils.data import DataLoader

from dynfocus_reference import ReferenceProcessor, preset
from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.sampler import Draw, GroupedSampler
from dynfocus_reference.processing import byte_tokenizer
from dynfocus_reference.train import train
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.trainer import ReferenceTrainer

from .runs import mixture, write_run

pytest.importorskip("accelerate")
EPOCHS = 6


@pytest.fixture(scope="module")
def path(clips, tmp_path_factory):
    """A run of three epochs of four steps, checkpoints in the middle of the second and the third."""
    changes = {"global_batch_size": 2, "max_steps": 12, "save_steps": 6, "learning_rate": 1e-4}
    return write_run(tmp_path_factory.mktemp("epochs"), mixture(clips), **changes)


@pytest.fixture(scope="module")
def dataset(path):
    processor = ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), preset("tiny"))
    return ConversationDataset(load_config(path).sources, processor)


def places(dataset, epoch):
    return [dataset.places(index, dataset.record(index), epoch)[0] for index in range(4)]


def loaded(dataset, workers):
    """Every batch of some epochs."""
    sampler = GroupedSampler(*dataset.sketch(), 2)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        collate_fn=Collator(0, 0),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    batches = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        batches += [batch["input_ids"].tolist() for batch in loader]
    return batches


def test_epochs_differ_and_repeat_themselves(dataset):
    seen = [places(dataset, epoch) for epoch in range(EPOCHS)]
    assert [places(dataset, epoch) for epoch in range(EPOCHS)] == seen
    assert all({row[i] for row in seen} == {"front", "end"} for i in range(4))
    one, again, other = (dataset[Draw(0, epoch)]["input_ids"].tolist() for epoch in (0, 0, 1))
    assert one == again == dataset[0]["input_ids"].tolist()
    assert (one != other) == (seen[0][0] != seen[1][0])


def test_workers_change_nothing(dataset):
    expected = loaded(dataset, 0)
    assert loaded(dataset, 1) == expected
    assert loaded(dataset, 2) == expected


class Stop(Exception):
    pass


def seen_by(config, monkeypatch, stop=None):
    """The prompts of every forward of a run, until one is to come that is numbered `stop`."""
    batches, original = [], ReferenceTrainer._prepare_inputs

    def note(self, inputs):
        if len(batches) == stop:
            raise Stop
        batches.append(inputs["input_ids"].tolist())
        return original(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceTrainer, "_prepare_inputs", note)
        if stop is None:
            train(config)
        else:
            with pytest.raises(Stop):
                train(config)
    return batches


def test_a_run_that_goes_on_sees_what_it_would_have_seen(path, tmp_path, monkeypatch):
    whole = seen_by(load_config(path), monkeypatch)
    assert len(whole) == 12
    assert whole[:4] != whole[4:8]
    halves = load_config(path, [f"output={tmp_path / 'out'}", "workers=1"])
    assert seen_by(halves, monkeypatch, stop=7) == whole[:7]
    assert seen_by(halves, monkeypatch) == whole[6:]


def test_the_seed_of_a_run_is_that_of_its_placeholders(path):
    for changes, seed in (([], 0), (["seed=3"], 3), (["seed=3", "data.seed=4"], 4)):
        assert load_config(path, changes).data.seed == seed
