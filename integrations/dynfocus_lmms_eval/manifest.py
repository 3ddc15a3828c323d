"""The entry point of lmms-eval. It runs at every `import lmms_eval.models`: light, and silent whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "dynfocus"
TASKS = Path(__file__).parent / "tasks"


def manifest() -> Any:
    """What lmms-eval has to know; nothing, where its registry is another than the one we know.

    Tasks have no entry point of their own: a command line of lmms-eval that names our model and no folder of tasks gets
    ours, so that `lmms-eval --model dynfocus --tasks planted` finds it. Other command lines are left alone.
    """
    try:
        from lmms_eval.models.registry_v2 import ModelManifest

        offer_tasks(sys.argv)
        return ModelManifest(model_id=NAME, simple_class_path="dynfocus_lmms_eval.model.DynFocus")
    except Exception:  # an error here would take every other model of the process away
        return []


def offer_tasks(arguments: list[str]) -> None:
    """Name our folder of tasks in a command line of lmms-eval that runs our model.

    Example:
        >>> arguments = ["/usr/bin/lmms-eval", "--model", "dynfocus", "--tasks", "planted"]
        >>> offer_tasks(arguments)
        >>> arguments[-2]
        '--include_path'
    """
    if (
        _is_lmms_eval(arguments)
        and _value(arguments, "--model") == NAME
        and _value(arguments, "--include_path") is None
    ):
        arguments += ["--include_path", str(TASKS)]


def _is_lmms_eval(arguments: Sequence[str]) -> bool:
    program = Path(arguments[0]) if arguments else Path()
    return program.name in ("lmms-eval", "lmms_eval") or program.parent.name == "lmms_eval"


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What follows an option, in either spelling."""
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None
