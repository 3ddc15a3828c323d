"""The frozen tower's tokens of a whole set, written once; what lies there already is left alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.features import FeatureFolder, expect_different_names
from dynfocus_reference.data.fingerprint import fingerprint
from dynfocus_reference.data.records import BadSampleError
from dynfocus_reference.data.shard import Shard
from dynfocus_reference.processing import ReferenceProcessor, byte_tokenizer
from dynfocus_reference.tower import tower_of
from dynfocus_reference.training.settings import TrainConfig


@dataclasses.dataclass
class Report:
    """What was done."""

    written: int = 0
    frames: int = 0
    bytes: int = 0
    there: int = 0
    bad: list[str] = dataclasses.field(default_factory=list)

    def add(self, place: Path, frames: int) -> None:
        """Count a file that has been written."""
        self.written, self.frames, self.bytes = (
            self.written + 1,
            self.frames + frames,
            self.bytes + place.stat().st_size,
        )

    def __str__(self) -> str:
        done = f"{self.written:,} files written ({self.frames:,} frames, {self.bytes / 1e9:.3f} GB)"
        return "\n".join([f"{done}, {self.there:,} there before, {len(self.bad):,} bad", *self.bad])


class Pictures(Dataset):
    """Decoded frames of some samples, or what is wrong with them."""

    def __init__(self, data: ConversationDataset, samples: Sequence[int]) -> None:
        self.data, self.samples = data, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Tensor | str:
        index = self.samples[number]
        try:
            return self.data.pictures(index, self.data.record(index))
        except (OSError, ValueError) as error:
            return f"{self.data.name(index)}: {error}"


def extract(
    config: TrainConfig,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    shard: Shard | None = None,
    progress: bool = False,
) -> Report:
    """Write the tokens of every image and video of a run's sets that are not in `config.data.features` yet.

    Args:
        config: Of the run; model, seed, sources, data, workers and frames_per_chunk count.
        dtype: In which the tower computes and tokens are stored.
        device: Of the tower.
        shard: Which of the files.
        progress: Show a bar on stderr.

    Raises:
        ValueError: no folder is given, it holds features made otherwise, or a value does not fit `dtype`.
        OSError: the folder cannot be written.
    """
    if config.data.features is None:
        raise ValueError("extract-features: expected a folder, got data.features=None. Add --output DIR.")
    expect_different_names(source.root for source in config.sources)
    model = tower_of(config.model, config.seed)
    model.frames_per_chunk = config.frames_per_chunk
    processor = ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), model.config)
    data = ConversationDataset(config.sources, processor, dataclasses.replace(config.data, features=None))
    folder = FeatureFolder.create(config.data.features, fingerprint(model.vision, model.config, config.data), dtype)
    model.vision.to(device, dtype)
    report = Report()
    places = missing(data, folder, shard or Shard(), report)
    pictures = DataLoader(Pictures(data, list(places.values())), batch_size=None, num_workers=config.workers)
    for place, frames in zip(places, tqdm(pictures, desc="files", disable=not progress, file=sys.stderr), strict=True):
        if isinstance(frames, str):
            report.bad.append(frames)
        else:
            store(folder, place, model.see(frames.to(device)).cpu())
            report.add(place, len(frames))
    return report


def missing(data: ConversationDataset, folder: FeatureFolder, shard: Shard, report: Report) -> dict[Path, int]:
    """The places of this shard that hold no features yet, each with a sample that shows what belongs there."""
    places: dict[Path, int] = {}
    for index in range(len(data)):
        try:
            record = data.record(index)
        except BadSampleError as error:
            report.bad += [str(error)] * (shard.number == 0 and str(error) not in report.bad)
            continue
        if record.modality != "text":
            places.setdefault(folder.place(data.root(index), record), index)
    mine = sorted(places)[shard.number :: shard.shards]
    wanted = [place for place in mine if not folder.holds(place)]
    report.there = len(mine) - len(wanted)
    return {place: places[place] for place in wanted}


def store(folder: FeatureFolder, place: Path, tokens: Tensor) -> None:
    """Write what can be read again.

    Raises:
        ValueError: values that the dtype cannot hold.
        OSError: nothing can be written there.
    """
    lost = int((~tokens.isfinite()).sum())
    if lost:
        raise ValueError(
            f"extract-features: expected tokens that {tokens.dtype} can hold, got {lost} that are no numbers for "
            f"{str(place)!r}. Use --dtype bfloat16 or float32; if that is what it is, the weights are damaged."
        )
    try:
        folder.write(place, tokens)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"extract-features: expected to write {str(place)!r}, got: {error}. What is written stays; make room and "
            f"start the same command again."
        ) from error
