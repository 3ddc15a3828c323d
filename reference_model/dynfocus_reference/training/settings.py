"""The settings of a training run, every one checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dynfocus_reference.data.options import DataOptions, Source
from dynfocus_reference.lora import LoraOptions
from dynfocus_reference.trainable import patterns_of

Carry = Literal["projector", "all"]
RANDOM_PRESETS = ("tiny", "small")
"""Presets that a run may begin with, their weights drawn"""


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
