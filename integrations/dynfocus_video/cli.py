"""The one command, `dynfocus <verb>`. Packages bring their verbs by the entry-point group `dynfocus.commands`.

An entry point of that group is a function `add(subparsers)` that adds a parser and sets its default `run`, a function
from the parsed arguments to an exit status. It should import nothing heavy before `run` is called.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "dynfocus.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: The arguments, without the name of the command; those of the process by default.

    Returns:
        0 when the job is done, 1 when it cannot be done, 2 for arguments that make no sense, 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
            return 1
        return _complain(_in_words(error), 1)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb that can be loaded; what cannot is named on stderr and left out."""
    parser = argparse.ArgumentParser(
        prog="dynfocus",
        description="Video tokens for language models: detail for the frames that matter, the gist of the rest.",
    )
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add_verb(subparsers, entry)
    for verb in subparsers.choices.values():
        if "--debug" not in verb.format_usage():
            verb.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _add_verb(subparsers: Any, entry: EntryPoint) -> None:
    try:
        entry.load()(subparsers)
    except (Exception, SystemExit) as error:
        owner = f" of {entry.dist.name}" if entry.dist is not None else ""
        _complain(f"warning: the verb {entry.name!r}{owner} cannot be loaded: {_in_words(error)}", 0)


def _in_words(error: BaseException) -> str:
    """Our own errors speak for themselves; a stranger's comes with its kind and a hint."""
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, FileNotFoundError, NotImplementedError)) and ": expected" in text:
        return text
    if isinstance(error, ModuleNotFoundError):
        return f"{text}. Run: pip install 'dynfocus-connector[video,transformers]'"
    return f"{type(error).__name__}: {text}. Run again with --debug to see where it comes from."


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"dynfocus: {text}\n")
    return status
