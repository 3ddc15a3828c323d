"""Third-party warnings are let through by name; nothing is looked for on the network.

Without lmms_eval its tests skip, but not where they are what was asked for.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

THIRD_PARTY = (
    "ignore:.*:DeprecationWarning:transformers.*",
    "ignore:.*:FutureWarning:transformers.*",
    "ignore:.*:DeprecationWarning:timm.*",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)
    if config.option.markexpr.startswith("lmms_eval") and find_spec("lmms_eval") is None:
        raise pytest.UsageError("-m lmms_eval: expected lmms_eval in this environment, found none. See the Makefile.")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lmms_eval") and find_spec("lmms_eval") is None:
        pytest.skip("needs lmms_eval")
