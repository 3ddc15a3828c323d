"""The vision tower of a model without the rest of it."""

from __future__ import annotations

from transformers import set_seed

from dynfocus_reference.checkpoints import load_exactly, read_tensors
from dynfocus_reference.config import preset
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.model_info import build_on_meta, resolve_config
from dynfocus_reference.training.settings import RANDOM_PRESETS

VISION = "vision."


def tower_of(name: str, seed: int) -> ReferenceModel:
    """A model of which the tower alone is there, for `ReferenceModel.see`.

    Args:
        name: A model folder, or a preset that a run draws from its seed.
        seed: That seed.
    """
    if name in RANDOM_PRESETS:
        set_seed(seed)
        model = ReferenceModel(preset(name))
    else:
        model = build_on_meta(resolve_config(name))
        model.vision.to_empty(device="cpu")
        for module in model.vision.modules():
            model._init_weights(module)
        state = read_tensors(name, lambda key: key.removeprefix(VISION) if key.startswith(VISION) else None)
        load_exactly(model.vision, state, part="vision tower", source=name)
    return model
