"""DTensors: every shard holds the values of the whole, whoever fills it and however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _bits import DTYPES, assert_same_bits, short
from _simulated import every_rank, own_part, sharded
from conftest import POISON
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

import fastinit

SHAPES = [(37, 19), (41, 17), (43, 13), (5,), (1, 7), (3, 10, 7), (6, 5, 3, 3)]
MESHES = [(1,), (2,), (4,), (2, 2), (2, 2, 2)]

ANY_SHAPE: dict[str, Callable[..., Tensor]] = {
    "uniform_": lambda t, **k: fastinit.uniform_(t, -1.0, 2.0, **k),
    "normal_": lambda t, **k: fastinit.normal_(t, 0.5, 2.0, **k),
    "trunc_normal_": lambda t, **k: fastinit.trunc_normal_(t, 0.5, 1.5, -1.0, 2.0, **k),
}
MATRIX_LIKE: dict[str, Callable[..., Tensor]] = {
    "kaiming_uniform_": lambda t, **k: fastinit.kaiming_uniform_(t, mode="fan_out", **k),
    "kaiming_normal_": lambda t, **k: fastinit.kaiming_normal_(t, nonlinearity="relu", **k),
    "xavier_uniform_": lambda t, **k: fastinit.xavier_uniform_(t, 1.5, **k),
    "xavier_normal_": fastinit.xavier_normal_,
    "lecun_uniform_": fastinit.lecun_uniform_,
    "lecun_normal_": lambda t, **k: fastinit.lecun_normal_(t, in_axis=0, out_axis=1, **k),
    "variance_scaling_": lambda t, **k: fastinit.variance_scaling_(
        t, 2.0, "fan_avg", "normal", **k
    ),
    "orthogonal_": lambda t, **k: fastinit.orthogonal_(t, 1.5, **k),
}
MATRIX: dict[str, Callable[..., Tensor]] = {
    "sparse_": lambda t, **k: fastinit.sparse_(t, 0.3, **k),
}
KEYLESS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "constant_": (lambda t: fastinit.constant_(t, 0.3), (1, 2, 3, 4)),
    "ones_": (fastinit.ones_, (1, 2, 3, 4)),
    "zeros_": (fastinit.zeros_, (1, 2, 3, 4)),
    "eye_": (fastinit.eye_, (2,)),
    "dirac_": (fastinit.dirac_, (3, 4)),
    "dirac_ in groups": (lambda t: fastinit.dirac_(t, groups=3), (3, 4)),
}
RANDOM = {**ANY_SHAPE, **MATRIX_LIKE, **MATRIX}


@pytest.fixture(autouse=True)
def no_process_group() -> Any:
    yield
    assert not dist.is_initialized()


def suits(name: str, shape: tuple[int, ...]) -> bool:
    return name in ANY_SHAPE or len(shape) == 2 or (name in MATRIX_LIKE and len(shape) > 2)


@st.composite
def placements_on(draw: st.DrawFn, mesh: tuple[int, ...], ndim: int) -> list[Placement]:
    """Placements for a mesh, strided ones as FSDP on top of tensor parallelism makes them."""
    chosen: list[Placement] = []
    for _ in mesh:
        dim = draw(st.integers(0, ndim - 1))
        kind = draw(st.sampled_from(["shard", "shard", "strided", "replicate"]))
        if kind == "shard":
            chosen.append(Shard(dim))
        elif kind == "strided":
            chosen.append(_StridedShard(dim, split_factor=draw(st.sampled_from([2, 3, 4]))))
        else:
            chosen.append(Replicate())
    return chosen


@st.composite
def cases(draw: st.DrawFn, suitable: Callable[[tuple[int, ...]], bool]) -> Any:
    shape = draw(st.sampled_from([s for s in SHAPES if suitable(s)]))
    mesh = draw(st.sampled_from(MESHES))
    return shape, mesh, draw(placements_on(mesh, len(shape)))


few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def check(
    shape: tuple[int, ...],
    mesh_shape: tuple[int, ...],
    placements: list[Placement],
    dtype: torch.dtype,
    fill: Callable[[Tensor], Tensor],
) -> None:
    """Fill every rank's part of a tensor and compare it with that part of the whole."""
    whole = fill(torch.empty(shape, dtype=dtype))
    for mesh in every_rank(mesh_shape):
        expected = own_part(
            whole.view(torch.uint8) if dtype.itemsize == 1 else whole, mesh, placements
        )
        expected = expected.view(dtype)
        local = torch.full(expected.shape, POISON, dtype=dtype)
        tensor = sharded(local, whole, mesh, placements)
        version = tensor._version
        assert fill(tensor) is tensor
        assert tensor._version > version
        assert_same_bits(local, expected)


@pytest.mark.parametrize("name", RANDOM)
@few
@given(st.data())
def test_shards_hold_the_values_of_the_whole(name: str, data: st.DataObject) -> None:
    shape, mesh, placements = data.draw(cases(lambda shape: suits(name, shape)))
    key = data.draw(st.integers(0, 2**64 - 1))
    check(shape, mesh, placements, torch.float32, lambda t: RANDOM[name](t, key=key))


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@few
@given(st.data())
def test_every_dtype(dtype: torch.dtype, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([n for n in RANDOM if n != "orthogonal_"]))
    if dtype.is_complex and not fills_complex(name):
        return
    shape, mesh, placements = data.draw(cases(lambda shape: suits(name, shape)))
    check(shape, mesh, placements, dtype, lambda t: RANDOM[name](t, key=3))


def fills_complex(name: str) -> bool:
    try:
        RANDOM[name](torch.empty(2, 2, dtype=torch.complex64), key=0)
    except (RuntimeError, TypeError):
        return False
    return True


@pytest.mark.parametrize("name", KEYLESS)
@few
@given(st.data())
def test_shards_of_constants(name: str, data: st.DataObject) -> None:
    fill, dims = KEYLESS[name]
    divisible = 3 if "groups" in name else 1
    shape, mesh, placements = data.draw(
        cases(lambda shape: len(shape) in dims and shape[0] % divisible == 0)
    )
    check(shape, mesh, placements, torch.float32, fill)


@pytest.mark.parametrize(
    ("shape", "placements"),
    [
        ((16, 6), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((37, 19), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((37, 19), [_StridedShard(1, split_factor=5), _StridedShard(0, split_factor=7)]),
        ((37, 19), [Shard(1), Shard(1)]),
        ((3, 2), [Shard(0), Shard(0)]),
    ],
    ids=str,
)
def test_strided_and_repeated_shards(shape: tuple[int, ...], placements: list[Placement]) -> None:
    for fill in RANDOM.values():
        check(shape, (2, 2), placements, torch.float32, lambda t, fill=fill: fill(t, key=1))
