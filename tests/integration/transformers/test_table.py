"""The page docs/results/hosts.md says what was run, and a part of a run does not overwrite it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.transformers.table import Cell, Table, properties

HOSTS = ["one", "two"]


def skipped(reason: str) -> Any:
    return SimpleNamespace(outcome="skipped", longrepr=("test.py", 1, f"Skipped: {reason}"))


def table(*cells: tuple[str, str, Any]) -> Table:
    found = Table(HOSTS)
    for name, host, report in cells:
        found.note(name, host, Cell.read(report))
    return found


PASSED, FAILED = SimpleNamespace(outcome="passed"), SimpleNamespace(outcome="failed")


def test_what_a_cell_says() -> None:
    text = table(
        ("a", "one", PASSED),
        ("a", "one", skipped("does not apply: no such thing")),
        ("a", "two", skipped("does not apply: no such thing")),
        ("b", "one", skipped("needs transformers 9")),
        ("b", "one", PASSED),
        ("b", "two", PASSED),
        ("b", "two", FAILED),
        ("b", "two", PASSED),
    ).render()
    assert "\n| a | yes | – |\n| b | not run: needs transformers 9 | **no** |\n" in text
    assert text.endswith("\n\n- a: no such thing (two).\n")


@pytest.mark.parametrize(
    ("cells", "missing"),
    [
        ([("a", "one", PASSED), ("a", "two", PASSED)], "b"),
        ([("a", "one", PASSED), ("a", "two", PASSED), ("b", "one", PASSED)], "b"),
        ([], "a"),
    ],
)
def test_a_part_of_a_run_leaves_the_page(cells: list, missing: str, tmp_path: Path) -> None:
    page = tmp_path / "hosts.md"
    page.write_text("as it was")
    with pytest.raises(ValueError, match=rf"expected a run of all 2 properties on all 2 hosts.*\('{missing}' is one\)"):
        table(*cells).write(str(page), ["a", "b"])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["as it was"]


def test_a_whole_run_is_written(tmp_path: Path) -> None:
    cells = [(name, host, PASSED) for name in ("a", "b") for host in HOSTS]
    table(*cells).write(str(tmp_path / "new" / "hosts.md"), ["a", "b"])
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["hosts.md"]
    assert "| b | yes | yes |\n" in (tmp_path / "new" / "hosts.md").read_text()


def test_properties_are_those_of_the_marks(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text('@pytest.mark.proves("x")\ndef test(): ...\n@pytest.mark.proves("a (b)")\n')
    assert properties(tmp_path) == ["a (b)", "x"]
    assert len(properties(Path(__file__).parent)) > 40
