"""`python -m dynfocus_reference.planted.study quick|main|full`: train and evaluate whatever has no result yet."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.arms import Arm, install
from dynfocus_reference.planted.evaluation import Score, evaluate
from dynfocus_reference.planted.memory import Memory, look
from dynfocus_reference.planted.pretraining import pretrained
from dynfocus_reference.planted.redundancy import write_redundancy
from dynfocus_reference.planted.results import Key, Result, missing, rounded
from dynfocus_reference.planted.samples import Sample, training_pool
from dynfocus_reference.planted.settings import SETTINGS, Setting
from dynfocus_reference.planted.sweeps import LENGTHS, sweep, sweep_keys
from dynfocus_reference.planted.training import train_arm
from dynfocus_reference.planted.world import write_story
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.atomic import replace_together

TRAIN_STORIES, TEST_STORIES = 10**6, 10**8
"""numbers of the first story of each; seeds are 10,000 apart"""
KEPT = ("dynfocus", "question scorer")
"""arms whose models are kept in the cache, for sweeps at evaluation and for the shipped checkpoint"""


def trained_folder(cache: Path, setting: Setting, arm: str, seed: int) -> Path:
    """Where a kept model lies."""
    return cache / "models" / f"{setting.name}-{arm.replace(' ', '-')}-seed{seed}"


def memory_of(model: ReferenceModel, first: int, count: int, length: int, cache: Path) -> Memory:
    """Stories from a number on; the tower's tokens are kept in `cache`."""
    stories = [write_story(first + number, length) for number in range(count)]
    path = cache / f"tokens-{first}-{count}-{length}.npy"
    if not path.is_file():
        tokens = look(model, stories).numpy()
        replace_together({path: lambda part: _save(part, tokens)})
    return Memory(model, stories, torch.from_numpy(np.load(path)))


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


@functools.lru_cache(maxsize=6)
def memories(stories: int, test_stories: int, length: int, seed: int, cache: Path) -> tuple[Memory, Memory]:
    """Stories to learn from and stories to be asked about."""
    model, _ = pretrained(cache)
    train = memory_of(model, TRAIN_STORIES + 10**4 * seed, stories, length, cache)
    return train, memory_of(model, TEST_STORIES + 10**4 * seed, test_stories, length, cache)


@functools.lru_cache(maxsize=6)
def ground(setting: Setting, seed: int, cache: Path) -> tuple[Memory, Memory, list[Sample], ReferenceProcessor]:
    """What all arms of a seed share: stories, samples and the words."""
    train, test = memories(setting.stories, setting.test_stories, setting.length, seed, cache)
    _, processor = pretrained(cache)
    return train, test, training_pool(train.stories, processor, setting.taught, setting.samples, seed), processor


def run(setting: Setting, arm: Arm, seed: int, folder: Path, cache: Path) -> list[Result]:
    """Train and evaluate one arm; its results, written."""
    train, test, pool, processor = ground(setting, seed, cache)
    model, _ = pretrained(cache)
    install(arm, model, seed)
    seconds = train_arm(arm, model, train, pool, setting.schedule, seed)
    scores = evaluate(arm, model, test, processor, setting.kinds)
    if arm.name in KEPT:
        model.save_pretrained(trained_folder(cache, setting, arm.name, seed))
    results = [_result(setting, arm.name, seed, scores, seconds, arm.effort)]
    if arm.name == "dynfocus":
        shuffled = evaluate(arm, model, test, processor, setting.kinds, shift=len(test) // 2)
        results.append(_result(setting, "shuffled video", seed, shuffled, seconds, arm.effort))
    for result in results[::-1]:
        result.write(folder)
    return results


def _result(
    setting: Setting, name: str, seed: int, scores: dict[str, Score], seconds: float, effort: tuple[float, float]
) -> Result:
    kinds = {kind: rounded(score._asdict()) for kind, score in scores.items()}
    tokens = float(np.mean([score.tokens for score in scores.values()]))
    return Result(
        setting.name,
        name,
        seed,
        kinds,
        tokens,
        round(seconds, 1),
        setting.schedule.times(effort).steps,
        setting.test_stories,
        setting.length,
    )


def _job(setting_name: str, arm_name: str, seed: int, folder: Path, cache: Path) -> str:
    torch.set_num_threads(1)
    setting, started = SETTINGS[setting_name], time.monotonic()
    (result, *_) = run(setting, setting.arms[arm_name], seed, folder, cache)
    told = " ".join(
        f"{kind} {score['accuracy']:.2f}/{score['recall'] or 0:.2f}" for kind, score in result.kinds.items()
    )
    return f"{setting_name} {arm_name} seed {seed}: {told}, {time.monotonic() - started:.0f} s"


def run_all(names: Sequence[str], folder: Path, cache: Path, workers: int) -> None:
    """Every run of the settings that has no result, seed by seed."""
    cache.mkdir(parents=True, exist_ok=True)
    keys = [Key(name, arm, seed) for name in names for seed in SETTINGS[name].seeds for arm in SETTINGS[name].arms]
    todo = missing(sorted(keys, key=lambda key: key.seed), folder)
    print(f"{len(keys) - len(todo)} of {len(keys)} runs are there", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(_job, key.setting, key.arm, key.seed, folder, cache) for key in todo]
        for job in as_completed(jobs):
            print(job.result(), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m dynfocus_reference.planted.study", description=__doc__)
    parser.add_argument("size", choices=("quick", "main", "full"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/planted"), help="folder of result files")
    parser.add_argument("--cache", type=Path, default=Path("out/planted"), help="the pretrained model, features")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    run_all(SIZES[options.size], options.results, options.cache, options.workers)
    if options.size != "quick":
        main_setting = SETTINGS["main"]
        train, _ = memories(main_setting.stories, main_setting.test_stories, main_setting.length, 0, options.cache)
        write_redundancy(train, options.results)
    if options.size == "full":
        run_sweeps(options.results, options.cache)


def run_sweeps(folder: Path, cache: Path) -> None:
    """L and r at evaluation, on every model of the main comparison that the cache has kept."""
    main_setting = SETTINGS["main"]
    for seed in main_setting.seeds:
        trained = trained_folder(cache, main_setting, "dynfocus", seed)
        if not trained.is_dir():
            print(f"no model of seed {seed} in {cache}: delete its result to train it again", flush=True)
            continue
        for length, count in LENGTHS.items():
            if missing(sweep_keys(length, seed), folder):
                model, processor = pretrained(cache)
                memory = memory_of(model, TEST_STORIES + 10**4 * seed, count, length, cache)
                sweep(trained, memory, processor, seed, folder)


SIZES = {
    "quick": ("quick",),
    "main": ("main", "by_question", "gradients", "ceiling"),
    "full": tuple(name for name in SETTINGS if name != "quick"),
}

if __name__ == "__main__":
    main()
