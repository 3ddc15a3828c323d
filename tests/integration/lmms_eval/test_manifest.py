"""The entry point is light, and silent whatever happens around it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from types import ModuleType

import pytest

from dynfocus_lmms_eval.manifest import TASKS, manifest, offer_tasks


def test_it_is_registered():
    (entry,) = [entry for entry in entry_points(group="lmms_eval.models") if entry.name == "dynfocus"]
    assert entry.value == "dynfocus_lmms_eval.manifest:manifest"


def test_it_imports_nothing_heavy():
    code = (
        "import sys, dynfocus_lmms_eval.manifest as m; m.manifest(); "
        "print([name for name in ('torch', 'transformers', 'numpy', 'av', 'datasets') if name in sys.modules])"
    )
    broken = "import sys; sys.modules['lmms_eval'] = None; "
    run = subprocess.run([sys.executable, "-c", broken + code], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


@pytest.mark.parametrize("registry", [None, ModuleType("lmms_eval.models.registry_v2")])
def test_it_never_raises(monkeypatch, registry):
    for name in ("lmms_eval", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    assert manifest() == []


@pytest.mark.parametrize("program", ["/usr/bin/lmms-eval", "/site-packages/lmms_eval/__main__.py"])
@pytest.mark.parametrize("model", [["--model", "dynfocus"], ["--model=dynfocus"]])
def test_our_tasks_are_offered_to_our_model(program, model):
    arguments = [program, *model, "--tasks", "planted"]
    offer_tasks(arguments)
    assert arguments[-2:] == ["--include_path", str(TASKS)]
    offer_tasks(arguments)
    assert arguments.count("--include_path") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-c"],
        ["/usr/bin/lmms-eval"],
        ["/usr/bin/lmms-eval", "--model", "llava_hf", "--tasks", "planted"],
        ["/usr/bin/pytest", "--model", "dynfocus"],
        ["/usr/bin/lmms-eval", "--model", "dynfocus", "--include_path", "mine"],
        ["/usr/bin/lmms-eval", "--model", "dynfocus", "--include_path=mine"],
        ["/usr/bin/lmms-eval", "--model"],
    ],
)
def test_other_command_lines_are_left_alone(arguments):
    before = list(arguments)
    offer_tasks(arguments)
    assert arguments == before
