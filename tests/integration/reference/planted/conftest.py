"""A few stories and the study's model with random weights."""

from __future__ import annotations

import pytest

from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.recipe import planted_model, planted_processor
from dynfocus_reference.planted.world import write_story


@pytest.fixture(scope="session")
def few():
    """Six stories as a random tower sees them."""
    return Memory(planted_model(0), [write_story(number) for number in range(6)])


@pytest.fixture(scope="session")
def processor():
    return planted_processor()
