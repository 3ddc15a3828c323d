"""What is declared, what the root holds, what the wheel contains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
ASKED_FOR = {"torch", "einops", "transformers", "lmms-eval", "timm", "decord", "deepspeed", "hypothesis", "pytest"}
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "README.md",
    "docs",
    "dynfocus_connector",
    "integrations",
    "pyproject.toml",
    "reference_model",
    "tests",
}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def package_name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_all_packages_are_declared(project: dict) -> None:
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    declared = {package_name(requirement) for group in groups for requirement in group}
    assert declared >= ASKED_FOR


def test_the_core_needs_no_host(project: dict) -> None:
    core = {package_name(requirement) for requirement in project["project"]["dependencies"]}
    assert core == {"torch", "einops", "jaxtyping", "numpy", "safetensors", "huggingface-hub"}


def test_every_requirement_has_a_lower_bound(project: dict) -> None:
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    for requirement in (r for group in groups for r in group):
        assert ">=" in requirement or requirement.startswith("dynfocus-connector["), requirement


def test_the_root_holds_what_was_agreed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path, project: dict) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    expected = {Path(path).name for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    folders = [ROOT, ROOT / "integrations", ROOT / "reference_model"]
    present = {path.parent.name for folder in folders for path in folder.glob("dynfocus_*/__init__.py")}
    assert tops == expected == present
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = str(path.relative_to((ROOT / package).parent))
                assert inside in names, f"{inside} is missing from the wheel"


def test_the_installed_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = "import dynfocus_connector, dynfocus_llava, dynfocus_video; print(dynfocus_connector.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(str(target))
