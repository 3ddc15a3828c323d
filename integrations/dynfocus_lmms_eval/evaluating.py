"""One run of lmms-eval: its command line, and what it left."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.columns import Outcome
from dynfocus_lmms_eval.data import documents
from dynfocus_lmms_eval.fingerprint import fingerprint
from dynfocus_lmms_eval.judge import judge_problem
from dynfocus_lmms_eval.manifest import NAME, TASKS
from dynfocus_lmms_eval.tables import Table


class Plan(NamedTuple):
    """One run that a table needs."""

    arm: str
    """"baseline" or "ours" """
    frames: int | None
    command: list[str]
    out: Path
    tasks: tuple[str, ...]

    @staticmethod
    def build(table: Table, frames: int | None, arm: str, options: argparse.Namespace) -> Plan:
        """The run of an arm: the same tasks, frames and lmms-eval for both; the weights' fingerprint in the arguments.

        Raises:
            ValueError: model arguments that make no sense.
        """
        model = model_arguments(options.model_args)
        if arm == "baseline":
            model = without_connector(model) if options.baseline is None else model_arguments(options.baseline)
        pace: dict[str, Any] = {"fps": None, "frames": frames} if frames is not None else {"fps": model.fps or 1.0}
        model = dataclasses.replace(model, **pace)
        model = dataclasses.replace(model, weights=fingerprint(model))
        out = Path(options.out).absolute() / f"table-{table.name}" / (f"{frames}-frames" if frames else "by-fps") / arm
        launcher = [sys.executable, "-m", "lmms_eval"]
        if options.processes > 1:
            alone = ["--standalone", "--nproc_per_node", str(options.processes)]
            launcher = [sys.executable, "-m", "torch.distributed.run", *alone, "-m", "lmms_eval"]
        command = [*launcher, "--model", NAME, "--model_args", written(model), "--tasks", ",".join(table.tasks)]
        command += ["--include_path", str(TASKS), "--batch_size", str(options.batch_size), "--log_samples"]
        command += ["--output_path", str(out), "--use_cache", str(out / "cache"), "--verbosity", "DEBUG"]
        command += ["--limit", str(options.limit)] if options.limit is not None else []
        command += ["--device", options.device] if options.device is not None else []
        return Plan(arm, frames, command, out, table.tasks)

    def shown(self) -> str:
        """The command, for a shell."""
        return shlex.join(["python", *self.command[1:]])


def model_arguments(text: str) -> ModelArguments:
    """The arguments of a comma-separated list, read as lmms-eval reads it.

    Raises:
        ValueError: unknown arguments, or a piece without "=".

    Example:
        >>> model_arguments("pretrained=planted,max_tokens=77").max_tokens
        77
    """
    if any("=" not in piece for piece in text.split(",")):
        raise ValueError(f"model_args: expected name=value, separated by commas, got {text!r}.")
    pairs = [piece.split("=", 1) for piece in text.split(",")]
    return ModelArguments.parse(**{name.strip(): _value(value.strip()) for name, value in pairs})


def _value(text: str) -> Any:
    """Numbers as numbers."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def without_connector(model: ModelArguments) -> ModelArguments:
    """The same host with every token."""
    return dataclasses.replace(model, connector="none", max_tokens=None, scorer=None)


def written(model: ModelArguments) -> str:
    """The arguments as lmms-eval takes them; defaults are left out."""
    fields = {field.name: field.default for field in dataclasses.fields(model)}
    given = {name: getattr(model, name) for name in fields if getattr(model, name) != fields[name]}
    return ",".join(f"{name}={value}" for name, value in given.items())


def check(table: Table, problems: Sequence[str]) -> None:
    """Say what is missing before anything runs.

    Raises:
        ValueError: a judge or data that is missing.
    """
    judge = judge_problem() if table.judged else None
    found = [*problems, *([f"a judge: {judge}"] if judge else [])]
    if find_spec("lmms_eval") is None:
        found.append("lmms_eval: it is not installed; run pip install 'dynfocus-connector[lmms-eval]'")
    if found:
        raise ValueError(f"eval: expected all that table {table.name} needs, got nothing for: " + "; ".join(found))


def evaluate(plan: Plan, work: Path) -> None:
    """Run lmms-eval; its output goes to log.txt beside the results. Its exit status says nothing about success."""
    for old in [*plan.out.rglob("*_results.json"), *plan.out.rglob("*_samples_*.jsonl")]:
        old.unlink()
    plan.out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LMMS_CACHE_RUN_ID": "table"}
    with (plan.out / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(plan.command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if not list(plan.out.rglob("*_results.json")):
        last = (plan.out / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        print(f"no results: {' '.join(last)} (see {plan.out / 'log.txt'})", file=sys.stderr, flush=True)


def outcome(plan: Plan, work: Path) -> Outcome | None:
    """What a run left, or None where it left no results."""
    found = sorted(plan.out.rglob("*_results.json"))
    if not found:
        return None
    samples = {
        path.stem.partition("_samples_")[2]: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in found[-1].parent.glob("*_samples_*.jsonl")
    }
    return Outcome(json.loads(found[-1].read_text("utf-8")), samples, documents(plan.tasks, work))
