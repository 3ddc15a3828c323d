"""Host × property, from what the tests of this run found."""

from __future__ import annotations

import os
import tempfile

FOUND: dict[str, dict[str, str]] = {}
SIGNS = {"passed": "yes", "skipped": "–", "failed": "**no**"}
WORST = ("skipped", "passed", "failed")


def note(name: str, host: str, outcome: str) -> None:
    """Several tests may show one property: it holds where all of them passed."""
    row = FOUND.setdefault(name, {})
    row[host] = max(row.get(host, outcome), outcome, key=WORST.index)


def render(hosts: list[str]) -> str:
    """The table, in Markdown."""
    import torch
    import transformers

    lines = [
        "# Hosts",
        "",
        "Written by the tests: `DYNFOCUS_HOSTS_TABLE=docs/results/hosts.md pytest tests/integration/transformers`.",
        f"Tiny hosts with random weights, CPU, float32, transformers {transformers.__version__}, torch "
        f"{torch.__version__.split('+')[0]}. “–”: does not apply to the host.",
        "",
        "| | " + " | ".join(hosts) + " |",
        "|---" * (len(hosts) + 1) + "|",
    ]
    for name, row in FOUND.items():
        lines.append(f"| {name} | " + " | ".join(SIGNS.get(row.get(host, ""), "") for host in hosts) + " |")
    return "\n".join(lines) + "\n"


def write(path: str, hosts: list[str]) -> None:
    """All or nothing."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    handle, part = tempfile.mkstemp(dir=os.path.dirname(path) or ".", suffix=".part")
    with os.fdopen(handle, "w") as file:
        file.write(render(hosts))
    os.chmod(part, 0o644)
    os.replace(part, path)
