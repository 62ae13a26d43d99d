"""What the tests share: the devices to run on, and tensors that show an element left unwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

# A value no initializer here draws. Every dtype in use holds it exactly: it is -1.5 * 2^7, and
# float8_e5m2 has two bits after the point (test_poison.py).
POISON = -192.0


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn; cuda is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return str(request.param)


@pytest.fixture
def poisoned() -> Callable[..., Tensor]:
    """Makes tensors of POISON, so that `(t == POISON).any()` betrays an unwritten element."""

    def make(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
        return torch.full(shape, POISON, dtype=dtype, device=device)

    return make


@pytest.fixture
def unwritten() -> Callable[[Tensor], int]:
    """Counts the elements of a poisoned tensor that nobody wrote."""

    def count(tensor: Tensor) -> int:
        values = tensor if tensor.is_complex() else tensor.double()
        return int((values == POISON).sum())

    return count


@pytest.fixture
def no_process_group() -> Iterator[None]:
    """Sees to it that a test ends the process groups it begins."""
    yield
    assert not torch.distributed.is_initialized()


def shards(shape: Sequence[int], dim: int, count: int) -> list[tuple[slice, ...]]:
    """Uneven cuts of a tensor along one dimension, as torch.chunk makes them."""
    bounds = [round(i * shape[dim] / count) for i in range(count + 1)]
    return [
        tuple(slice(lo, hi) if d == dim else slice(0, n) for d, n in enumerate(shape))
        for lo, hi in pairwise(bounds)
    ]
