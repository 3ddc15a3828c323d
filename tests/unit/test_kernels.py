"""Kernels against the plain code that is their meaning: in Triton's interpreter, on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dynfocus_connector.kernels import has_triton, kernels_serve, on_gpu

WORK = """
from tests.unit.test_kernels import CASES, compare
for case in CASES:
    compare(case, "cpu")
    print(case, flush=True)
"""
CASES = [
    *("bfloat16", "float16", "float32", "copies", "damage", "uneven", "constant", "max"),
    *("uniform", "centers", "few", "paper"),
]
PATCHES = {"uneven": 21, "few": 9, "paper": 256}
needs_triton = pytest.mark.skipif(not has_triton(), reason="needs Triton")


def patches_of(case):
    generator = torch.Generator().manual_seed(0)
    patches = PATCHES.get(case, 32)
    frames = torch.randn(1, 3, patches, 40, generator=generator)
    frames += 2 * torch.randn(1, 3, 8, 40, generator=generator).repeat(1, 1, 32, 1)[:, :, :patches]
    if case == "copies":
        frames[0, 0, 8:] = frames[0, 0, :8].repeat(3, 1)
        frames[0, 1, 20] = frames[0, 1, 2]
    elif case == "damage":
        frames[0, 0, 3, 2], frames[0, 1, 5:9], frames[0, 2] = torch.nan, torch.inf, torch.nan
    elif case == "constant":
        frames[:] = 3
    return frames.to(getattr(torch, case) if case in CASES[:3] else torch.float32)


def compare(case, device):
    """Rows, weights, centres and densities, the prototypes, and what flows back to the patches."""
    from dynfocus_connector import SpatialPrototypes

    results = []
    for kernels in (True, False):
        frames = patches_of(case).to(device).requires_grad_()
        module = SpatialPrototypes(
            *(((16, 8), (8, 3)) if case == "paper" else ((6, 3), (4, 2))),
            distance_scale="max" if case == "max" else 1.0,
            merge_weights=case if case in ("uniform", "centers") else "importance",
            kernels=kernels,
        )
        merging, rows = module.cluster(frames)
        rows.float().square().sum().backward()
        results.append((merging.center, merging.row, merging.weight, merging.log_density, rows, frames.grad))
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == plain.dtype
        digits = 2 * torch.finfo(ours.dtype).eps if ours.is_floating_point() else 0.0
        torch.testing.assert_close(ours, plain, rtol=max(digits, 1e-3), atol=1e-4, equal_nan=True)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@needs_triton
def test_interpreted_kernel_is_the_plain_code():
    """Outputs and gradients, in a process of its own: Triton asks for its interpreter when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == CASES, done.stderr[-2000:]


@needs_triton
def test_a_kernel_starts_on_the_device_of_its_frames(monkeypatch):
    from dynfocus_connector.kernels import frame_peaks as module

    current, started = [], []

    class Kernel:
        def __getitem__(self, grid):
            return lambda frames, *others, **sizes: started.append((frames.device, list(current)))

    @contextmanager
    def device_of(tensor):
        current.append(tensor.device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(module, "_frame_peaks", Kernel())
    frames = patches_of("few")[0]
    module.frame_peaks(frames, 6, 3)
    assert started == [(frames.device, [frames.device])]


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_kernel_on_a_gpu_is_the_plain_code(case):
    compare(case, "cuda")


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_kernel_compiles_for_a_gpu_that_is_not_here(dtype):
    """Down to machine code for an H100 or H200, within the shared memory of one block."""
    code = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dynfocus_connector.kernels.frame_peaks import _frame_peaks as kernel
sizes = dict(PATCHES=256, WIDTH=256, NEIGHBORS=8, CLUSTERS=16, LARGEST=False,
             LEADERS=16, WEIGHTS=0, ROWS=32, FEATURES=32)
types = dict(frames="*{dtype}", squared="*fp32", per_patch="*fp32", labels="*i32", centers="*i32", merged="*fp32",
             count="i32", dim="i32", scale="fp32", resolution="fp32", **dict.fromkeys(sizes, "constexpr"))
source = ASTSource(fn=kernel, signature=types, constexprs=sizes)
done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=8))
assert done.asm["cubin"] and done.metadata.shared <= 227 * 1024, done.metadata.shared
print("compiled", done.metadata.shared)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("compiled"), done.stderr[-2000:]


def test_who_decides(monkeypatch):
    """The device, the environment, then the argument; never in float64 or beyond the sizes that are tested."""
    here, sizes = torch.zeros(3, 256, 8), (16, 8)
    assert not kernels_serve(here, *sizes)
    assert kernels_serve(here, *sizes, wanted=True)
    assert not kernels_serve(here, *sizes, wanted=False)
    for frames, *other in (
        (here.double(), *sizes),
        (torch.zeros(3, 257, 8), *sizes),
        (here[:, :0], *sizes),
        (here, 17, 8),
        (here, 16, 9),
    ):
        assert not kernels_serve(frames, *other, wanted=True)
    with FakeTensorMode():
        assert not kernels_serve(torch.zeros(3, 256, 8, device="cuda"), *sizes)
    monkeypatch.delenv("DYNFOCUS_KERNELS", raising=False)
    assert on_gpu(torch.device("cuda")) == has_triton()
    assert not on_gpu(torch.device("cpu"))
    monkeypatch.setenv("DYNFOCUS_KERNELS", "0")
    assert not on_gpu(torch.device("cuda"))
