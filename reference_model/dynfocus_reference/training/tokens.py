"""How many tokens the language model will read per sample, from some of the data and without decoding any."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from dynfocus_reference.config import PRESETS
from dynfocus_reference.data.conversation import encode
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.options import DataOptions
from dynfocus_reference.data.records import Record
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.processing import ReferenceProcessor, byte_tokenizer
from dynfocus_reference.training.settings import RANDOM_PRESETS, TrainConfig

LOOKED_AT = 512
LONGEST = 200
"""frames of a video whose length nobody knows, where nothing limits them"""


class Tokens(NamedTuple):
    """Means over the samples that were looked at."""

    text: float
    """padding not counted"""
    visual: float
    unknown: float
    """share of samples whose video's length the data does not say; each counts as one of the longest"""


def tokens_per_sample(config: TrainConfig, model: ReferenceModel, looked_at: int = LOOKED_AT) -> Tokens | None:
    """What a sample of the mixture costs on average; None without data or without a tokenizer.

    Args:
        config: Of the run; sets that are not there are left out.
        model: For the tokens of a video of so many frames; may lie on the meta device.
        looked_at: How many samples are tokenised, drawn with the run's seed; bad ones are left out.
    """
    sources = [source for source in config.sources if os.path.isfile(source.path)]
    processor = _processor(config, model)
    if not sources or processor is None:
        return None
    data = ConversationDataset(sources, processor, dataclasses.replace(config.data, features=None))
    rows = np.random.default_rng(config.seed).permutation(len(data))[:looked_at]
    counts = [count for row in rows.tolist() if (count := _count(data, row, model)) is not None]
    return Tokens(*np.mean(counts, axis=0).tolist()) if counts else None


def _processor(config: TrainConfig, model: ReferenceModel) -> ReferenceProcessor | None:
    if config.model in RANDOM_PRESETS:
        return ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), model.config)
    return None if config.model in PRESETS else ReferenceProcessor.from_pretrained(config.model)


def _count(data: ConversationDataset, row: int, model: ReferenceModel) -> tuple[int, int, bool] | None:
    options = data.options
    try:
        record = data.record(row)
        places, length = data.places(row, record), options.max_length
        encoded = encode(
            record.turns, data.processor.tokenizer, template=options.template, places=places, max_length=length
        )
    except ValueError:
        return None
    shown = len(encoded.questions)
    each = model.connector.num_tokens(_frames(record, options), model.vision.num_patches)
    return len(encoded.input_ids) - shown, shown * each, record.modality == "video" and record.seconds is None


def _frames(record: Record, options: DataOptions) -> int:
    longest = options.max_frames or LONGEST
    if record.modality != "video":
        return 1
    return longest if record.seconds is None else min(max(round(record.seconds * options.fps), 1), longest)
