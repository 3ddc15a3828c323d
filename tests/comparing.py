"""Comparisons that assert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynfocus_connector import CompressedVideo


def assert_close(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Equal up to rounding, of one shape; infinities must agree."""
    actual, expected = (
        x.detach().double().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x) for x in (actual, expected)
    )
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def assert_same_centers(actual: Any, expected: Any, log_importance: np.ndarray, tolerance: float = 1e-5) -> None:
    """The same points in the same order, unless their importances differ by rounding alone."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    differ = actual != expected
    np.testing.assert_allclose(log_importance[actual[differ]], log_importance[expected[differ]], rtol=tolerance)


def assert_same_video(actual: CompressedVideo, expected: CompressedVideo, tolerance: float = 1e-9) -> None:
    """The same tokens in the same places."""
    for name in ("frame_index", "kind", "anchor", "offsets"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    assert actual.tokens.dtype == expected.tokens.dtype
    assert_close(actual.tokens, expected.tokens, tolerance, tolerance)


def assert_every_parameter_has_a_gradient(module: torch.nn.Module) -> None:
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert not missing, missing
    broken = [name for name, parameter in module.named_parameters() if not parameter.grad.isfinite().all()]
    assert not broken, broken


def assert_makes_no_tensor_elsewhere(call: Callable[[], Any]) -> None:
    """`call`, whose inputs lie on the CPU, gives the same where new tensors lie elsewhere unless they are told.

    On `meta`, the default device of the second call, tensors have no data: what is computed with one fails or has none.
    """
    torch.manual_seed(0)
    expected = list(leaves(call()))
    torch.manual_seed(0)
    with torch.device("meta"):
        actual = list(leaves(call()))
    assert len(actual) == len(expected) > 0
    for one, other in zip(actual, expected, strict=True):
        if isinstance(other, Tensor):
            assert one.device == other.device
            assert torch.equal(one.nan_to_num(), other.nan_to_num())
        else:
            assert one == other


def leaves(value: Any) -> Iterator[Any]:
    """What nested sequences and mappings hold."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value
