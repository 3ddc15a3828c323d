"""`dynfocus compress VIDEO`: tokens, a page that shows why, and a short table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BAR_AFTER = 2.0
"""Seconds before a progress bar appears."""


def add(subparsers: Any) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "compress",
        help="compress a video file and show which frames matter",
        description="Compress a video file into tokens.safetensors and a page, report.html, that shows which frames "
        "were kept in detail and why. Without --checkpoint nothing needs training.",
    )
    parser.add_argument("video", metavar="VIDEO", help="any file FFmpeg can read")
    parser.add_argument("--question", metavar="TEXT", help="what will be asked; counts only with --text-encoder")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out"), help="where to write (default: out)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    _add_reading(parser.add_argument_group("reading the file"))
    _add_encoding(parser.add_argument_group("encoding"))
    _add_compressing(parser.add_argument_group("compressing"))
    parser.set_defaults(run=run)


def _add_reading(group: Any) -> None:
    rate = group.add_mutually_exclusive_group()
    rate.add_argument("--fps", type=float, help="frames per second to look at (default: 1)")
    rate.add_argument("--frames", type=int, help="number of frames to look at, evenly spread")
    group.add_argument(
        "--rule", choices=("timestamp", "index"), default="timestamp", help="index: every n-th frame (paper)"
    )
    group.add_argument("--decoder", choices=("pyav", "decord"), default="pyav")
    group.add_argument("--strict", action="store_true", help="refuse a file of which a part is lost")


def _add_encoding(group: Any) -> None:
    group.add_argument(
        "--encoder", default="embedded", metavar="NAME", help="embedded (default, no weights) or timm:NAME"
    )
    group.add_argument("--weights", metavar="FILE", help="the encoder's weights")
    group.add_argument("--text-encoder", metavar="NAME", help="a transformers CLIP that shares the encoder's space")
    group.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, mps")


def _add_compressing(group: Any) -> None:
    group.add_argument(
        "--preset", choices=("paper", "authors_code"), help="how many events and prototypes (default: paper)"
    )
    group.add_argument("--checkpoint", metavar="DIR", help="a trained connector; without one: training-free")
    group.add_argument("--prototypes", type=int, metavar="L", help="events of the video instead of the preset's")
    group.add_argument(
        "--focus-ratio", type=float, metavar="R", help="share of events in focus instead of the preset's"
    )
    budget = group.add_mutually_exclusive_group()
    budget.add_argument("--max-tokens", type=int, metavar="N", help="at most this many tokens")
    budget.add_argument("--ratio", type=float, help="at most this share of all patches")
    group.add_argument(
        "--when-short",
        choices=("resample", "focus_only", "error"),
        default="resample",
        help="where the budget cannot pay for the gist of every frame (default: resample)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compress, write, report."""
    from dynfocus_connector import TokenBudget
    from dynfocus_video.atomic import output_folder
    from dynfocus_video.compress import compress_video
    from dynfocus_video.present import REPORT_NAME, TOKENS_NAME, summary_of, table_of, write_results
    from dynfocus_video.sampling import Sampling

    budget = None
    if arguments.max_tokens is not None or arguments.ratio is not None:
        budget = TokenBudget(arguments.max_tokens, arguments.ratio, arguments.when_short)
    title = Path(arguments.video).name
    with output_folder(arguments.out) as folder, progress_bar(title) as progress:
        result = compress_video(
            arguments.video,
            question=arguments.question,
            sampling=Sampling(arguments.fps, arguments.frames, arguments.rule),
            decoder=arguments.decoder,
            encoder=arguments.encoder,
            weights=arguments.weights,
            text_encoder=arguments.text_encoder,
            preset=arguments.preset,
            num_prototypes=arguments.prototypes,
            focus_ratio=arguments.focus_ratio,
            budget=budget,
            checkpoint=arguments.checkpoint,
            strict=arguments.strict,
            device=arguments.device,
            progress=progress,
        )
        write_results(result, folder, title)
    outputs = {"report": folder / REPORT_NAME, "tokens": folder / TOKENS_NAME}
    if arguments.json:
        files = {f"{name}_file": str(path) for name, path in outputs.items()}
        found = {"video": arguments.video} | summary_of(result) | files
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(table_of(result, title, outputs) + "\n")
    return 0


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], object] | None]:
    """A bar on stderr for long jobs, where a person is looking."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=title, unit="frame", delay=BAR_AFTER, leave=False, file=sys.stderr) as bar:

        def advance(done: int, planned: int) -> None:
            bar.total = planned
            bar.update(done - bar.n)

        yield advance
