"""Sharded parameters under `patch` and `deferred` have the values of unsharded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

import fastinit

if not distributed.is_available() or not distributed.is_gloo_available():
    pytest.skip("needs torch.distributed with gloo", allow_module_level=True)

FILLS: dict[str, Callable[[Tensor], object]] = {
    "normal_": nn.init.normal_,
    "kaiming_uniform_": nn.init.kaiming_uniform_,
    "trunc_normal_": nn.init.trunc_normal_,
    "xavier_normal_": nn.init.xavier_normal_,
    "orthogonal_": nn.init.orthogonal_,
    "sparse_": lambda tensor: nn.init.sparse_(tensor, 0.3),
    "method": lambda tensor: tensor.data.normal_(),
}


@pytest.fixture
def mesh() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("scope", [fastinit.patch, fastinit.deferred])
def test_values_are_those_of_the_whole_tensor(mesh: Any, fill: str, scope: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    with fastinit.patch(seed=1):
        expected = torch.empty(8, 4)
        FILLS[fill](expected)
    with scope(seed=1):
        sharded = nn.Parameter(distribute_tensor(torch.full((8, 4), 1e9), mesh, [Shard(0)]))
        FILLS[fill](sharded)
        inside = (sharded * 2).full_tensor()
    assert torch.equal(inside, expected * 2)
    assert torch.equal(sharded.full_tensor(), expected)
