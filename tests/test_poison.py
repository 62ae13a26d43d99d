"""The value that marks an element nobody wrote is the same in every dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from _bits import DTYPES, short
from conftest import POISON
from torch import Tensor


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_poison_survives_every_dtype(
    dtype: torch.dtype, poisoned: Callable[..., Tensor], unwritten: Callable[[Tensor], int]
) -> None:
    w = poisoned(3, 5, dtype=dtype)
    assert w.flatten()[0].item() == POISON
    assert unwritten(w) == 15
    cast = torch.full((3, 5), POISON).to(dtype)
    assert cast.flatten()[0].item() == POISON
    w[1, 2] = 0
    assert unwritten(w) == 14
