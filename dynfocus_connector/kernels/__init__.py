"""Triton kernels behind the plain functions: the same results, up to the tolerance each of them states."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def kernels_serve(tensor: Tensor, wanted: bool | None = None) -> bool:
    """Whether kernels take over: on a GPU with Triton where DYNFOCUS_KERNELS=1 asks for them, outside of graphs.

    They have run in Triton's interpreter only; until a GPU has confirmed them the plain code is the default.

    Args:
        tensor: What would be computed on.
        wanted: True or False overrides the device and the environment.
    """
    if torch.compiler.is_compiling() or tensor.dtype == torch.float64:
        return False
    if wanted is not None:
        return wanted
    return tensor.is_cuda and os.environ.get("DYNFOCUS_KERNELS", "0") == "1" and has_triton()


def has_triton() -> bool:
    """Whether Triton is installed."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
