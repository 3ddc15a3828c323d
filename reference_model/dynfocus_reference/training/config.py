"""A training run as a YAML file: every key checked, files may extend one another."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dynfocus_reference.data.dataset import DataOptions, Source
from dynfocus_reference.fields import build
from dynfocus_reference.lora import LoraOptions
from dynfocus_reference.trainable import patterns_of

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"
Carry = Literal["projector", "all"]


@dataclass(frozen=True)
class TrainConfig:
    """One stage.

    **Source**: C.1 and Table 15 for the values in `configs/stage1.yaml` and `configs/stage2.yaml`.

    Args:
        model: A model folder (`dynfocus convert-weights`), or the preset ``tiny`` or ``small`` with random weights.
        output: Folder of checkpoints and logs.
        train: Groups of `trainable.GROUPS`; the rest is frozen. Empty for a stage that trains nothing and is skipped.
        sources: The mixture; paths are relative to `data_root`.
        data_root: In front of every relative path of `sources`.
        data: Fields of `DataOptions`; its seed is the run's where the file gives none.
        lora: Fields of `LoraOptions`, for adapters on the language model; `train` then names ``lora`` in the place of
            ``language_model``.
        init_from_stage1: A folder of stage 1 whose weights are carried over.
        carry: ``"projector"``: F_fine and F_coarse only, the rest of the connector is drawn from `seed` (Sec. 3.4);
            ``"all"``: everything that lies there.
        learning_rate, weight_decay, max_grad_norm, warmup: Of AdamW; warm-up as a share of all steps, then cosine.
        global_batch_size: Samples per step over all GPUs.
        batch_size_per_gpu: Samples of one forward.
        epochs, max_steps: Length; `max_steps` wins where positive.
        zero: DeepSpeed's stage 1, 2 or 3; 0 for one process without DeepSpeed.
        bf16, gradient_checkpointing: Precision and memory.
        save_steps, keep_checkpoints, log_steps: How often, how many.
        max_bad_share: The run stops when more than this share of its samples cannot be used.
        workers, frames_per_chunk: Decoding processes per GPU; frames in the tower at a time.
        seed: Of order, placeholders, new weights and the Top-K's noise.
        report_to: Loggers of transformers.
    """

    model: str
    output: str
    train: tuple[str, ...]
    sources: tuple[Source, ...]
    data_root: str = "."
    data: DataOptions = field(default_factory=DataOptions)
    lora: LoraOptions | None = None
    init_from_stage1: str | None = None
    carry: Carry = "projector"
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    warmup: float = 0.03
    global_batch_size: int = 32
    batch_size_per_gpu: int = 4
    epochs: float = 1.0
    max_steps: int = -1
    zero: int = 2
    bf16: bool = True
    gradient_checkpointing: bool = True
    save_steps: int = 500
    keep_checkpoints: int = 2
    log_steps: int = 1
    max_bad_share: float = 0.01
    workers: int = 8
    frames_per_chunk: int = 64
    seed: int = 0
    report_to: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        patterns_of(self.train)
        for name, value, known in (("zero", self.zero, (0, 1, 2, 3)), ("carry", self.carry, ("projector", "all"))):
            if value not in known:
                raise ValueError(f"TrainConfig: expected {name} among {known}, got {value!r}.")
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"TrainConfig: expected 0 <= max_bad_share < 1, got {self.max_bad_share}.")
        if (self.lora is not None) != ("lora" in self.train) or {"lora", "language_model"} <= set(self.train):
            raise ValueError(
                f"TrainConfig: expected lora: {{rank: ..., alpha: ...}} together with 'lora' in train, and "
                f"'language_model' without both, got lora {self.lora} and train {list(self.train)}."
            )

    def accumulation(self, world_size: int) -> int:
        """Forwards per step on each GPU.

        Raises:
            ValueError: the global batch is no multiple of GPUs times samples per GPU.
        """
        at_once = self.batch_size_per_gpu * world_size
        if self.global_batch_size % at_once:
            raise ValueError(
                f"TrainConfig: expected global_batch_size to be a multiple of {self.batch_size_per_gpu} samples × "
                f"{world_size} GPUs, got {self.global_batch_size}. Change batch_size_per_gpu."
            )
        return self.global_batch_size // at_once


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
