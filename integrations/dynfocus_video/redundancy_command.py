"""`dynfocus redundancy DIR`: how much of each set of videos repeats itself or has nothing to do with the answer."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv"}


class FolderRedundancy(NamedTuple):
    """The mean ratios of one folder's sampled videos."""

    name: str
    videos: int
    temporal: float
    answer_irrelevant: float | None


def add(subparsers: Any) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "redundancy",
        help="how redundant are the videos of a folder",
        description="Estimate, per folder of videos, the share of frames that look like the next one and the share "
        "that has nothing to do with question and answer (Appendix A), and draw both as the paper's Fig. 1. The "
        "paper's thresholds are lost from its text, so they have no default.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="videos, or folders of videos: one per data set")
    parser.add_argument(
        "--questions", metavar="FILE", type=Path, help='JSON or JSONL: {"video": PATH IN DIR, "question", "answer"}'
    )
    parser.add_argument("--sample", type=int, default=20, help="videos per folder (default: 20, as the paper)")
    parser.add_argument("--seed", type=int, default=0, help="which videos are sampled (default: 0)")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second to look at (default: 1)")
    parser.add_argument("--encoder", default="embedded", metavar="NAME", help="embedded (default) or timm:NAME")
    parser.add_argument("--weights", metavar="FILE", help="the encoder's weights")
    parser.add_argument("--text-encoder", metavar="NAME", help="a transformers CLIP in the encoder's space")
    parser.add_argument("--temporal-threshold", type=float, required=True, metavar="X", help="between 0 and 1")
    parser.add_argument("--relevance-threshold", type=float, metavar="X", help="between 0 and 1; with --text-encoder")
    parser.add_argument("--reduction", choices=("max", "mean"), default="max", help="over the tokens of the text")
    parser.add_argument("--out", type=Path, default=Path("redundancy.svg"), help="the figure (default: redundancy.svg)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print both ratios per folder and write the figure."""
    from dynfocus_connector.saving import replace_file
    from dynfocus_video.redundancy_figure import redundancy_figure

    rows = measure(arguments)
    width = max(len(row.name) for row in rows)
    print(f"{'folder':<{width}}  videos  temporal  answer-irrelevant")
    for row in rows:
        irrelevant = "–" if row.answer_irrelevant is None else f"{row.answer_irrelevant:.1%}"
        print(f"{row.name:<{width}}  {row.videos:>6}  {row.temporal:>8.1%}  {irrelevant:>17}")
    figure = redundancy_figure(rows)
    replace_file(arguments.out, lambda path: Path(path).write_text(figure, encoding="utf-8"))
    print(f"figure: {arguments.out}")
    return 0


def measure(arguments: argparse.Namespace) -> list[FolderRedundancy]:
    """Sample, read, encode and compare.

    Raises:
        ValueError: no videos, a question file that does not fit, text without a threshold.
    """
    from dynfocus_video.encoders import load_encoder
    from dynfocus_video.text_encoder import load_text_encoder

    if arguments.text_encoder and (arguments.questions is None or arguments.relevance_threshold is None):
        raise ValueError(
            "redundancy: expected --questions and --relevance-threshold with --text-encoder, "
            f"got {arguments.questions} and {arguments.relevance_threshold}."
        )
    folders = find_folders(arguments.folder)
    texts = read_questions(arguments.questions) if arguments.questions else {}
    text_encoder = load_text_encoder(arguments.text_encoder) if arguments.text_encoder else None
    encoder = load_encoder(arguments.encoder, weights=arguments.weights, project=text_encoder is not None)
    if arguments.questions and text_encoder is None:
        print("questions have no part in this without --text-encoder", file=sys.stderr)
    rows = []
    for name, videos in folders.items():
        chosen = sample_videos(videos, arguments.sample, arguments.seed)
        ratios = [_one(path, arguments, encoder, text_encoder, texts) for path in chosen]
        temporal = sum(ratio.temporal for ratio in ratios) / len(ratios)
        known = [ratio.answer_irrelevant for ratio in ratios if ratio.answer_irrelevant is not None]
        rows.append(FolderRedundancy(name, len(ratios), temporal, sum(known) / len(known) if known else None))
    return rows


def _one(path: Path, arguments: argparse.Namespace, encoder: Any, text_encoder: Any, texts: dict[str, str]) -> Any:
    from torch.nn.functional import normalize

    from dynfocus_connector import check_features, estimate_redundancy
    from dynfocus_video.reader import read_video
    from dynfocus_video.sampling import Sampling

    pictures = read_video(path, Sampling(fps=arguments.fps), size=encoder.frame_size).frames
    patches = encoder.encode(pictures)
    check_features(patches, name=f"redundancy of {path.name}")
    text = None
    if text_encoder is not None:
        key = path.relative_to(arguments.folder).as_posix()
        if key not in texts:
            raise ValueError(f"redundancy: expected a question for every sampled video, got none for {key!r}.")
        features, real = text_encoder.encode([texts[key]])
        text = features[0][real[0]]
    return estimate_redundancy(
        normalize(patches, dim=-1).mean(1),
        text,
        temporal_threshold=arguments.temporal_threshold,
        relevance_threshold=arguments.relevance_threshold,
        reduction=arguments.reduction,
    )


def find_folders(folder: Path) -> dict[str, list[Path]]:
    """Videos by the folder they lie in, sorted.

    Raises:
        ValueError: not a folder, or no video in it.
    """
    if not folder.is_dir():
        raise ValueError(f"redundancy: expected a folder of videos, got {str(folder)!r}.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            place = path.parent.relative_to(folder).as_posix()
            found.setdefault(folder.resolve().name if place == "." else place, []).append(path)
    if not found:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise ValueError(f"redundancy: expected videos ({known}) in {str(folder)!r}, got none.")
    return found


def sample_videos(videos: Sequence[Path], count: int, seed: int) -> list[Path]:
    """At most `count` of them, the same for the same seed."""
    if count < 1:
        raise ValueError(f"redundancy: expected --sample >= 1, got {count}.")
    if len(videos) <= count:
        return list(videos)
    return sorted(random.Random(seed).sample(list(videos), count))


def read_questions(path: Path) -> dict[str, str]:
    """Question and answer of each video, joined; several questions of one video too.

    Raises:
        ValueError: not JSON, or an entry without one of the three keys.
    """
    text = path.read_text(encoding="utf-8")
    try:
        entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except json.JSONDecodeError as error:
        raise ValueError(f"redundancy: expected JSON or JSONL in {str(path)!r}, got {error}.") from error
    texts: dict[str, str] = {}
    for number, entry in enumerate(entries):
        missing = {"video", "question", "answer"} - set(entry)
        if missing:
            raise ValueError(
                f"redundancy: expected 'video', 'question' and 'answer' in every entry of {str(path)!r}, "
                f"got entry {number} without {sorted(missing)}."
            )
        words = f"{entry['question']} {entry['answer']}"
        texts[entry["video"]] = " ".join(filter(None, [texts.get(entry["video"]), words]))
    return texts
