"""Samples of one or several sets: decoded when asked for, skipped and named when they cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from dynfocus_reference.data.conversation import Place, encode
from dynfocus_reference.data.features import FeatureFolder, expect_different_names
from dynfocus_reference.data.options import DataOptions, Source
from dynfocus_reference.data.records import (
    MODALITIES,
    BadSampleError,
    JsonLines,
    Record,
    modality_of,
    parse_record,
    seconds_of,
)
from dynfocus_reference.data.sampler import Draw
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.sampling import Sampling


class ConversationDataset(Dataset):
    """A weighted mixture of sets.

    An item is a dictionary with `input_ids`, `labels`, `questions` (ids for the Q-Former, one per placeholder) and
    `frames` (bytes, the tower's tokens, or None for text alone) — or with the one key `bad`: what is wrong with the
    sample.
    """

    def __init__(
        self, sources: Sequence[Source], processor: ReferenceProcessor, options: DataOptions | None = None
    ) -> None:
        self.sources = list(sources)
        self.processor = processor
        self.options = options or DataOptions()
        self.files = [JsonLines(source.path) for source in self.sources]
        self.features: FeatureFolder | None = None
        if self.options.features is not None:
            expect_different_names(source.root for source in self.sources)
            self.features = FeatureFolder(self.options.features)
        self.index = self._mix()
        if not len(self.index):
            raise ValueError(f"ConversationDataset: expected samples, got none in {[s.path for s in self.sources]}.")

    def _mix(self) -> np.ndarray:
        """(source, record) of every sample of an epoch."""
        rows = []
        for number, (source, file) in enumerate(zip(self.sources, self.files, strict=True)):
            random = np.random.default_rng([self.options.seed, number])
            whole, rest = divmod(round(source.weight * len(file)), max(len(file), 1))
            part = np.sort(random.permutation(len(file))[:rest])
            chosen = np.concatenate([np.tile(np.arange(len(file)), whole), part])
            rows.append(np.stack([np.full(len(chosen), number), chosen], axis=1))
        return np.concatenate(rows).astype(np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        """Which record of which file a sample is."""
        source, row = self.index[index]
        return f"{self.sources[source].name or self.files[source].path.name}[{row}]"

    def record(self, index: int) -> Record:
        """The validated record of a sample."""
        source, row = self.index[index]
        return parse_record(self.files[source][int(row)], self.name(index))

    def root(self, index: int) -> str:
        """The folder below which its image or video lies."""
        source, _ = self.index[index]
        return self.sources[source].root

    def frames(self, index: int, record: Record) -> Tensor:
        """Its pictures, or the tower's tokens of them where those are stored."""
        if self.features is not None:
            return self.features.read(self.features.place(self.root(index), record))
        return self.pictures(index, record)

    def pictures(self, index: int, record: Record) -> UInt8[Tensor, "frames height width 3"]:
        """The frames that are taken from its image or video."""
        return self.processor.read(
            Path(self.root(index)) / str(record.path),
            Sampling(fps=self.options.fps, rule="index"),
            max_frames=self.options.max_frames,
            square=self.options.square_images and record.modality == "image",
        ).frames

    def places(self, index: int, record: Record, epoch: int = 0) -> list[Place | None]:
        """Where in each turn the visual input stands: drawn anew in every epoch, from seed, epoch and index alone."""
        if record.modality == "text":
            return [None] * len(record.turns)
        marked = [turn.marked for turn in record.turns]
        if not any(marked):
            marked[0] = True
        random = np.random.default_rng([self.options.seed, epoch, index, 1])
        ends = random.integers(0, 2, len(marked)) * (self.options.placeholder == "random")
        shown = [self.options.per_turn or mark for mark in marked]
        return [None if not show else "end" if end else "front" for show, end in zip(shown, ends, strict=True)]

    def __getitem__(self, draw: int | Draw) -> dict[str, Any]:
        index, epoch = draw if isinstance(draw, Draw) else (int(draw), 0)
        try:
            return self.sample(index, epoch)
        except (OSError, ValueError) as error:
            return {"bad": f"{self.name(index)}: {error}"}

    def sample(self, index: int, epoch: int = 0) -> dict[str, Any]:
        """As `__getitem__`, but a sample that cannot be used raises."""
        record, options = self.record(index), self.options
        encoded = encode(
            record.turns,
            self.processor.tokenizer,
            template=options.template,
            places=self.places(index, record, epoch),
            max_length=options.max_length,
        )
        frames = self.frames(index, record) if encoded.questions else None
        questions = [self.processor.question(question) for question in encoded.questions]
        return {"input_ids": encoded.input_ids, "labels": encoded.labels, "questions": questions, "frames": frames}

    def sketch(self) -> tuple[np.ndarray, np.ndarray]:
        """Modality (its number in `MODALITIES`) and rough length of every sample, without decoding, for batching."""
        kinds, lengths = [], []
        for file in self.files:
            rows = [_outline(file, row) for row in range(len(file))]
            kinds.append(np.array([kind for kind, _ in rows], dtype=np.int8))
            lengths.append(np.array([length for _, length in rows], dtype=np.int64))
        kind = np.array([kinds[source][row] for source, row in self.index])
        return kind, np.array([lengths[source][row] for source, row in self.index])


def _outline(file: JsonLines, row: int) -> tuple[int, int]:
    """Zeros where the record cannot be used."""
    try:
        raw = file[row]
        if not isinstance(raw, dict) or not isinstance(raw.get("conversations"), list):
            return 0, 0
        seconds = seconds_of(raw, file.path.name) or 0
    except BadSampleError:
        return 0, 0
    words = sum(len(str(turn.get("value", "")).split()) for turn in raw["conversations"] if isinstance(turn, dict))
    return MODALITIES.index(modality_of(raw)), words + 2 * int(seconds)
