"""Rotary frequencies that a cast of the whole model has rounded."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def restore_rotary(language_model: PreTrainedModel) -> int:
    """Make rotary frequencies float32 again where a cast of the whole model has rounded them; how many.

    DeepSpeed and `Module.to(dtype)` cast buffers too; in bfloat16 far positions could not be told apart.
    """
    rounded = [
        module
        for module in language_model.modules()
        if hasattr(module, "original_inv_freq") and module.inv_freq.dtype != torch.float32
    ]
    for module in rounded:
        for name in ("inv_freq", "original_inv_freq"):
            setattr(module, name, getattr(module, name).float())
        PreTrainedModel._init_weights(language_model, module)
    return len(rounded)
