"""The complete DynFocus system: EVA-CLIP ViT-g, InstructBLIP Q-Former, Vicuna-7B, and the connector between them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynfocus_reference.chat import Conversation as Conversation
    from dynfocus_reference.config import ReferenceConfig as ReferenceConfig
    from dynfocus_reference.config import preset as preset
    from dynfocus_reference.model import ReferenceModel as ReferenceModel
    from dynfocus_reference.processing import ReferenceProcessor as ReferenceProcessor
    from dynfocus_reference.vision import VisionTower as VisionTower

_HOMES = {
    "Conversation": "chat",
    "ReferenceConfig": "config",
    "preset": "config",
    "ReferenceModel": "model",
    "ReferenceProcessor": "processing",
    "VisionTower": "vision",
}
__all__ = ["Conversation", "ReferenceConfig", "ReferenceModel", "ReferenceProcessor", "VisionTower", "preset"]


def __getattr__(name: str) -> Any:
    """Public names, imported when first asked for: the command line starts without transformers and timm."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
