"""The script of docs/guides/train_host.md learns: the connector alone, then the language model with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from dynfocus_connector.baselines import build_baseline
from dynfocus_transformers import DynFocusForConditionalGeneration, attach, set_trainable
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.guide import load_script, write_script
from tests.integration.transformers.tiny import HOSTS, Tiny

pytest.importorskip("accelerate")
REPOSITORY = Path(__file__).parents[3]
FLAT = {"estimator.score.regress.4.bias"}
"""min–max normalisation cancels it: its gradient is zero in exact arithmetic"""


class Run(NamedTuple):
    """Stage 1 as the guide runs it."""

    script: ModuleType
    folder: Path
    model: Any
    losses: list[float]


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def beginning(script: ModuleType) -> Any:
    """Host and connector as `main` makes them."""
    set_seed(0)
    host = script.load_host()
    return attach(host, script.new_connector(script.WIDTH), ratio=0.4)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("train_host")
    script = load_script(write_script(folder))
    trainer = script.main(["--output", str(folder / "run")])
    return Run(script, folder / "run", trainer.model.cpu(), losses(trainer))


def test_the_connector_learns_what_a_frozen_random_host_cannot_say(stage1: Run) -> None:
    script, held_out = stage1.script, stage1.script.PlantedColour(128, seed=2)
    first = beginning(script)
    assert script.accuracy(first, held_out) < 0.45
    assert script.accuracy(stage1.model, held_out) > 0.9
    for name, parameter in first.named_parameters():
        same = torch.equal(parameter, stage1.model.get_parameter(name))
        assert same != name.startswith("dynfocus.") or name.removeprefix("dynfocus.") in FLAT, name


def test_the_answer_is_in_the_video(stage1: Run) -> None:
    blind = stage1.script.PlantedColour(128, seed=2)
    blind.pixels = stage1.script.PlantedColour(128, seed=3).pixels
    assert stage1.script.accuracy(stage1.model, blind) < 0.45


def test_a_fresh_attach_reads_the_connector(stage1: Run) -> None:
    script, held_out = stage1.script, stage1.script.PlantedColour(8, seed=2)
    set_seed(0)
    fresh = attach(script.load_host(), stage1.folder, ratio=0.4).eval()
    batch = script.collate(list(held_out))
    with torch.no_grad():
        assert torch.equal(fresh(**batch).logits, stage1.model.eval()(**batch).logits)


def test_the_checkpoint_holds_host_and_connector(stage1: Run) -> None:
    checkpoint = stage1.folder / "checkpoint-60"
    whole, alone = load_file(checkpoint / "model.safetensors"), load_file(checkpoint / "dynfocus" / "model.safetensors")
    state = stage1.model.dynfocus.state_dict()
    assert alone.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(alone[name], value), name
        assert torch.equal(whole[f"dynfocus.{name}"], value), name


def test_stage_2_goes_on_with_the_language_model(stage1: Run, tmp_path: Path) -> None:
    script = stage1.script
    options = ["--stage", "2", "--connector", str(stage1.folder), "--output", str(tmp_path)]
    trainer = script.main([*options, "--steps", "40", "--learning-rate", "3e-3"])
    assert losses(trainer)[-1] < 0.5 * stage1.losses[-1]
    assert script.accuracy(trainer.model, script.PlantedColour(128, seed=2)) > 0.9
    for name, parameter in stage1.model.named_parameters():
        frozen = "vision_tower" in name or "multi_modal_projector" in name or name == "model.image_newline"
        unasked = name.endswith("norm.bias") or name.removeprefix("dynfocus.") in FLAT
        assert unasked or torch.equal(parameter, trainer.model.get_parameter(name)) == frozen, name


@pytest.mark.proves("two stages: connector, then language model")
def test_what_trains(tiny: Tiny, host: Any) -> None:
    attach(host, trained(), ratio=0.4)
    own = {f"dynfocus.{name}" for name, _ in host.dynfocus.named_parameters()}
    parts = [".language_model.", ".text_model.", "lm_head."]
    language = {name for name, _ in host.named_parameters() if any(part in f".{name}" for part in parts)} - own
    language -= {name for name in language if "vision" in name}
    assert set(set_trainable(host)) == own
    assert {name for name, p in host.named_parameters() if p.requires_grad} == own
    assert set(set_trainable(host, language_model=True)) == own | language
    assert len(language) > 20
    assert set(set_trainable(host)) == own


def test_the_composite_trains_alike() -> None:
    model = DynFocusForConditionalGeneration.from_parts(HOSTS["qwen2_5_vl"].model(), trained())
    names = set_trainable(model)
    assert names == [f"host.dynfocus.{name}" for name, _ in model.host.dynfocus.named_parameters()]
    assert len(set_trainable(model, language_model=True)) > len(names)


def test_nothing_to_train() -> None:
    host = HOSTS["llava_onevision"].model()
    with pytest.raises(ValueError, match=r"set_trainable: .*got a plain LlavaOnevisionForCond.*Attach one first"):
        set_trainable(host)
    assert all(parameter.requires_grad for parameter in host.parameters())
    for connector in (training_free(), build_baseline("keep_all", training_free().config)):
        attach(host, connector)
        with pytest.raises(
            ValueError, match=rf"set_trainable: .*with parameters, got a {type(connector).__name__} with"
        ):
            set_trainable(host)
        assert all(parameter.requires_grad for parameter in host.parameters())
        assert set_trainable(host, language_model=True)
        host.requires_grad_(True)
        host.__exit__()


def test_zero_2_with_two_processes(tmp_path: Path) -> None:
    """Once as the guide runs it, once where one process sees a video and the other only text."""
    pytest.importorskip("deepspeed")
    script = write_script(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "integrations")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    worker = Path(__file__).with_name("zero_worker.py")
    done = subprocess.run(
        [*command, str(worker), str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    first = beginning(load_script(script)).dynfocus.state_dict()
    for name in ("plain", "mixed"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["world_size"] == 2
        assert found["zero_stage"] == 2
        assert found["agree"]
        assert found["losses"][-1] < 0.9 * found["losses"][0]
        state = load_file(tmp_path / name / "checkpoint-20" / "dynfocus" / "model.safetensors")
        whole = load_file(tmp_path / name / "checkpoint-20" / "model.safetensors")
        assert state.keys() == first.keys()
        for key, value in state.items():
            assert key in FLAT or not torch.equal(value, first[key]), key
            assert torch.equal(whole[f"dynfocus.{key}"], value), key
