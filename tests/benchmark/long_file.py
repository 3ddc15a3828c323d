"""Memory and time of two hours of video at one frame per second: regenerates docs/results/long_file.md.

    python tests/benchmark/long_file.py [--hours 2] [--out docs/results/long_file.md]

Each row runs in a process of its own, so that a peak belongs to it alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[2]
MEASURE = """
import json, resource, sys, torch
torch.set_num_threads(1)
from dynfocus_video.cli import main
import dynfocus_video.present, dynfocus_video.compress, dynfocus_video.encoders, av, PIL.Image
peaks = {}
look = dynfocus_video.compress.check_features
def note(*given, **named):
    peaks["reading"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    look(*given, **named)
dynfocus_video.compress.check_features = note
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(sys.argv[1:]) == 0
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"before": before / 1024, "peak": peak / 1024, **peaks}))
"""


def write_video(path: Path, seconds: int) -> None:
    """Pictures of 160 × 120 at 5 per second: a drifting texture that changes every 20 s."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast", "crf": "30", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for t in range(seconds * 5):
            if t % 100 == 0:
                coarse = np.random.default_rng(t).integers(0, 256, (15, 20, 3), dtype=np.uint8)
                scene = coarse.repeat(8, axis=0).repeat(8, axis=1)
            picture = np.ascontiguousarray(np.roll(scene, t % 100, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def measure(video: Path, out: Path, *options: str) -> dict:
    """One run of the command: its own numbers, the peak of its memory, and the size of what it wrote."""
    command = [sys.executable, "-c", MEASURE, "compress", str(video), "--json", "--out", str(out), *options]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    numbers = json.loads(lines[0]) | json.loads(lines[1])
    return numbers | {"page": Path(numbers["report_file"]).stat().st_size / 2**20}


def row(name: str, numbers: dict) -> str:
    """One line of the table."""
    counts = (numbers["frames"], len(numbers["focus_times"]), numbers["tokens"])
    seconds = sum(numbers["seconds"].values())
    memory = (numbers["before"], numbers["reading"], numbers["peak"])
    cells = [name, *(f"{count:,}" for count in counts), f"{seconds:.0f} s", *(f"{size:,.0f} MiB" for size in memory)]
    return f"| {' | '.join(cells)} | {numbers['page']:.1f} MiB |"


PAGE = """# A long file

A generated video of {hours:g} h (160 × 120, 5 pictures per second), compressed with `--fps 1` on one CPU thread.
Regenerate with `python tests/benchmark/long_file.py`.

| run | frames | focus frames | tokens | time | memory before | peak while reading | peak | page |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
{rows}

Pictures are decoded one at a time and encoded {chunk} at a time: all resized frames together would be
{frames:,.0f} MiB, their features (float32, {width} wide) are {features:,.0f} MiB. Finding the events needs several
matrices of the distances between frames, {distances:,.0f} MiB each. Stages of the first run: {stages}.
"""


def document(seconds: int, rows: list[str], numbers: dict) -> str:
    """The page of results."""
    from dynfocus_video.features import CHUNK

    return PAGE.format(
        hours=seconds / 3600,
        rows="\n".join(rows),
        chunk=CHUNK,
        frames=numbers["frames"] * 224 * 224 * 3 / 2**20,
        width=numbers["width"],
        features=numbers["all_patches"] * numbers["width"] * 4 / 2**20,
        distances=numbers["frames"] ** 2 * 4 / 2**20,
        stages=" · ".join(f"{name} {value:.0f} s" for name, value in numbers["seconds"].items()),
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=FOLDER / "docs" / "results" / "long_file.md")
    arguments = parser.parse_args()
    seconds = round(arguments.hours * 3600)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder, "long.mp4")
        write_video(video, seconds)
        whole = measure(video, Path(folder, "whole"))
        short = measure(video, Path(folder, "short"), "--max-tokens", "4000")
    rows = [row("paper preset", whole), row("`--max-tokens 4000`", short)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    part = arguments.out.with_suffix(".part")
    try:
        part.write_text(document(seconds, rows, whole), encoding="utf-8")
        part.replace(arguments.out)
    finally:
        part.unlink(missing_ok=True)
    print(arguments.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
