"""Who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "dynfocus_connector"
FOREIGN = {"torch", "einops", "jaxtyping", "safetensors", "huggingface_hub"}
ADAPTERS = {
    path.name: path
    for shelf in ("integrations", "reference_model")
    for path in sorted((ROOT / shelf).glob("dynfocus_*"))
}
MAY_USE = {
    "dynfocus_video": {"dynfocus_connector"},
    "dynfocus_transformers": {"dynfocus_connector", "dynfocus_video"},
    "dynfocus_llava": {"dynfocus_connector", "dynfocus_video"},
    "dynfocus_lmms_eval": {"dynfocus_connector", "dynfocus_video"},
    "dynfocus_reference": {"dynfocus_connector", "dynfocus_video", "dynfocus_transformers"},
}
LAYERS = [
    {"choices", "distances", "evaluation", "merging", "checks", "redundancy", "saving", "smallest", "topk_samples"},
    {"tiled"},
    {"contracts", "config", "packing", "pooling", "projector", "peaks", "score", "topk_exchange", "topk_quadrature"},
    {"prototypes", "kmeans", "topk_gradients", "topk_gumbel", "anchors", "budget", "splicing", "stream_peaks"},
    {"events", "spatial", "topk", "stream_memory"},
    {"cones", "rods", "estimator", "pooled_baselines"},
    {"encoder", "event_baseline", "query_baseline"},
    {"connector"},
    {"baselines", "stream_answers"},
    {"streaming"},
    {"__init__"},
]


def imports(path: Path) -> set[str]:
    """Every module a file imports, lazily too, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def core_imports(name: str) -> set[str]:
    modules = {path.stem for path in CORE.glob("*.py")}
    parts = [module.split(".") for module in imports(CORE / f"{name}.py")]
    return {part[1] for part in parts if part[0] == "dynfocus_connector" and len(part) > 1 and part[1] in modules}


def test_every_module_has_a_layer():
    named = [name for layer in LAYERS for name in layer]
    assert len(named) == len(set(named))
    assert {path.stem for path in CORE.glob("*.py")} == set(named)


@pytest.mark.parametrize(
    ("name", "layer"),
    [(name, i) for i, layer in enumerate(LAYERS) for name in sorted(layer)],
)
def test_arrows_point_down(name, layer):
    below = set().union(*LAYERS[:layer])
    assert core_imports(name) <= below, sorted(core_imports(name) - below)


def test_splicing_needs_contracts_alone():
    assert core_imports("splicing") == {"contracts"}


@pytest.mark.parametrize("name", sorted(path.stem for path in CORE.glob("*.py")))
def test_the_core_needs_little(name):
    tops = {module.split(".")[0] for module in imports(CORE / f"{name}.py")}
    assert tops <= FOREIGN | {"dynfocus_connector"} | sys.stdlib_module_names


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_use_the_core_and_not_one_another(name):
    tops = {module.split(".")[0] for path in ADAPTERS[name].rglob("*.py") for module in imports(path)}
    ours = {top for top in tops if top.startswith("dynfocus_")} - {name}
    assert ours <= MAY_USE[name]


def test_mixins_import_no_code_base():
    tops = {module.split(".")[0] for path in ADAPTERS["dynfocus_llava"].glob("*.py") for module in imports(path)}
    assert tops <= {"dynfocus_connector", "dynfocus_llava", "torch", "jaxtyping"} | sys.stdlib_module_names


def test_importing_the_core_pulls_in_no_host():
    code = (
        "import sys, dynfocus_connector; "
        "print([name for name in ('transformers', 'timm', 'av', 'decord', 'torchvision') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
