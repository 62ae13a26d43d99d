"""Sharded parameters under `patch` and `deferred` have the values of unsharded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _bits import assert_same_bits
from _simulated import every_rank, own_part, sharded
from conftest import POISON
from torch import Tensor, nn
from torch.distributed.tensor import Shard

import fastinit

FILLS: dict[str, Callable[[Tensor], object]] = {
    "normal_": nn.init.normal_,
    "kaiming_uniform_": nn.init.kaiming_uniform_,
    "trunc_normal_": nn.init.trunc_normal_,
    "xavier_normal_": nn.init.xavier_normal_,
    "orthogonal_": nn.init.orthogonal_,
    "sparse_": lambda tensor: nn.init.sparse_(tensor, 0.3),
    "method": lambda tensor: tensor.data.normal_(),
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("scope", [fastinit.patch, fastinit.deferred])
def test_values_are_those_of_the_whole_tensor(fill: str, scope: Any) -> None:
    with fastinit.patch(seed=1):
        expected = torch.empty(7, 4)
        FILLS[fill](expected)
    for placement in (Shard(0), Shard(1)):
        for mesh in every_rank((2,)):
            part = own_part(expected, mesh, [placement])
            local = torch.full(part.shape, POISON)
            with scope(seed=1):
                tensor = nn.Parameter(sharded(local, expected, mesh, [placement]))
                FILLS[fill](tensor)
                inside = (tensor * 2)._local_tensor
            assert_same_bits(inside, part * 2)
            assert_same_bits(local, part)
