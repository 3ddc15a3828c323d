"""A training run as a YAML file: every key known, files may extend one another."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from dynfocus_reference.data.options import DataOptions, Source
from dynfocus_reference.fields import build
from dynfocus_reference.lora import LoraOptions
from dynfocus_reference.training.settings import TrainConfig

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"


def load_config(name: str | os.PathLike[str], changes: Iterable[str] = ()) -> TrainConfig:
    """A run from a file, or from a named one of this package.

    Args:
        name: A .yaml file, or a name such as ``stage1``.
        changes: ``key=value`` or ``data.key=value``, in YAML.

    Raises:
        FileNotFoundError: no such file or name.
        ValueError: keys that do not exist, or that are missing.
    """
    values = _read(Path(name) if Path(name).is_file() else CONFIG_FOLDER / f"{name}.yaml")
    for change in changes:
        key, sign, written = change.partition("=")
        if not sign:
            raise ValueError(f"load_config: expected key=value, got {change!r}.")
        outer, _, last = key.rpartition(".")
        target = values if not outer else values.setdefault(outer, {})
        if not isinstance(target, dict):
            raise ValueError(f"load_config: expected {outer!r} to hold keys of its own, got {target!r}.")
        target[last] = _parse(written, change)
    return from_values(values, str(name))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"load_config: expected YAML in {where!r}, got: {error}.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        named = ", ".join(sorted(file.stem for file in CONFIG_FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"load_config: expected a .yaml file or one of {named}, got {str(path.stem)!r}.")
    values = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"load_config: expected keys and values in {str(path)!r}, got {type(values).__name__}.")
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = path.with_name(f"{base}.yaml")
    inherited = _read(beside if beside.is_file() else CONFIG_FOLDER / f"{base}.yaml")
    both = [key for key in ("data", "lora") if inherited.get(key) and values.get(key)]
    inner = {key: {**inherited[key], **values[key]} for key in both}
    return {**inherited, **values, **inner}


def from_values(values: dict[str, Any], name: str) -> TrainConfig:
    """A run from plain values.

    Raises:
        ValueError: unknown or missing keys, named.
    """
    values = dict(values)
    root = str(values.get("data_root", "."))
    given = values.get("data") or {}
    data = build(DataOptions, given, name)
    values["data"] = data if "seed" in given else dataclasses.replace(data, seed=values.get("seed", 0))
    if values.get("lora") is not None:
        values["lora"] = build(LoraOptions, values["lora"], name)
    if "sources" in values:
        values["sources"] = tuple(_source(one, root, name) for one in values["sources"] or ())
    for key in ("train", "report_to"):
        if key in values:
            values[key] = tuple(values[key] or ())
    return build(TrainConfig, values, name)


def _source(values: dict[str, Any], root: str, name: str) -> Source:
    source = build(Source, values, name)
    path, folder = os.path.join(root, source.path), os.path.join(root, source.root)
    return dataclasses.replace(source, path=path, root=folder)
