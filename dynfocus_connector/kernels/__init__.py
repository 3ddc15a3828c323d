"""Triton kernels behind the plain functions: the same results, up to the tolerance each of them states."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

MOST_PATCHES = 256
MOST_NEIGHBORS, MOST_CLUSTERS = 8, 16
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def kernels_serve(frames: Tensor, num_clusters: int, num_neighbors: int, wanted: bool | None = None) -> bool:
    """Whether the kernel of S-DPC takes over: on a GPU, where Triton is installed, unless DYNFOCUS_KERNELS=0.

    Only for what it has been tested with; inside a graph, for fake tensors and other subclasses never.

    Args:
        frames: What would be clustered, [frames patches dim].
        num_clusters, num_neighbors: How.
        wanted: True or False overrides the device and the environment.
    """
    if torch.compiler.is_compiling() or type(frames) not in (Tensor, nn.Parameter) or frames.dtype not in DTYPES:
        return False
    patches = 0 < frames.shape[1] <= MOST_PATCHES
    if not (patches and num_neighbors <= MOST_NEIGHBORS and num_clusters <= MOST_CLUSTERS):
        return False
    return on_gpu(frames.device) if wanted is None else wanted


def on_gpu(device: torch.device) -> bool:
    """Whether kernels are the way there, as long as nobody says otherwise."""
    return device.type == "cuda" and os.environ.get("DYNFOCUS_KERNELS", "1") != "0" and has_triton()


def has_triton() -> bool:
    """Whether Triton is installed."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
