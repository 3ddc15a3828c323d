"""The script and the DeepSpeed configuration that docs/guides/train_host.md prints."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "train_host.md"


def block(language: str) -> str:
    """The only block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return found


def write_script(folder: Path) -> Path:
    """The script as a file, the configuration beside it."""
    (folder / "zero2.json").write_text(block("json"))
    path = folder / "train_host.py"
    path.write_text(block("python"))
    return path


def load_script(path: Path) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
