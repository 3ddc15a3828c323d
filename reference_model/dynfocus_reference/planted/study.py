"""`python -m dynfocus_reference.planted.study quick|main|anew|full`: train and evaluate whatever has no result yet."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynfocus_reference.planted.arms import Arm, install
from dynfocus_reference.planted.evaluation import Score, evaluate
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.pretraining import ANEW, FOLDER, pretrained
from dynfocus_reference.planted.questions import Kind
from dynfocus_reference.planted.redundancy import write_redundancy
from dynfocus_reference.planted.results import Key, Result, missing, rounded
from dynfocus_reference.planted.samples import Sample, training_pool
from dynfocus_reference.planted.settings import SETTINGS, SIZES, Setting
from dynfocus_reference.planted.sources import Source, extra_source, memory_of
from dynfocus_reference.planted.stage1 import align
from dynfocus_reference.planted.sweeps import LENGTHS, sweep, sweep_keys
from dynfocus_reference.planted.training import train_arm
from dynfocus_reference.processing import ReferenceProcessor

TRAIN_STORIES, TEST_STORIES = 10**6, 10**8
"""numbers of the first story of each; seeds are 10,000 apart"""
KEPT = ("dynfocus", "question scorer")
"""arms whose models are kept in the cache, for sweeps at evaluation and for the shipped checkpoint"""


def use(device: str) -> None:
    """One thread, and everything of this process on one device."""
    torch.set_num_threads(1)
    torch.set_default_device(device)


def home(setting: Setting, cache: Path) -> Path:
    """Where a setting's weights and features lie.

    Raises:
        FileNotFoundError: weights made anew that have not been made.
    """
    if not setting.anew:
        return cache
    if not (cache / ANEW / FOLDER).is_dir():
        raise FileNotFoundError(
            f"planted.study: expected pretrained weights in {cache / ANEW / FOLDER}, got none. "
            f"Make them with `python -m dynfocus_reference.planted.pretraining --cache {cache}`."
        )
    return cache / ANEW


def trained_folder(cache: Path, setting: Setting, arm: str, seed: int) -> Path:
    """Where a kept model lies."""
    return cache / "models" / f"{setting.name}-{arm.replace(' ', '-')}-seed{seed}"


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
    cache = home(setting, cache)
    train, test, pool, processor = ground(setting, seed, cache)
    model, _ = pretrained(cache)
    sources = [Source(train, pool)]
    if arm.extra is not None:
        first = TRAIN_STORIES + 10**4 * seed
        sources.append(extra_source(arm.extra, model, sources[0], first, setting.taught, processor, cache, seed))
    install(arm, model, seed)
    align(model, train, processor, arm.stage1 or (), seed)
    seconds = train_arm(arm, model, sources, setting.schedule, seed)
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
    setting: Setting, name: str, seed: int, scores: Mapping[Kind, Score], seconds: float, effort: tuple[float, float]
) -> Result:
    kinds = {str(kind): rounded(score._asdict()) for kind, score in scores.items()}
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


def _job(setting_name: str, arm_name: str, seed: int, folder: Path, cache: Path, device: str) -> str:
    use(device)
    setting, started = SETTINGS[setting_name], time.monotonic()
    (result, *_) = run(setting, setting.arms[arm_name], seed, folder, cache)
    told = " ".join(
        f"{kind} {score['accuracy']:.2f}/{score['recall'] or 0:.2f}" for kind, score in result.kinds.items()
    )
    return f"{setting_name} {arm_name} seed {seed}: {told}, {time.monotonic() - started:.0f} s"


def run_all(names: Sequence[str], folder: Path, cache: Path, workers: int, device: str = "cpu") -> None:
    """Every run of the settings that has no result, seed by seed."""
    cache.mkdir(parents=True, exist_ok=True)
    keys = [Key(name, arm, seed) for name in names for seed in SETTINGS[name].seeds for arm in SETTINGS[name].arms]
    todo = missing(sorted(keys, key=lambda key: key.seed), folder)
    print(f"{len(keys) - len(todo)} of {len(keys)} runs are there", flush=True)
    _in_processes(workers, _job, [(*key, folder, cache, device) for key in todo])


def _in_processes(workers: int, job: Callable[..., str], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Do the jobs side by side; print what each returns."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(job, *arguments) for arguments in jobs]):
            print(done.result(), flush=True)


def run_sweeps(folder: Path, cache: Path, workers: int, device: str = "cpu") -> None:
    """L and r at evaluation, on every model of the main comparison that the cache has kept."""
    setting, todo = SETTINGS["main"], []
    for seed in setting.seeds:
        if trained_folder(cache, setting, "dynfocus", seed).is_dir():
            lengths = [length for length in LENGTHS if missing(sweep_keys(length, seed), folder)]
            todo += [(length, seed, folder, cache, device) for length in lengths]
        else:
            print(f"no model of seed {seed} in {cache}: delete its result to train it again", flush=True)
    _in_processes(workers, _sweep_job, sorted(todo))


def _sweep_job(length: int, seed: int, folder: Path, cache: Path, device: str) -> str:
    use(device)
    started = time.monotonic()
    model, processor = pretrained(cache)
    memory = memory_of(model, TEST_STORIES + 10**4 * seed, LENGTHS[length], length, cache)
    sweep(trained_folder(cache, SETTINGS["main"], "dynfocus", seed), memory, processor, seed, folder)
    return f"sweep of {length} frames, seed {seed}: {time.monotonic() - started:.0f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m dynfocus_reference.planted.study", description=__doc__)
    parser.add_argument("size", choices=tuple(SIZES))
    parser.add_argument("--results", type=Path, default=Path("docs/results/planted"), help="folder of result files")
    parser.add_argument("--cache", type=Path, default=Path("out/planted"), help="the pretrained model, features")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of all processes")
    options = parser.parse_args(arguments)
    use(options.device)
    for name in SIZES[options.size]:
        home(SETTINGS[name], options.cache)
    run_all(SIZES[options.size], options.results, options.cache, options.workers, options.device)
    if options.size in ("main", "full"):
        setting = SETTINGS["main"]
        stories = memories(setting.stories, setting.test_stories, setting.length, setting.seeds[0], options.cache)
        write_redundancy(*stories, options.results)
    if options.size == "full":
        run_sweeps(options.results, options.cache, options.workers, options.device)


if __name__ == "__main__":
    main()
