"""One thread, uninitialised memory full of NaN, the same hypothesis examples in CI on every run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch

import dynfocus_connector
from dynfocus_connector.kernels import has_triton

hypothesis.settings.register_profile("local", deadline=None, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


class EverywhereFixtures:
    """Fixtures for doctests of the packages too, which lie outside of this folder."""

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Kernels have no doctests to be found where there is no Triton to import."""
        return True if collection_path.parent.name == "kernels" and not has_triton() else None

    @pytest.fixture(autouse=True)
    def names(self, doctest_namespace: dict) -> None:
        doctest_namespace["torch"] = torch
        for name, value in vars(dynfocus_connector).items():
            if not name.startswith("_") and not isinstance(value, ModuleType):
                doctest_namespace.setdefault(name, value)

    @pytest.fixture(autouse=True)
    def reproducible(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Seeded; `torch.empty` full of NaN, except where a compiler or a GPU has its own ideas."""
        torch.manual_seed(0)
        free = any(request.node.get_closest_marker(name) for name in ("compile", "gpu", "browser"))
        torch.use_deterministic_algorithms(not free)
        torch.utils.deterministic.fill_uninitialized_memory = True
        yield
        torch.use_deterministic_algorithms(False)


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    config.pluginmanager.register(EverywhereFixtures(), "everywhere")
