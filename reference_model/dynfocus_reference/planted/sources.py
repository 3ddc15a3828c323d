"""What an arm learns from: videos, and for Table 13 more of them, images, or videos of another domain."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dynfocus_reference.data.conversation import Place
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.arms import Extra
from dynfocus_reference.planted.memory import Memory, look
from dynfocus_reference.planted.questions import Kind, about_board, rotations
from dynfocus_reference.planted.samples import Sample, sample, training_pool
from dynfocus_reference.planted.world import Story, render, write_story
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.atomic import replace_together

MORE, NEGATIVES = 5000, 7000
"""numbers of the first story of each behind that of a seed"""
FOREIGN: tuple[Kind, ...] = ("count", "motion")
"""what is asked about the other domain, as CLEVRER asks: what colours do not decide"""


class Source(NamedTuple):
    """Samples about the stories of one memory; drawn as often as its share of all samples says."""

    memory: Memory
    pool: list[Sample]


def negative(story: Story) -> np.ndarray:
    """The pixels of another domain: the same kind of story as a film negative."""
    return 255 - render(story)


def memory_of(
    model: ReferenceModel, first: int, count: int, length: int, cache: Path, *, negatives: bool = False
) -> Memory:
    """Stories from a number on; the tower's tokens are kept in `cache`."""
    stories = [write_story(first + number, length) for number in range(count)]
    path = cache / f"{'negatives' if negatives else 'tokens'}-{first}-{count}-{length}.npy"
    if not path.is_file():
        tokens = look(model, stories, negative if negatives else render).cpu().numpy()
        replace_together({path: lambda part: _save(part, tokens)})
    return Memory(model, stories, torch.as_tensor(np.load(path)))


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def extra_source(
    extra: Extra,
    model: ReferenceModel,
    videos: Source,
    first: int,
    kinds: tuple[Kind, ...],
    processor: ReferenceProcessor,
    cache: Path,
    seed: int,
) -> Source:
    """Half as many samples again.

    Args:
        videos: What there is already.
        first: Number of the first of its stories.
        kinds: What is asked about further videos.
    """
    stories, count, length = len(videos.memory) // 2, len(videos.pool) // 2, videos.memory.length
    if extra == "images":
        return images(model, videos.memory, count, processor, seed)
    foreign = extra == "negatives"
    number = first + (NEGATIVES if foreign else MORE)
    memory = memory_of(model, number, stories, length, cache, negatives=foreign)
    return Source(memory, training_pool(memory.stories, processor, FOREIGN if foreign else kinds, count, seed + 100))


def images(model: ReferenceModel, videos: Memory, count: int, processor: ReferenceProcessor, seed: int) -> Source:
    """Single frames that show a board, and questions about it."""
    random = np.random.default_rng([seed, 8])
    names = [str(random.choice(sorted(story.boards))) for story in videos.stories]
    frames = [story.boards[name].start for story, name in zip(videos.stories, names, strict=True)]
    memory = Memory(model, videos.stories, videos.tokens[torch.arange(len(frames)), frames].unsqueeze(1))
    pool = []
    for _ in range(count):
        number = int(random.integers(len(names)))
        kind: Kind = "salience" if random.random() < 0.5 else "detail"
        question = about_board(videos.stories[number], kind, names[number], random)
        place: Place = "front" if random.random() < 0.5 else "end"
        pool.append(sample(number, question, str(random.choice(rotations(question))), processor, place))
    return Source(memory, pool)
