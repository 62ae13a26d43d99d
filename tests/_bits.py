"""Helpers of the tests that speak of bits: dtypes, comparison, conversion to NumPy."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
NARROW = [torch.float16, torch.bfloat16, *FLOAT8]
REAL = [torch.float32, torch.float64, *NARROW]
COMPLEX = [torch.complex64, torch.complex128]
DTYPES = REAL + COMPLEX


def short(dtype: torch.dtype) -> str:
    """The name of a dtype without `torch.`: the id of a test case."""
    return str(dtype).removeprefix("torch.")


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements in logical order, on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Demand equal dtype, shape and bits (so -0.0 differs from 0.0, and NaN equals NaN)."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    actual_bytes, expected_bytes = raw(actual), raw(expected)
    if torch.equal(actual_bytes, expected_bytes):
        return
    size = expected.element_size()
    wrong = (actual_bytes != expected_bytes).reshape(-1, size).any(dim=1).nonzero().flatten()
    at = int(wrong[0])
    left = actual.detach().cpu().contiguous().flatten()[at]
    right = expected.detach().cpu().contiguous().flatten()[at]
    raise AssertionError(
        f"{len(wrong)} of {expected.numel()} elements differ, the first at {at}: "
        f"{left.tolist()!r}, expected {right.tolist()!r}"
    )


def arithmetic(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    """The NumPy dtype in which elements of `dtype` are computed."""
    return np.float64 if dtype in (torch.float64, torch.complex128) else np.float32


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    """A real tensor's values in float64, which holds every real dtype exactly."""
    return tensor.detach().cpu().double().numpy()


def largest_below(high: float, low: float, dtype: torch.dtype) -> float:
    """The limit of uniform draws on [low, high) in `dtype`, found by enumeration when narrow."""
    first, last = (torch.tensor(x, dtype=torch.float64).to(dtype) for x in (low, high))
    if float(last) <= float(first):
        return float(first)
    if dtype in (torch.float32, torch.float64):
        return float(torch.nextafter(last, torch.full_like(last, -torch.inf)))
    values = every_value(dtype)
    return float(values[values < float(last)][-1])


@functools.cache
def value_of_pattern(dtype: torch.dtype) -> npt.NDArray[np.float64]:
    """What each bit pattern of a dtype of 8 or 16 bits means."""
    bits = 8 * dtype.itemsize
    return to_numpy(torch.from_numpy(np.arange(2**bits, dtype=f"uint{bits}")).view(dtype))


@functools.cache
def every_value(dtype: torch.dtype) -> npt.NDArray[np.float64]:
    """Every finite value of a dtype of 8 or 16 bits, ascending, zero once."""
    values = value_of_pattern(dtype)
    return np.unique(values[np.isfinite(values)])


def value_counts(tensor: torch.Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The values that occur in a tensor of 8 or 16 bits, and how often each pattern does."""
    patterns = raw(tensor).numpy().view(f"uint{8 * tensor.element_size()}")
    counts = np.bincount(patterns)
    present = np.flatnonzero(counts)
    return value_of_pattern(tensor.dtype)[present], counts[present]
