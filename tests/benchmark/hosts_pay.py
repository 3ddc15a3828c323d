"""When does a connector in a host pay? Writes docs/results/hosts_pay.md.

    python -m tests.benchmark.hosts_pay [--out docs/results/hosts_pay.md]

With CUDA on hosts of published shape (bf16, SDPA), without on small ones of the same proportions (float32, one thread).
Runs with and without the connector alternate. Nothing is timed where a connector that keeps everything changes a bit.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from dynfocus_connector.saving import replace_file
from dynfocus_transformers import attach
from tests.benchmark.host_shapes import FULL, SMALL, Shape

NEW_TOKENS, ENOUGH = 16, 4.0
"""tokens of an answer; seconds after which a cell is not repeated"""
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
SHAPES = FULL if CUDA else SMALL
LEFT_OUT = () if CUDA else ((4, 8), (4, 32), (128, 8), (128, 32), (512, 8), (512, 32))
CELLS = [
    *((frames, requests, 0.1) for frames in (4, 32, 128, 512) for requests in (1, 8, 32)),
    *((frames, 1, 0.9) for frames in (4, 32, 128)),  # where nearly every token stays
]
CELLS = [cell for cell in CELLS if cell[:2] not in LEFT_OUT]
LIGHT = [(4, 1, 0.1), (32, 1, 0.1), (128, 1, 0.1), (4, 1, 0.9), (32, 1, 0.9)]
"""of a heavy host on a CPU"""


class Run(NamedTuple):
    """One call of `generate`."""

    first: float
    """seconds to the first token"""
    step: float
    """seconds per later token, of all requests at once"""
    whole: float
    encoder: float
    selection: float
    memory: float
    """peak above what lay there before, in MB"""


def main() -> None:
    """Gate, measure, write; after every cell, so that a run that was stopped goes on with --resume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/hosts_pay.md"))
    parser.add_argument("--resume", action="store_true", help="keep the cells that a stopped run has measured")
    parser.add_argument("--host", choices=[shape.name for shape in SHAPES], help="measure this one alone")
    parser.add_argument("--cells", type=int, default=1000, help="measure no more than so many of each host")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1 if CUDA else 1)
    memory = arguments.out.with_suffix(".json")
    known: dict[str, str] = json.loads(memory.read_text()) if arguments.resume else {}
    for shape in SHAPES:
        if arguments.host not in (None, shape.name):
            continue
        for name, line in measure(shape, known, arguments.cells):
            known[name] = line
            print(line, flush=True)
            save(memory, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
            save(arguments.out, page(known))
    save(arguments.out, page(known))


@torch.inference_mode()
def measure(shape: Shape, known: dict[str, str], most: int) -> Iterator[tuple[str, str]]:
    """The cells of one host that are not known."""
    missing = [cell for cell in cells_of(shape) if label(shape, *cell) not in known]
    missing = sorted(missing, key=lambda cell: cell[0] * cell[1])[:most]
    if not missing:
        return
    model = shape.build(DEVICE, DTYPE)
    gate(model, shape)
    for frames, requests, kept in missing:
        pair = compare(model, shape.batch(frames, requests, DEVICE, DTYPE), kept)
        yield label(shape, frames, requests, kept), row(f"{frames} | {requests} | {kept:.0%}", requests, *pair)


def cells_of(shape: Shape) -> list[tuple[int, int, float]]:
    """What is measured of a host."""
    return LIGHT if shape.heavy and not CUDA else CELLS


def label(shape: Shape, frames: int, requests: int, kept: float) -> str:
    """The name of a cell."""
    return f"{shape.name}: {frames} frames, {requests} requests, {kept:.0%} kept"


def page(known: dict[str, str]) -> str:
    """All that is known, and what is not."""
    parts = [head()]
    for shape in SHAPES:
        lines = [known[name] for name in (label(shape, *cell) for cell in cells_of(shape)) if name in known]
        parts += ["\n".join([f"## {shape.name}", "", describe(shape), "", *HEADER, *lines])] if lines else []
    missing = [
        name for shape in SHAPES for name in (label(shape, *cell) for cell in cells_of(shape)) if name not in known
    ]
    if missing:
        parts.append("Not measured yet (`--resume` goes on):\n\n" + "\n".join(f"- {name}" for name in missing))
    return "\n\n".join(parts) + "\n"


def save(path: Path, text: str) -> None:
    """Whole or not at all."""
    replace_file(path, lambda part: Path(part).write_text(text))


def gate(model: Any, shape: Shape) -> None:
    """Keeping everything must change nothing, keeping a tenth must change something."""
    batch = shape.batch(8, 2, DEVICE, DTYPE)
    plain = model(**batch).logits
    with attach(model, ratio=1.0):
        assert torch.equal(model(**batch).logits, plain), f"{shape.name}: keep-all changes the host"
        assert model(**batch, dynfocus={"ratio": 0.1}).logits.shape[1] < plain.shape[1]


def compare(model: Any, batch: dict[str, Any], kept: float) -> tuple[Run | None, Run | None, int]:
    """Medians without and with the connector, None where memory ends; and how many pairs of runs there were."""
    pairs: list[tuple[Run | None, Run | None]] = []
    started = now()
    while len(pairs) < 5 and (not pairs or now() - started < ENOUGH):
        plain = measured(model, batch)
        with attach(model, ratio=kept):
            pairs.append((plain, measured(model, batch)))
        if None in pairs[-1]:
            break
    without, with_one = zip(*pairs, strict=True)
    return median(without), median(with_one), len(pairs)


def measured(model: Any, batch: dict[str, Any]) -> Run | None:
    """One run, or None where the device has too little memory."""
    try:
        return generate(model, batch)
    except torch.OutOfMemoryError:
        gc.collect()
        torch.cuda.empty_cache()
        return None


def generate(model: Any, batch: dict[str, Any]) -> Run:
    """`generate`, with the clock read at every token."""
    times: list[float] = []

    def note(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        times.append(now())
        return scores

    before = reset_memory()
    with clocked(tower_of(model)) as encoder, clocked(getattr(model, "dynfocus", None)) as selection:
        start = now()
        model.generate(
            **batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, logits_processor=[note]
        )
        end = now()
    step = (times[-1] - times[0]) / (len(times) - 1)
    return Run(times[0] - start, step, end - start, sum(encoder), sum(selection), peak_memory() - before)


def now() -> float:
    """Seconds, once the GPU is done; on a CPU those of this process, which other processes do not lengthen."""
    if not CUDA:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def clocked(module: torch.nn.Module | None) -> Iterator[list[float]]:
    """Seconds in a module, none where there is none: minus its starts, plus its ends."""
    spent: list[float] = []
    if module is None:
        yield spent
        return
    starts = module.register_forward_pre_hook(lambda *_: spent.append(-now()))
    ends = module.register_forward_hook(lambda *_: spent.append(now()))
    try:
        yield spent
    finally:
        starts.remove()
        ends.remove()


def reset_memory() -> float:
    """Start a new peak; what lies there now, in MB."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_memory() -> float:
    """Since `reset_memory`, in MB."""
    return torch.cuda.max_memory_allocated() / 2**20 if CUDA else status("VmHWM")


def status(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def median(runs: tuple[Run | None, ...]) -> Run | None:
    """Of every number on its own."""
    known = [run for run in runs if run is not None]
    return Run(*map(statistics.median, zip(*known, strict=True))) if len(known) == len(runs) else None


HEADER = [
    "| frames | requests | kept | to first token, s | ratio | of it encoder, s | of it selection, s | ms per token "
    "| ratio | peak, MB | ratio | requests per s | ratio | runs |",
    "|---" * 14 + "|",
]


def row(name: str, requests: int, plain: Run | None, short: Run | None, runs: int) -> str:
    """`without → with`; a ratio above 1 says that the connector is better."""

    def pair(name: str, form: str, scale: float = 1.0) -> list[str]:
        values = [None if run is None else scale * getattr(run, name) for run in (plain, short)]
        shown = " → ".join("out of memory" if value is None else format(value, form) for value in values)
        return [shown, "" if None in values else f"{values[0] / values[1]:.2f}"]

    encoder = pair("encoder", ".2f")[0]
    selection = "" if short is None else f"{short.selection:.2f}"
    rates = pair("whole", ".2f", 1 / requests)
    rates[0] = " → ".join("out of memory" if run is None else f"{requests / run.whole:.2f}" for run in (plain, short))
    cells = [name, *pair("first", ".2f"), encoder, selection, *pair("step", ".1f", 1000)]
    return "| " + " | ".join(map(str, [*cells, *pair("memory", ".0f"), *rates, runs])) + " |"


def describe(shape: Shape) -> str:
    """The sizes that decide the ratios."""
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(shape.family(shape))
    count, seen = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, tower_of(model)))
    layers, width = shape.text["num_hidden_layers"], shape.text["hidden_size"]
    frame = "two frames" if "depth" in shape.vision else "a frame"
    return (
        f"{count:.1f} million parameters, {seen:.2f} of them in the encoder; {layers} layers of width {width}; "
        f"{shape.grid**2} patches and {shape.tokens} tokens for {frame}."
    )


def tower_of(model: Any) -> torch.nn.Module:
    """The encoder of videos."""
    return model.model.visual if hasattr(model.model, "visual") else model.model.vision_tower


def head() -> str:
    """What was measured, and on what."""
    kind = torch.cuda.get_device_name() if CUDA else f"{processor()}, one thread, processor time; no GPU was at hand"
    left_out = ", ".join(f"{frames} × {requests}" for frames, requests in LEFT_OUT)
    return TEXT.format(
        kind=kind,
        dtype=str(DTYPE).removeprefix("torch."),
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        new=NEW_TOKENS,
        small="" if CUDA else SMALL_TEXT.format(left_out=left_out),
    )


def processor() -> str:
    """The name of the CPU."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", told.read_text()) if told.exists() else None
    return f"{found[1] if found else platform.processor()} ({os.cpu_count()} cores)"


TEXT = """# When does a connector pay?

Written by `python -m tests.benchmark.hosts_pay`. {kind};
{dtype}, SDPA, torch {torch}, transformers {transformers}. Hosts with random weights, the training-free connector,
answers of {new} tokens; *requests* run as one batch; *kept* is the share of the video's tokens that the budget allows.

Every cell is `without → with`; a ratio above 1 says by how much the connector is better, one at or below 1 that it
does not pay. Runs with and without alternate; medians. *Peak* is memory above what lay there before the call. The
encoder does the same work in both, which bounds what a connector can save. Before anything is timed, a connector that
keeps every token must give the host's own logits bit for bit.{small}"""
SMALL_TEXT = """

The first host has the language model of Qwen2-0.5B and SigLIP's base tower at their published sizes; it is as large as
a CPU bears, with single requests. The other two are small: 4 layers of width 256 where the published ones have 28 of
width 3584. As there, most parameters are in the language model, with four patches per token. Where PyTorch sees a GPU,
the same command measures the shapes of LLaVA-OneVision-7B and Qwen2.5-VL-7B, in bfloat16 and for every frames ×
requests; those numbers are not known here. Left out of the small ones for their time (frames × requests):
{left_out}.
Cells that are missing below were not reached; `--resume` goes on with them."""


if __name__ == "__main__":
    main()
