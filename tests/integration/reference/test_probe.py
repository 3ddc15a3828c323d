import pytest
import torch

from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.train import build
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.probe import probe

from .conftest import run_verb, talk
from .runs import COLOURS, mixture, shown, write_run


def one_by_one(config):
    """What each sample (row) adds to the mean loss per token when it is shown each of the four videos (column)."""
    model, processor = build(config)
    data = ConversationDataset(config.sources, processor, config.data)
    sums = torch.zeros(4, 4)
    with torch.no_grad():
        for asked in range(4):
            for seen in range(4):
                batch = Collator(0, 0)([{**data[asked], "frames": data[seen]["frames"]}])
                batch.pop("skipped")
                sums[asked, seen] = model.eval()(**batch).loss * (batch["labels"][:, 1:] != -100).sum()
    return sums / sum(len(f" {colour} ball") + 1 for colour in COLOURS[:4])


def test_every_sample_is_shown_its_own_video_and_its_neighbours(clips, tmp_path):
    config = load_config(write_run(tmp_path, mixture(clips), batch_size_per_gpu=2))
    gap = probe(config, samples=20)
    losses = one_by_one(config)
    assert gap.samples == 4
    assert gap.own == pytest.approx(float(losses.diagonal().sum()), rel=1e-4)
    swapped = losses + losses.T
    pairings = [float(swapped[0, a] + swapped[b, c]) for a, b, c in ((1, 2, 3), (2, 1, 3), (3, 1, 2))]
    assert min(abs(gap.other - one) for one in pairings) < 1e-4 * gap.other
    assert abs(gap.other - gap.own) > 1e-5


def test_the_same_video_for_everybody_is_worth_nothing(clips, tmp_path, capsys):
    path = write_run(tmp_path, [{**shown(clips, 1), "id": str(i)} for i in range(5)])
    assert run_verb("probe", str(path), "--samples", "3", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 samples: loss ")
    assert printed.endswith("the video is worth 0.000 nats per token\n")


def test_text_alone_cannot_be_probed(tmp_path):
    path = write_run(tmp_path, [talk("Hi", "Ho"), talk("<image>\nWhat?", "x", video="gone.mp4")])
    with pytest.raises(ValueError, match="at least 2 samples with one image or video each, got 0"):
        probe(load_config(path))
