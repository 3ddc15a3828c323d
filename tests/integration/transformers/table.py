"""Host × property, from what the tests of one whole run found."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

INAPPLICABLE = "does not apply: "
"""how the reason of a skip begins where the host has no such thing; any other skip is a test that was not run"""
SIGNS = {"does not apply": "–", "passed": "yes", "not run": "not run", "failed": "**no**"}
WORST = list(SIGNS)


class Cell(NamedTuple):
    """What became of one property of one host."""

    outcome: str
    reason: str = ""

    @classmethod
    def read(cls, report: Any) -> Cell:
        """From pytest's report of a test."""
        if report.outcome != "skipped":
            return cls(report.outcome)
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason.startswith(INAPPLICABLE):
            return cls("does not apply", reason.removeprefix(INAPPLICABLE))
        return cls("not run", reason)

    def __str__(self) -> str:
        return f"not run: {self.reason}" if self.outcome == "not run" else SIGNS[self.outcome]


class Table:
    """Several tests may show one property: it holds where all of them passed, or passed and did not apply."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self.rows: dict[str, dict[str, Cell]] = {}

    def note(self, name: str, host: str, cell: Cell) -> None:
        row = self.rows.setdefault(name, {})
        row[host] = max(row.get(host, cell), cell, key=lambda one: WORST.index(one.outcome))

    def missing(self, names: list[str]) -> list[str]:
        """The properties that this run did not look at on every host."""
        return [name for name in names if set(self.rows.get(name, {})) != set(self.hosts)]

    def render(self) -> str:
        """The table in Markdown, and under it what does not apply, and why."""
        import torch
        import transformers

        lines = [
            "# Hosts",
            "",
            "Written by the tests: `DYNFOCUS_HOSTS_TABLE=docs/results/hosts.md pytest tests/integration/transformers`.",
            f"Tiny hosts with random weights, CPU, float32, transformers {transformers.__version__}, torch "
            f"{torch.__version__.split('+')[0]}. “–”: does not apply to the host, for the reason below the table.",
            "",
            "| | " + " | ".join(self.hosts) + " |",
            "|---" * (len(self.hosts) + 1) + "|",
        ]
        for name, row in self.rows.items():
            lines.append(f"| {name} | " + " | ".join(str(row[host]) for host in self.hosts) + " |")
        return "\n".join([*lines, "", *self.reasons()]) + "\n"

    def reasons(self) -> list[str]:
        """One line per property and reason, with the hosts it goes for."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, row in self.rows.items():
            for host, cell in row.items():
                if cell.outcome == "does not apply":
                    found.setdefault((name, cell.reason), []).append(host)
        return [f"- {name}: {reason} ({', '.join(hosts)})." for (name, reason), hosts in found.items()]

    def write(self, path: str, names: list[str]) -> None:
        """All or nothing.

        Raises:
            ValueError: a run of only some properties or hosts; the page stays as it was.
        """
        missing = self.missing(names)
        if missing:
            raise ValueError(
                f"{path}: expected a run of all {len(names)} properties on all {len(self.hosts)} hosts, got one "
                f"without {len(missing)} of them ({missing[0]!r} is one); the page stays as it was. Run the whole "
                f"folder in one process: no -k, -m, -n or names of tests."
            )
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        handle, part = tempfile.mkstemp(dir=os.path.dirname(path) or ".", suffix=".part")
        with os.fdopen(handle, "w") as file:
            file.write(self.render())
        os.chmod(part, 0o644)
        os.replace(part, path)


def properties(folder: Path) -> list[str]:
    """Every property that the tests of a folder show, by their marks."""
    marks = (
        re.findall(r'^@pytest\.mark\.proves\("(.+)"\)$', file.read_text(), re.M) for file in folder.glob("test_*.py")
    )
    return sorted({name for names in marks for name in names})
