"""Clips of coloured squares that appear one after another, what can be asked about them, and a run that learns it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.data.conversation import SYSTEM
from dynfocus_reference.processing import byte_tokenizer

from .runs import write_run

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 70, 230),
    "yellow": (230, 210, 40),
    "purple": (160, 50, 200),
}
STORIES = [order for count in (2, 3) for order in itertools.permutations(COLOURS, count)]
UNSEEN = 10
CONNECTOR = {
    "num_prototypes": 8,
    "num_samples": 100,
    "pool_grid": 2,
    "spatial_prototypes": [4, 2],
    "spatial_neighbors": [4, 2],
}
"""10 tokens per cone frame: 4 of the event and 6 of its objects"""


def questions(story):
    """Order, count and free; "last" is there so that "first" must be read."""
    first, *rest = [f"a {colour} square" for colour in story]
    return {
        "Which colour comes first?": f"{story[0].capitalize()}.",
        "How many squares appear?": f"{('One', 'Two', 'Three')[len(story) - 1]}.",
        "What happens in the video?": f"{', then '.join([first, *rest]).capitalize()}.",
        "Which colour comes last?": f"{story[-1].capitalize()}.",
    }


def file_of(story):
    return f"{'-'.join(story)}.mp4"


def write_squares(path, story, size=64):
    """Two seconds of each square, somewhere on black, at 4 frames per second."""
    import av

    random = np.random.default_rng([list(COLOURS).index(colour) for colour in story])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for colour in story:
            top, left = random.integers(0, size - 40, 2)
            picture = np.full((size, size, 3), 30, np.uint8)
            picture[top : top + 40, left : left + 40] = COLOURS[colour]
            for _ in range(8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def word_tokenizer():
    """Every word of the questions and answers a token."""
    said = [text for story in STORIES for pair in questions(story).items() for text in pair]
    words = dict.fromkeys(re.findall(r"\w+|[^\w\s]+", " ".join([SYSTEM, "USER: ASSISTANT:", *said])))
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=True,
    )


def split():
    """Stories to learn from, and those that no training shows."""
    order = np.random.default_rng(0).permutation(len(STORIES))
    return [STORIES[i] for i in order[UNSEEN:]], [STORIES[i] for i in order[:UNSEEN]]


def records(stories):
    """Four conversations about each story: three of its questions, in any order."""
    random = np.random.default_rng(0)
    for story in stories:
        for _ in range(4):
            pairs = list(questions(story).items())
            asked = [pairs[i] for i in random.permutation(len(pairs))[:3]]
            turns = [
                {"from": speaker, "value": text}
                for pair in asked
                for speaker, text in zip(("human", "gpt"), pair, strict=True)
            ]
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
            yield {"id": "-".join(story), "video": file_of(story), "conversations": turns}


def write_squares_run(folder: Path) -> Path:
    """Clips, a random `tiny` model and the run that trains it on stored features."""
    (folder / "clips").mkdir()
    for story in STORIES:
        write_squares(folder / "clips" / file_of(story), story)
    torch.manual_seed(0)
    model = ReferenceModel(preset("tiny", connector=CONNECTOR))
    model.save_pretrained(folder / "model")
    ReferenceProcessor(word_tokenizer(), byte_tokenizer(), model.config).save_pretrained(folder / "model")
    return write_run(
        folder,
        list(records(split()[0])),
        model=str(folder / "model"),
        sources=[{"path": "set.json", "root": "clips"}],
        data={"features": str(folder / "features"), "placeholder": "front"},
        learning_rate=2e-3,
        global_batch_size=16,
        batch_size_per_gpu=16,
        max_steps=400,
        save_steps=1000,
        gradient_checkpointing=False,
        log_steps=50,
    )
