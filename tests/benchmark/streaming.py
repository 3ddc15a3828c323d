"""What a bounded stream loses and what it costs: regenerates docs/results/streaming.md and its plot.

python -m tests.benchmark.streaming [--seeds 8]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import torch

from dynfocus_connector import DynFocusConfig, DynFocusConnector, StreamingConnector, build_connector
from dynfocus_connector.saving import replace_file
from tests.benchmark.stream_worlds import DIM, FRAMES, WORLDS, World

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"
BOUND = 128
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 6: 2.57, 8: 2.36, 10: 2.26, 16: 2.13}
"""97.5 % quantiles of Student's t by the number of seeds"""

HOURS, LONG_BOUND, LONG_PATCHES, LONG_DIM, CHUNK = 10, 512, 16, 64, 100
COST_BOUND, COST_PATCHES, COST_DIM = 128, 256, 1408


def connector_for_worlds() -> DynFocusConnector:
    """L = 25, K = 20: as many as the events of most worlds."""
    config = DynFocusConfig.training_free(dim=DIM, pool_grid=2, spatial_prototypes=(2,), spatial_neighbors=(2,))
    return build_connector(config).eval()


def seen(event: torch.Tensor, index: torch.Tensor, most: int) -> float:
    """Share of the events (of `most`, where there are more) that have one of these frames."""
    return len(event[index].unique()) / min(most, int(event.max()) + 1)


def coverage(world: World, seed: int) -> dict[str, float]:
    """Events in focus and events held, for every way to live with a bound."""
    connector, (frames, event) = connector_for_worlds(), world
    offline = connector(frames[None]).selection.focus_index[0]
    stream = StreamingConnector(connector, BOUND)
    stream.push(frames)
    focus = stream.tokens().selection.focus_index[0]
    lottery = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))[:BOUND].sort().values
    last = torch.arange(len(frames) - BOUND, len(frames))
    held = {"streaming": stream.frame_index, "reservoir": lottery, "window": last}
    chosen = {"offline": offline, "streaming": focus}
    for name in ("reservoir", "window"):
        chosen[name] = held[name][connector(frames[None, held[name]]).selection.focus_index[0]]
    most = len(offline)
    result = {f"focus {name}": seen(event, index, most) for name, index in chosen.items()}
    result |= {f"held {name}": seen(event, index, len(event)) for name, index in held.items()}
    return result | {"same frames": torch.isin(focus, offline).float().mean().item()}


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval."""
    return f"{mean(values):.2f} ± {STUDENT[len(values)] * stdev(values) / len(values) ** 0.5:.2f}"


def coverage_rows(seeds: int) -> list[str]:
    """The two tables, a row per world each."""
    tables: list[list[str]] = [[], []]
    for name, make in WORLDS.items():
        runs = [coverage(make(seed), seed) for seed in range(seeds)]
        cell = {key: interval([run[key] for run in runs]) for key in runs[0]}
        focus = [cell[f"focus {who}"] for who in ("offline", "streaming", "reservoir", "window")]
        held = [cell[f"held {who}"] for who in ("streaming", "reservoir", "window")]
        tables[0].append(f"| {name} | {' | '.join(focus)} | {cell['same frames']} |")
        tables[1].append(f"| {name} | {' | '.join(held)} |")
        print(tables[0][-1], tables[1][-1], sep="\n")
    return ["\n".join(table) for table in tables]


def resident() -> float:
    """MiB of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def ten_hours() -> dict[str, list[float]]:
    """Memory and time of a stream of ten hours, one frame per second, asked every ten minutes. In a fresh process."""
    torch.set_num_threads(1)
    connector = build_connector(DynFocusConfig.paper(dim=LONG_DIM, dim_out=64, dim_text=32)).eval()
    stream = StreamingConnector(connector, LONG_BOUND)
    random = torch.Generator().manual_seed(0)
    look = torch.randn(LONG_PATCHES, LONG_DIM, generator=random)
    rows: dict[str, list[float]] = {"hours": [], "resident": [], "state": [], "milliseconds": []}
    before, spent = resident(), 0.0
    for start in range(0, HOURS * 3600, CHUNK):
        if torch.rand((), generator=random) < 0.1:
            look = torch.randn(LONG_PATCHES, LONG_DIM, generator=random)
        frames = look + 0.1 * torch.randn(CHUNK, LONG_PATCHES, LONG_DIM, generator=random)
        begin = time.process_time()
        stream.push(frames)
        spent += time.process_time() - begin
        if (start + CHUNK) % 600 == 0:
            stream.tokens(torch.randn(1, 8, 32, generator=random))
            rows["hours"].append((start + CHUNK) / 3600)
            rows["resident"].append(resident() - before)
            rows["state"].append(stream.memory.num_bytes / 2**20)
            rows["milliseconds"].append(1000 * spent / 600)
            spent = 0.0
    return rows


def costs() -> dict[str, float]:
    """CPU milliseconds at the paper's sizes, one thread, float32."""
    torch.set_num_threads(1)
    connector = build_connector(DynFocusConfig.paper(dim_out=1024)).eval()
    stream = StreamingConnector(connector, COST_BOUND)
    frames = torch.randn(COST_BOUND, COST_PATCHES, COST_DIM)
    question = torch.randn(2, 1, 32, 768)

    def took(call) -> float:
        begin = time.process_time()
        call()
        return 1000 * (time.process_time() - begin)

    inside = [took(lambda frame=frame: stream.push(frame)) for frame in frames]
    asked = {f"question {i + 1}": took(lambda i=i: stream.tokens(question[i])) for i in range(2)}
    with torch.no_grad():
        offline = took(lambda: connector(frames[None], question[0]))
    beyond = [took(lambda frame=frame: stream.push(frame)) for frame in frames[: COST_BOUND // 2]]
    slowest = max(inside[1:] + beyond)
    return {"inside": mean(inside), "beyond": mean(beyond), "slowest": slowest, **asked, "offline": offline}


def elsewhere(name: str) -> dict:
    """One of the two above in a process of its own."""
    code = f"import json; from tests.benchmark import streaming; print(json.dumps(streaming.{name}()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def plot(rows: dict[str, list[float]], path: Path) -> None:
    """Memory over the hours. The same numbers give the same file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "dynfocus", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        kept = [hour * 3600 * LONG_PATCHES * LONG_DIM * 4 / 2**20 for hour in rows["hours"]]
        axes.plot(rows["hours"], kept, "--", color="0.6", label="features of all frames so far")
        axes.plot(rows["hours"], rows["resident"], label="process, above its start")
        axes.plot(rows["hours"], rows["state"], label="state of the stream")
        axes.set(xlabel="hours of stream at 1 frame per second", ylabel="MiB", xlim=(0, HOURS), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        replace_file(path, lambda part: figure.savefig(part, format="svg", metadata={"Date": None}))


PAGE = """# Streaming

Regenerate with `python -m tests.benchmark.streaming`. `StreamingConnector` against the connector on the whole stream,
and against two other ways to live with a bound: a *reservoir* (a uniform random sample of the stream) and a sliding
*window* (the last frames), both followed by the same connector.

## Events in focus

Streams of {frames:,} frames with known events, of which {bound} are held; L = 25, K = 20, features of 4 × 8,
training-free. Share of the events that have a focus frame (of 20, where there are more events than focus frames): mean
of {seeds} seeds and its 95 % interval. The last column is the share of the stream's focus frames that are exactly those
chosen offline.

| stream | offline, all frames | streaming | reservoir | window | same frames as offline |
|---|--:|--:|--:|--:|--:|
{focus}

## Events still held

Share of all events of which a frame is held at the end, so that a later question can still bring them into focus.

| stream | streaming | reservoir | window |
|---|--:|--:|--:|
{held}

{bound} frames cannot hold 300 different shots; there every way keeps less than half of them.

## Ten hours

{total:,} frames of {patches} patches × {dim} at one frame per second, {long_bound} held, the `paper` preset (25 event
prototypes), a question every ten minutes. The state is allocated with the first frame and is {state:.1f} MiB from then
on; the process stood {early:.0f} MiB above its start after one hour and {late:.0f} MiB after ten. All features would be
{all:.0f} MiB.

![Memory over ten hours](streaming_memory.svg)

A push took {first:.2f} ms of CPU per frame in the first hour and {last:.2f} ms in the last.

## What a call costs

CPU milliseconds on one thread at the paper's width: frames of 256 patches × 1408 in float32, tokens of width 1024, 32
text tokens, {cost_bound} frames held. Other work ran on the machine; read them as ratios.

| call | ms |
|---|--:|
| push of one frame while all fit, on average | {inside:.0f} |
| push of one frame beyond the bound, on average | {beyond:.0f} |
| the slowest push | {slowest:,.0f} |
| tokens, first question | {first_question:,.0f} |
| tokens, second question (rods alone) | {second_question:,.0f} |
| for comparison: the connector on the same {cost_bound} frames | {offline:,.0f} |
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, choices=sorted(STUDENT))
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows, cost = elsewhere("ten_hours"), elsewhere("costs")
    hour = len(rows["hours"]) // HOURS
    focus, held = coverage_rows(seeds)
    plot(rows, FOLDER / "streaming_memory.svg")
    page = PAGE.format(
        frames=FRAMES,
        bound=BOUND,
        seeds=seeds,
        focus=focus,
        held=held,
        total=HOURS * 3600,
        patches=LONG_PATCHES,
        dim=LONG_DIM,
        long_bound=LONG_BOUND,
        state=max(rows["state"]),
        early=rows["resident"][hour - 1],
        late=rows["resident"][-1],
        all=HOURS * 3600 * LONG_PATCHES * LONG_DIM * 4 / 2**20,
        first=mean(rows["milliseconds"][:hour]),
        last=mean(rows["milliseconds"][-hour:]),
        cost_bound=COST_BOUND,
        inside=cost["inside"],
        beyond=cost["beyond"],
        slowest=cost["slowest"],
        first_question=cost["question 1"],
        second_question=cost["question 2"],
        offline=cost["offline"],
    )
    replace_file(FOLDER / "streaming.md", lambda path: Path(path).write_text(page))
    print(page)


if __name__ == "__main__":
    main()
