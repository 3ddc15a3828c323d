"""The rows of `dynfocus cost` as a page."""

from __future__ import annotations

from collections.abc import Sequence

from dynfocus_reference.cost.row import ANSWER, PROMPT, QUESTION, Case, Cost, config_of
from dynfocus_reference.model_info import build_on_meta
from dynfocus_reference.trainable import count_parameters

PARTS = ("tower", "Q-Former", "T-DPC", "Dyn. Select", "S-DPC", "Dyn. Enc.", "prefill")
NAMES = {"dynfocus": "DynFocus", "two_tokens": "2 per frame", "every_patch": "every patch"}
Rows = Sequence[tuple[Case, Cost | str]]

PAGE = """# What DPE and CCE cost

The questions of the paper's Tables 8–10, asked of this code: the reference model `{model}` ({parameters:,} parameters,
random weights, {dtype}) with DPE and CCE, and the same model without them: two tokens per frame (Table 8's
"w/o DPE + CCE"), or every patch of every frame. Measured on {hardware}.
Regenerate with `{command}`.
{kind}
## Until the first new token

Milliseconds, from pictures in memory to the first new token: {clock}, the fastest of {repeats}.

| T | arm | {parts} | all |
|--:|---|{rules}--:|
{times}

T-DPC finds the events, Dyn. Select pools, scores and chooses, S-DPC clusters the patches of every frame, Dyn. Enc. is
everything else between features and tokens (of an arm without DPE and CCE, all of it); a part within another counts
for itself alone. What is left of "all" normalises pictures, gathers and splices. The Q-Former is asked in every arm,
though "every patch" has no use for its answer. The prompt has {prompt} tokens, the question of the Q-Former {question}.

## Tokens, memory, training

| T | arm | visual tokens | all | peak memory | training step | its peak memory |
|--:|---|--:|--:|--:|--:|--:|
{sizes}

Peak memory is {memory}.
A training step is one forward and one backward of {answer} supervised tokens, with DPE, CCE, projector and language
model open, activations of the language model recomputed, without an optimiser.
{limits}"""

TWIN = """
No GPU was at hand: this is the CPU-sized twin of the measurement, with the small tower, Q-Former and language model of
the preset and the paper's numbers of events and prototypes. Its shares do not carry over to seven billion
parameters. On a GPU the same command measures `paper-7b` in bfloat16.
"""


def page(rows: Rows, hardware: str, command: str) -> str:
    """The whole page.

    Args:
        rows: What was measured, all of one model on one device.
        hardware: In words.
        command: Regenerates the page.
    """
    case = rows[0][0]
    gpu = case.device != "cpu"
    return PAGE.format(
        model=case.model,
        parameters=count_parameters(build_on_meta(config_of(case.model))),
        dtype=case.dtype,
        hardware=hardware,
        command=command,
        kind="" if gpu else TWIN,
        clock="wall-clock time" if gpu else "CPU time of one thread",
        repeats=case.repeats,
        parts=" | ".join(PARTS),
        rules="--:|" * len(PARTS),
        times="\n".join(_times(*row) for row in rows),
        prompt=PROMPT,
        question=QUESTION,
        sizes="\n".join(_sizes(*row) for row in rows),
        memory=_memory(rows),
        answer=ANSWER,
        limits=_limits(rows),
    )


def _line(case: Case, cells: Sequence[str]) -> str:
    return f"| {case.frames} | {NAMES[case.arm]} | {' | '.join(cells)} |"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:,.1f}"


def _times(case: Case, cost: Cost | str) -> str:
    if isinstance(cost, str):
        return _line(case, [*["–"] * len(PARTS), cost])
    return _line(case, [*(_milliseconds(cost.parts.get(part)) for part in PARTS), _milliseconds(cost.answer)])


def _sizes(case: Case, cost: Cost | str) -> str:
    if isinstance(cost, str):
        return _line(case, ["–", cost, "–", "–", "–"])
    peaks = [f"{peak / 1e9:.3f} GB" for peak in (cost.answer_peak, cost.step_peak)]
    times = [f"{_milliseconds(cost.answer)} ms", f"{_milliseconds(cost.step)} ms"]
    return _line(case, [f"{cost.tokens:,}", times[0], peaks[0], times[1], peaks[1]])


def _memory(rows: Rows) -> str:
    loaded = max((cost.loaded for _, cost in rows if isinstance(cost, Cost)), default=0) / 1e9
    if rows[0][0].device != "cpu":
        return f"what PyTorch held at most, the model's {loaded:.2f} GB included"
    return (
        f"what the process took at most until then, {loaded:.2f} GB of it before anything was computed; the training "
        f"step comes\nafter the answers"
    )


def _limits(rows: Rows) -> str:
    """What a reader must know about rows that are missing or beyond the language model's length."""
    case = rows[0][0]
    length = config_of(case.model).text_config.max_position_embeddings
    told = []
    if any(isinstance(cost, Cost) and cost.tokens + PROMPT > length for _, cost in rows):
        told.append(f"The language model was made for {length:,} positions; longer rows tell its cost alone.")
    if any(cost == "not run" for _, cost in rows):
        told.append("Rows that are not run have more visual tokens than `--max-tokens` allows.")
    return "\n" + "\n".join(told) + "\n" if told else ""
