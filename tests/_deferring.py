"""What the tests of `deferred` share: what waits, what is drawn, that nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from _clients import unchanged
from torch import Tensor

import fastinit
from fastinit._intercept import pending as waiting


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Asserts that torch is as it was and that nothing is deferred any more."""
    copy.copy(torch.zeros(1).storage())  # torch keeps notes of having been asked
    copy.copy(torch.zeros(1))
    with unchanged("torch", "torch.Tensor", "torch.nn.init", "torch.utils.dlpack"):
        yield
    assert waiting.current() is None
    assert torch._C._len_torch_dispatch_stack() == 0


def waits(*tensors: Tensor) -> bool:
    """Whether something is recorded for each of these tensors."""
    pending = waiting.current()
    assert pending is not None
    return all(pending.records(tensor) for tensor in tensors)


def recorded() -> int:
    pending = waiting.current()
    assert pending is not None
    return len(pending)


def value(n: int, seed: int = 1, **std: float) -> Tensor:
    """Draw number n of a normal (8, 4) matrix."""
    return fastinit.normal_(torch.empty(8, 4), key=fastinit.Key(seed).fold_in(n), **std)
