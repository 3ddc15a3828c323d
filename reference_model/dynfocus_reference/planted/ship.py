"""`python -m dynfocus_reference.planted.ship`: the best model of the study becomes the project's checkpoint.

It is asked, as `dynfocus chat` asks, about videos written to files and read again, and its card says what came of it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dynfocus_reference.chat import Conversation
from dynfocus_reference.data.records import JsonLines
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted import checkpoint_folder
from dynfocus_reference.planted.arms import ARMS
from dynfocus_reference.planted.files import write_set
from dynfocus_reference.planted.questions import KINDS, Kind
from dynfocus_reference.planted.recipe import planted_processor
from dynfocus_reference.planted.settings import Setting
from dynfocus_reference.planted.study import run, trained_folder
from dynfocus_reference.planted.training import Schedule
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.sampling import Sampling

ARM, SEED = "question scorer", 0
MIX: tuple[Kind, ...] = (
    *("salience", "by_question", "detail", "by_question", "count", "by_question", "order", "count", "detail", "motion"),
)
SETTING = Setting(
    "shipped",
    {ARM: ARMS[ARM]},
    range(1),
    Schedule(500, 32, 1e-3, 5e-3),
    stories=500,
    samples=6000,
    test_stories=60,
    taught=MIX,
)
FIRST_VIDEO = 7 * 10**8
"""number of the first story of the files; no other part of the study uses it"""


def ask_files(model: ReferenceModel, processor: ReferenceProcessor, folder: Path, count: int) -> dict[str, float]:
    """Share of exact answers per kind, to one rotation of the options, about `count` videos decoded from files."""
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for line in JsonLines(write_set(folder, count, FIRST_VIDEO)):
        clip = processor.read(folder / line["video"], Sampling(fps=1.0, rule="index"))
        prompt = line["conversations"][0]["value"].partition("\n")[2]
        answer = Conversation(model, processor, clip.frames).ask(prompt, max_new_tokens=8)
        right[line["kind"]].append(answer == line["answer"])
    return {kind: sum(values) / len(values) for kind, values in right.items()}


def card(accuracy: dict[str, float], count: int, size: int) -> str:
    """The model card."""
    rows = "\n".join(f"| {kind.replace('_', ' ')} | {value:.2f} |" for kind, value in accuracy.items())
    schedule = SETTING.schedule
    example = "dynfocus chat --model planted --video FILE --question 'What is on the left of the sign? star or moon'"
    return f"""---
library_name: dynfocus-connector
license: apache-2.0
---
# The planted model

It knows one small world and nothing else: the rendered videos of `dynfocus_reference.planted`. About any other
video it says words of that world. Use it to see the whole way from a file to an answer work without downloads:

    {example}

- **Data**: stories drawn by `write_story`, rendered on the fly; no video, image or text of anybody else.
- **Made by**: `python -m dynfocus_reference.planted.ship`; the arm “{ARM}” trained for
  {schedule.steps} steps of {schedule.batch} questions, seed {SEED}; {size:,} parameters, float32.
- **Accuracy**: exact answers to one question of each kind about {count} new videos, written to MP4, decoded and
  asked as `dynfocus chat` asks:

| question | accuracy |
|---|--:|
{rows}

The comparison it comes from is in docs/results/planted.md.
"""


def ship(cache: Path, count: int = 50) -> Path:
    """Train, unless that is done, ask, and write the checkpoint and its card."""
    trained = trained_folder(cache, SETTING, ARM, SEED)
    if not trained.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        run(SETTING, ARMS[ARM], SEED, cache / "results", cache)
    model, processor = ReferenceModel.from_pretrained(trained).eval(), planted_processor()
    with tempfile.TemporaryDirectory() as videos:
        accuracy = ask_files(model, processor, Path(videos), count)
    folder = checkpoint_folder()
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    size = sum(parameter.numel() for parameter in model.parameters())
    (folder / "README.md").write_text(card(accuracy, count, size), encoding="utf-8")
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m dynfocus_reference.planted.ship", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("out/planted"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(ship(options.cache))


if __name__ == "__main__":
    main()
