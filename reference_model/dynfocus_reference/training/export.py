"""What a run leaves behind for others: a model folder, or the connector alone."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from dynfocus_connector import DynFocusConfig, DynFocusConnector, build_connector
from dynfocus_connector.saving import CONFIG_NAME
from dynfocus_reference.checkpoints import load_exactly, read_tensors
from dynfocus_reference.config import ReferenceConfig
from dynfocus_reference.lora import LoraOptions, merge
from dynfocus_reference.model_info import build_on_meta
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_reference.training.carry import find_trained
from dynfocus_reference.training.checkpoint import CONFIG_KEY, CONNECTOR, TRAINED_NAME, gather
from dynfocus_reference.training.room import ensure_empty, replace_folder
from dynfocus_reference.training.trainer import ReferenceTrainer


def export_model(
    trainer: ReferenceTrainer, processor: ReferenceProcessor, folder: Path, lora: LoraOptions | None = None
) -> None:
    """The whole model, adapters merged, as a folder for `ReferenceModel.from_pretrained`; every rank calls this."""
    writes = trainer.args.should_save
    state = gather(trainer.model, lambda name, parameter: True, keep=writes)

    def write(part: Path) -> None:
        trainer.model.save_pretrained(part, state_dict=state if lora is None else merge(state, lora))
        processor.save_pretrained(part)

    if writes:
        replace_folder(folder, write)
    trainer.accelerator.wait_for_everyone()


def export_connector(source: str | os.PathLike[str], folder: str | Path) -> DynFocusConnector:
    """The trained connector as a folder that `DynFocusConnector.from_pretrained` loads, whole or not at all.

    Args:
        source: A model folder, a run's output, or one of its checkpoints.
        folder: An empty or new one.

    Raises:
        FileNotFoundError: `source` is none of these.
        ValueError: weights that do not fit, or a folder with files in it.
    """
    config, state = read_connector(source)
    ensure_empty(folder, "export-connector")
    connector = build_connector(config, dtype=next(iter(state.values())).dtype).eval()
    load_exactly(connector, state, part="connector", source=source)
    connector.save_pretrained(folder)
    return connector


def read_connector(source: str | os.PathLike[str]) -> tuple[DynFocusConfig, dict[str, Tensor]]:
    """The connector's configuration and weights in a model folder, a run's output or a checkpoint."""
    if (Path(source) / CONFIG_NAME).is_file():
        _expect_reference_model(Path(source) / CONFIG_NAME)
        config = build_on_meta(ReferenceConfig.from_pretrained(source)).connector.config
        return config, read_tensors(source, _own_name)
    trained = _trained(source)
    with safe_open(trained, framework="pt") as file:
        header = file.metadata() or {}
        if CONFIG_KEY not in header:
            raise ValueError(
                f"export-connector: expected {TRAINED_NAME} of `dynfocus train`, got one without the connector's "
                f"configuration: {str(trained)!r}."
            )
        config = DynFocusConfig.from_dict(json.loads(header[CONFIG_KEY]))
        names = {name: _own_name(name) for name in file.keys()}  # noqa: SIM118
        return config, {own: file.get_tensor(name) for name, own in names.items() if own is not None}


def _trained(source: str | os.PathLike[str]) -> Path:
    try:
        return find_trained(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"export-connector: expected a model folder, the output of a run or a checkpoint, found neither "
            f"{CONFIG_NAME} nor {TRAINED_NAME} in {os.fspath(source)!r}."
        ) from error


def _own_name(name: str) -> str | None:
    return name.removeprefix(CONNECTOR) if name.startswith(CONNECTOR) else None


def _expect_reference_model(path: Path) -> None:
    kind = json.loads(path.read_text()).get("model_type")
    if kind != ReferenceConfig.model_type:
        raise ValueError(
            f"export-connector: expected a model folder of type {ReferenceConfig.model_type!r}, or a run or checkpoint "
            f"with {TRAINED_NAME}, got type {kind!r} in {str(path.parent)!r}."
        )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder."""
    connector = export_connector(arguments.checkpoint, arguments.output)
    config = connector.config
    print(f"written to {arguments.output}: features {config.dim} wide, tokens {config.dim_out} wide")
    return 0
