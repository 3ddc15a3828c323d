"""Every test runs on every host; what held goes into a table where DYNFOCUS_HOSTS_TABLE names a file."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

from dynfocus_transformers.adapters import REGISTRY
from tests.integration.transformers.table import Cell, Table, properties
from tests.integration.transformers.tiny import HOSTS, Tiny, installed

FOUND = Table(list(HOSTS))

THIRD_PARTY = (
    "ignore:.*:DeprecationWarning:transformers.*",
    "ignore:.*:DeprecationWarning:peft.*",
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",  # peft asks by this name
    "ignore:.*pin_memory.*:UserWarning",
    "ignore:.*use_reentrant.*:UserWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proves(name): the property of a host that this test shows")
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    mark = item.get_closest_marker("proves")
    tiny = getattr(item, "callspec", None) and item.callspec.params.get("tiny")
    if mark and isinstance(tiny, Tiny) and (report.when == "call" or report.outcome != "passed"):
        FOUND.note(mark.args[0], tiny.name, Cell.read(report))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = os.environ.get("DYNFOCUS_HOSTS_TABLE")
    if not path:
        return
    try:
        FOUND.write(path, properties(Path(__file__).parent))
    except ValueError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(params=HOSTS.values(), ids=HOSTS.keys())
def tiny(request: pytest.FixtureRequest) -> Tiny:
    oldest = REGISTRY[request.param.name].oldest
    if not installed(oldest):
        pytest.skip(f"needs transformers {oldest}")
    return request.param


@pytest.fixture(scope="session")
def built() -> dict[str, Any]:
    return {}


@pytest.fixture
def host(tiny: Tiny, built: dict[str, Any]) -> Any:
    if tiny.name not in built:
        built[tiny.name] = tiny.model()
    return copy.deepcopy(built[tiny.name])
