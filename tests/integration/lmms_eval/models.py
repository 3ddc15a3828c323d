"""A folder of the study's model with random weights."""

from __future__ import annotations

from pathlib import Path


def save_random(folder: Path) -> Path:
    """A model that answers something, always the same."""
    import torch

    from dynfocus_reference import ReferenceModel
    from dynfocus_reference.planted.recipe import planted_config, planted_processor

    torch.manual_seed(0)
    ReferenceModel(planted_config()).save_pretrained(folder)
    planted_processor().save_pretrained(folder)
    return folder
