"""Tiny models and batches for the reference model's tests; third-party warnings are let through by name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")
pytest.importorskip("timm")

THIRD_PARTY = (
    "ignore:.*:DeprecationWarning:timm.*",
    "ignore:.*:DeprecationWarning:transformers.*",
    "ignore:.*:FutureWarning:transformers.*",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture
def model() -> Any:
    from dynfocus_reference import ReferenceModel, preset

    return ReferenceModel(preset("tiny")).eval()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 2, 5, 8 and 11 seconds."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_video(folder / f"{number}.mp4", seconds=2 + 3 * number, seed=number)
    return folder


@pytest.fixture
def mixed(clips: Path, tmp_path: Path) -> Path:
    """The file of a run on four videos and four texts."""
    from .runs import mixture, write_run

    return write_run(tmp_path, mixture(clips))


def visual_inputs(lengths: Sequence[int], size: int = 64) -> dict[str, torch.Tensor]:
    """Random clips with a random question each."""
    return {
        "frames": torch.randn(sum(lengths), 3, size, size),
        "clip_lengths": torch.tensor(lengths),
        "question_ids": torch.randint(3, 100, (len(lengths), 6)),
        "question_mask": torch.ones(len(lengths), 6, dtype=torch.bool),
    }


def video_batch(lengths: Sequence[int], labels: bool = True) -> dict[str, torch.Tensor]:
    """One sample per clip: <s> video a b c d."""
    ids = torch.tensor([[1, -200, 5, 6, 7 + i] for i in range(len(lengths))])
    batch = {"input_ids": ids, **visual_inputs(lengths)}
    return {**batch, "labels": torch.where(ids > 4, ids, -100)} if labels else batch


def run_verb(*arguments: str) -> int:
    """`dynfocus VERB ...`, without the installed entry points."""
    from dynfocus_reference import commands

    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for name in dir(commands):
        if name.startswith("add_"):
            getattr(commands, name)(subparsers)
    parsed = parser.parse_args(list(arguments))
    return parsed.run(parsed)


def talk(*values: str, **shown: str) -> dict[str, Any]:
    """A record of human and gpt turns."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"id": "0", **shown, "conversations": turns}


def write_video(path: Any, seconds: int = 5, seed: int = 0, size: int = 64) -> None:
    """A clip at 4 frames per second whose colour changes every second."""
    import av
    import numpy as np

    random = np.random.default_rng(seed)
    colours = random.integers(0, 255, (seconds, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "18"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for t in range(4 * seconds):
            picture = np.broadcast_to(colours[t // 4].astype(np.uint8), (size, size, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
