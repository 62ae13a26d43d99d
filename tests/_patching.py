"""What the tests of `patch` share: the functions it covers, and how to see whose one is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo  # which changes torch as it is imported
from torch import Tensor

import fastinit

OWNERS = (
    "torch",
    "torch.Tensor",
    "torch.nn.init",
    "torch.nn.modules.activation",
    "torch.nn.modules.linear",
    "torch.nn.modules.transformer",
    "torch.utils.dlpack",
)
# Every random function and helper of torch.nn.init, with ours and arguments that differ from the
# defaults.
FUNCTIONS: list[tuple[str, Callable[..., Tensor], tuple[Any, ...]]] = [
    ("uniform_", fastinit.uniform_, (-1.0, 2.0)),
    ("normal_", fastinit.normal_, (1.0, 2.0)),
    ("trunc_normal_", fastinit.trunc_normal_, (0.5, 2.0, -1.0, 3.0)),
    ("xavier_uniform_", fastinit.xavier_uniform_, (2.0,)),
    ("xavier_normal_", fastinit.xavier_normal_, (2.0,)),
    ("kaiming_uniform_", fastinit.kaiming_uniform_, (0.3, "fan_out")),
    ("kaiming_normal_", fastinit.kaiming_normal_, (0.0, "fan_in", "relu")),
    ("orthogonal_", fastinit.orthogonal_, (2.0,)),
    ("sparse_", fastinit.sparse_, (0.4, 2.0)),
    ("_no_grad_uniform_", fastinit.uniform_, (-1.0, 2.0)),
    ("_no_grad_normal_", fastinit.normal_, (1.0, 2.0)),
    ("_no_grad_trunc_normal_", fastinit.trunc_normal_, (0.5, 2.0, -1.0, 3.0)),
]
NAMES = [name for name, _, _ in FUNCTIONS]


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def draw(function: Callable[..., Tensor], *arguments: Any, shape: tuple[int, ...] = (6, 8)) -> Any:
    with seeded():
        return function(torch.empty(shape), *arguments)


def is_ours(fill: Callable[[Tensor], object], ours: Callable[[Tensor], object]) -> bool:
    return torch.equal(draw_into(fill), draw_into(ours))


def draw_into(fill: Callable[[Tensor], object]) -> Tensor:
    tensor = torch.empty(6, 8)
    with seeded():
        fill(tensor)
    return tensor
