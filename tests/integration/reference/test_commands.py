import sys

import pytest

from dynfocus_reference import commands, train

from .runs import REPOSITORY

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
MODULE = "dynfocus_reference.commands"


def test_every_verb_is_registered():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["dynfocus.commands"]
    made = [name for name in dir(commands) if name.startswith("add_")]
    assert {verb: target for verb, target in declared.items() if target.startswith(f"{MODULE}:")} == {
        name.removeprefix("add_").replace("_", "-"): f"{MODULE}:{name}" for name in made
    }


@pytest.mark.parametrize("rank", ["--local_rank=1", "--local-rank=1"])
def test_launchers_may_add_a_rank(rank, capsys):
    assert train.main([rank, "stage1", "model=tiny", "--dry-run", "--gpus", "4"]) == 0
    assert "forwards per step and GPU" in capsys.readouterr().out
