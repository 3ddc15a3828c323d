"""Which parts of the reference model train, and the mode of those that do not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from dynfocus_connector import DynFocusConnector
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.rotary import restore_rotary
from dynfocus_reference.vision import VisionTower


class FrozenParts(nn.Module):
    """What `ReferenceModel` knows of training: the tower never does, every other part as it is told."""

    vision: VisionTower
    qformer: QuestionFormer
    connector: DynFocusConnector
    language_model: Any

    def set_trainable(self, patterns: Iterable[str]) -> list[str]:
        """Train the parameters whose name begins with one of the regular expressions, freeze all others.

        Returns:
            The names of the parameters that train.

        Raises:
            ValueError: a pattern that fits no parameter, or one that would train the vision tower.
        """
        patterns = list(patterns)
        names = [name for name, _ in self.named_parameters()]
        lost = [pattern for pattern in patterns if not any(re.match(pattern, name) for name in names)]
        if lost:
            raise ValueError(f"ReferenceModel.set_trainable: expected patterns that fit a parameter, got {lost}.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(re.match(pattern, name) for pattern in patterns))
        if any(parameter.requires_grad for parameter in self.vision.parameters()):
            raise ValueError(f"ReferenceModel.set_trainable: expected a frozen vision tower, got {patterns}.")
        self.train(self.training)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> FrozenParts:
        """Training mode for the parts that train; frozen parts stay in evaluation mode (no dropout, hard Top-K).

        Layers of a frozen language model keep their own flag, because transformers checkpoints gradients by it.
        """
        super().train(mode)
        parts = (self.vision, self.qformer, *self.connector.children(), self.language_model)
        for part in parts:
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        for module in self.language_model.modules():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                module.training = mode
        return self

    def checkpoint_activations(self) -> None:
        """Recompute the language model's activations in the backward instead of keeping them."""
        enable: Any = getattr(self, "activation_checkpointing_enable", None) or self.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.train(self.training)

    def restore_rotary(self) -> int:
        """As `rotary.restore_rotary`, for the language model."""
        return restore_rotary(self.language_model)
