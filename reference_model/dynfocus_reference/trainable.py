"""Which parameters train in which stage: data, not code."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

GROUPS = {
    "projector": r"connector\.encoder\.projector\.",
    "rods": r"connector\.encoder\.rods\.",
    "dynamic": r"connector\.(?!encoder\.projector\.)",
    "qformer": r"qformer\.",
    "language_model": r"language_model\.",
    "lora": r"language_model\..*\.lora_[AB]\.",
}
"""F_fine and F_coarse; φ_q and φ_k; DPE and CCE without the projector; the Q-Former; the language model or adapters."""

STAGES = {
    "stage1": ("projector",),
    "stage1-authors-script": ("projector", "rods"),
    "stage2": ("dynamic", "projector", "language_model"),
    "stage2-with-qformer": ("dynamic", "projector", "language_model", "qformer"),
    "stage2-lora": ("dynamic", "projector", "lora"),
}
"""**Source**: Table 7, last row (stage 1) and C.1 (stage 2); the authors' script also trains φ_q and φ_k in stage 1.
With the Q-Former and with adapters are ours."""

TABLE_7 = {
    "table7-row1": (("dynamic", "projector"), ("dynamic", "projector", "language_model")),
    "table7-row2": ((), ("projector", "language_model")),
    "table7-row3": (("dynamic", "projector"), ("projector", "language_model")),
    "table7-row4": (("projector",), ("dynamic", "projector", "language_model")),
}
"""Groups of stage 1 and of stage 2. **Source**: Table 7, (DPE + CCE, projector, LLM) open or locked."""


def patterns_of(groups: Iterable[str]) -> list[str]:
    """The regular expressions of named groups, for `ReferenceModel.set_trainable`.

    Example:
        >>> patterns_of(["qformer"])
        ['qformer\\\\.']

    Raises:
        ValueError: an unknown group.
    """
    groups = list(groups)
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise ValueError(f"train: expected groups among {', '.join(GROUPS)}, got {unknown}.")
    return [GROUPS[name] for name in groups]


def count_parameters(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Parameters, tied ones once; whole sizes where ZeRO-3 has cut them."""
    return sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for parameter in module.parameters()
        if parameter.requires_grad or not trainable_only
    )
