"""Third-party warnings are let through by name; nothing is looked for on the network."""

from __future__ import annotations

import os

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
