"""Memory of model states per GPU, by arithmetic: what must fit before any activation."""

from __future__ import annotations

HALF_BYTES, ADAM_BYTES = 2, 12


def model_state_bytes(parameters: int, trainable: int, zero_stage: int, gpus: int) -> float:
    """Bytes per GPU of bf16 weights and gradients, float32 master weights and Adam's two moments.

    ZeRO-1 shares the optimiser's states among the GPUs, ZeRO-2 the gradients too, ZeRO-3 the weights too.

    **Source**: Rajbhandari et al. 2020, with 2 + 2 + 12 bytes per parameter.

    Example:
        >>> round(model_state_bytes(7_954_285_441, 31_390_464, zero_stage=0, gpus=8) / 1e9, 1)
        16.3

    Raises:
        ValueError: a stage other than 0 to 3, or no GPU.
    """
    if zero_stage not in (0, 1, 2, 3) or gpus < 1:
        raise ValueError(f"model_state_bytes: expected ZeRO stage 0–3 and gpus >= 1, got {zero_stage} and {gpus}.")
    weights = HALF_BYTES * parameters / (gpus if zero_stage >= 3 else 1)
    gradients = HALF_BYTES * trainable / (gpus if zero_stage >= 2 else 1)
    optimizer = ADAM_BYTES * trainable / (gpus if zero_stage >= 1 else 1)
    return weights + gradients + optimizer
