"""The code of docs/guides/streaming.md runs as printed and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "streaming.md"


def test_the_guide_prints_what_it_says(capsys):
    names: dict[str, object] = {}
    steps = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(steps) == GUIDE.read_text().count("```python") >= 4
    for code, printed in steps:
        exec(compile(code, str(GUIDE), "exec"), names)
        assert capsys.readouterr().out == printed
