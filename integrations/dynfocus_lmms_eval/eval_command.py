"""`dynfocus eval TABLE`: one table of the paper, the baseline first, then ours."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

TABLE_NAMES = ("1", "2", "3", "4", "5", "14")


def add(subparsers: Any) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "eval",
        help="fill a table of the paper with lmms-eval: the baseline, then ours",
        description="Run the tasks of one of the paper's tables with lmms-eval, first without the connector, then with "
        "it, and print the table's own columns beside the paper's numbers. Missing judges and data are said first.",
    )
    parser.add_argument("table", choices=TABLE_NAMES, help="the number of the table")
    parser.add_argument(
        "model_args", help="as in `lmms-eval --model dynfocus --model_args`, such as pretrained=DIR,max_tokens=2048"
    )
    parser.add_argument("--baseline", metavar="ARGS", help="model_args of the baseline (default: ours, connector=none)")
    parser.add_argument(
        "--only", choices=("baseline", "ours"), help="run one of them; the other may lie in --out already"
    )
    parser.add_argument("--limit", metavar="N", help="passed on to lmms-eval: the first N documents of every task")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="one per GPU (default 1)")
    parser.add_argument("--device", help="such as cuda (one process)")
    parser.add_argument("--out", type=Path, default=Path("eval"), help="results, samples and cache (default: eval)")
    parser.add_argument("--dry-run", action="store_true", help="check, print the commands, run nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, run, print; 1 where a run left no results."""
    from dynfocus_lmms_eval.data import missing
    from dynfocus_lmms_eval.evaluating import Plan, check, evaluate, outcome
    from dynfocus_lmms_eval.printing import render
    from dynfocus_lmms_eval.tables import table

    os.environ.setdefault("HF_HOME", str(Path("~/.cache/huggingface").expanduser()))
    wanted, work = table(arguments.table), Path.cwd()
    plans = [Plan.build(wanted, frames, arm, arguments) for frames in wanted.frames for arm in ("baseline", "ours")]
    check(wanted, missing(wanted.tasks, work))
    for plan in plans:
        if arguments.only in (None, plan.arm):
            print("$", plan.shown(), flush=True)
            if not arguments.dry_run:
                evaluate(plan, work)
    if arguments.dry_run:
        return 0
    found = {(plan.frames, plan.arm): outcome(plan, work) for plan in plans}
    sys.stdout.write(render(wanted, found, arguments.limit))
    expected = [key for key in found if arguments.only in (None, key[1])]
    return int(any(found[key] is None for key in expected))
