"""Fig. 3 and B.7: L and r swept at evaluation, on the models of the main comparison."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch

from dynfocus_connector import DynamicPrototypeEstimator
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.arms import ARMS
from dynfocus_reference.planted.evaluation import evaluate
from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.questions import KINDS
from dynfocus_reference.planted.results import Key, Result, rounded
from dynfocus_reference.processing import ReferenceProcessor

PROTOTYPES = (10, 15, 20, 25, 30, 40, 55, 60)
RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)
LENGTHS = {32: 80, 128: 40, 512: 20}
"""stories at evaluation, by their frames"""
FOCUS, EVENTS = 0.2, 15
"""the ratio while L is swept, and L while the ratio is"""
SWEEP = [(count, FOCUS) for count in PROTOTYPES] + [(EVENTS, ratio) for ratio in RATIOS[1:]]


def setting_of(length: int) -> str:
    """The folder of results of one length."""
    return f"sweep{length}"


def arm_of(count: int, ratio: float) -> str:
    """The name of one point."""
    return f"L={count} r={ratio:g}"


def sweep_keys(length: int, seed: int) -> list[Key]:
    """Every point of one length."""
    return [Key(setting_of(length), arm_of(*point), seed) for point in SWEEP]


def set_selection(model: ReferenceModel, count: int, ratio: float) -> None:
    """Another L and another r for a trained model."""
    connector = model.connector
    estimator = cast(DynamicPrototypeEstimator, connector.estimator)
    estimator.num_prototypes, estimator.focus_ratio = count, ratio
    connector.config = dataclasses.replace(connector.config, num_prototypes=count, focus_ratio=ratio)


def sweep(trained: Path, memory: Memory, processor: ReferenceProcessor, seed: int, folder: Path) -> None:
    """Every point of one length that has no result, on one trained model."""
    model = ReferenceModel.from_pretrained(trained).to(torch.get_default_device())
    model.set_trainable([r"connector\."])
    for count, ratio in SWEEP:
        key = Key(setting_of(memory.length), arm_of(count, ratio), seed)
        if key.path(folder).is_file():
            continue
        set_selection(model, count, ratio)
        scores = evaluate(ARMS["dynfocus"], model, memory, processor, KINDS)
        kinds = {str(kind): rounded(score._asdict()) for kind, score in scores.items()}
        tokens = scores["salience"].tokens
        Result(key.setting, key.arm, seed, kinds, tokens, 0.0, 0, len(memory), memory.length).write(folder)
