"""Flat regions: any run of the elements of any tensor is what the whole tensor has there."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _bits import DTYPES, assert_same_bits, short
from _simulated import rank_of
from conftest import POISON
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_bodies import emulated
from test_regions import FILLS
from torch import Tensor

import fastinit
from fastinit import Key, Region, initializers

SPARSE = (lambda t, **k: fastinit.sparse_(t, 0.35, std=0.5, **k), {})
LAWS = [*FILLS, SPARSE]
SHAPE = (10, 7, 3)


def shape_of(function: Callable[..., Tensor]) -> tuple[int, ...]:
    return SHAPE[:2] if function is SPARSE[0] else SHAPE


def test_it_is_a_value() -> None:
    region = Region.flat([4, 5], 7)
    assert region.global_shape == (4, 5) and region.offsets == (7,) and region.is_flat
    assert region == Region.flat(torch.Size([4, 5]), 7) and region != Region.flat((4, 5), 8)
    assert hash(region) == hash(Region.flat((4, 5), 7))
    assert repr(region) == "Region.flat((4, 5), 7)"
    assert eval(repr(region), {"Region": Region}) == pickle.loads(pickle.dumps(region)) == region
    assert Region.flat((9,), 4) == Region((9,), (4,))  # which needs no other word
    assert Region.flat((), 1).is_flat and not Region((4, 5), (1, 0)).is_flat


@pytest.mark.parametrize(
    ("shape", "start", "error", "message"),
    [
        (4, 0, TypeError, "^global_shape must be a sequence of ints, got 4"),
        ((4, -5), 0, ValueError, "^global_shape must not be negative"),
        ((4, 5), 1.0, TypeError, r"^start must be an int, got 1.0 \(float\)"),
        ((4, 5), True, TypeError, "^start must be an int, got True"),
        ((4, 5), -1, ValueError, r"^start must lie among the 20 elements .*, got -1"),
        ((4, 5), 21, ValueError, r"^start must lie among the 20 elements .*, got 21"),
    ],
)
def test_refusals(shape: Any, start: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Region.flat(shape, start)


@pytest.mark.parametrize(("function", "arguments"), LAWS)
def test_pieces_make_up_the_whole(
    function: Callable[..., Tensor], arguments: dict[str, Any], device: str
) -> None:
    shape = shape_of(function)
    whole = function(torch.empty(shape, device=device), key=5, **arguments).flatten()
    starts = [0, 1, 2, 9, 10, 31, 32, 63, 65, len(whole)]
    for start, stop in itertools.pairwise(starts):
        piece = torch.full((stop - start,), POISON, device=device)
        assert function(piece, key=5, region=Region.flat(shape, start), **arguments) is piece
        assert_same_bits(piece, whole[start:stop])


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("backend", ["engine", "cuda bodies"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_run_of_any_shape(backend: str, dtype: torch.dtype, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4), "shape"))
    size = math.prod(shape)
    start = data.draw(st.integers(0, size), "start")
    count = data.draw(st.integers(0, size - start), "count")
    step = data.draw(st.integers(1, 3), "stride")
    for function in (fastinit.kaiming_uniform_, fastinit.lecun_normal_, SPARSE[0]):
        if function is SPARSE[0] and len(shape) != 2:
            continue
        expected = function(torch.empty(shape, dtype=dtype), key=Key(3, 8)).flatten()
        piece = torch.empty(count * step, dtype=dtype)[::step]
        with emulated(*((2, 3) if backend == "cuda bodies" else (0, 1))):
            function(piece, key=Key(3, 8), region=Region.flat(shape, start))
        dense = torch.empty(count, dtype=dtype).copy_(piece)
        assert_same_bits(dense, expected[start : start + count])


@pytest.mark.parametrize(("function", "arguments"), LAWS)
@pytest.mark.parametrize("wrong", ["two dimensions", "too long"])
def test_a_tensor_that_does_not_fit_is_untouched(
    function: Callable[..., Tensor], arguments: dict[str, Any], wrong: str
) -> None:
    shape = shape_of(function)
    piece = torch.full((2, 3) if wrong == "two dimensions" else (6,), POISON)
    generator = torch.Generator()
    before = generator.get_state()
    with pytest.raises(ValueError, match=r"^region "):
        function(
            piece, generator=generator, region=Region.flat(shape, math.prod(shape) - 5), **arguments
        )
    assert (piece == POISON).all() and torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("function", "arguments"), LAWS)
def test_the_key_of_a_generator_and_of_keyed(
    function: Callable[..., Tensor], arguments: dict[str, Any]
) -> None:
    """Drawn once, also for an empty piece, as FSDP1 gives some ranks."""
    shape = shape_of(function)
    generator = torch.Generator().manual_seed(4)
    whole = function(torch.empty(shape), generator=generator, **arguments).flatten()
    after = generator.get_state()
    for start, stop in ((4, 20), (7, 7)):
        generator.manual_seed(4)
        piece = torch.empty(stop - start)
        function(piece, generator=generator, region=Region.flat(shape, start), **arguments)
        assert_same_bits(piece, whole[start:stop])
        assert torch.equal(generator.get_state(), after)
    with fastinit.keyed(4):
        first = function(torch.empty(9), region=Region.flat(shape, 3), **arguments)
    expected = function(torch.empty(shape), key=Key(4).fold_in(0), **arguments)
    assert_same_bits(first, expected.flatten()[3:12])


@pytest.mark.parametrize(("function", "arguments"), LAWS)
def test_deferred_meta_and_fake(function: Callable[..., Tensor], arguments: dict[str, Any]) -> None:
    shape = shape_of(function)
    region = Region.flat(shape, 11)
    expected = function(torch.empty(shape), key=5, **arguments).flatten()[11:31]
    with fastinit.deferred():
        piece = function(torch.empty(20), key=5, region=region, **arguments)
        behind = torch.full((25,), POISON)
        function(behind[5:], key=5, region=region, **arguments)
    assert_same_bits(piece, expected)
    assert_same_bits(behind[5:], expected)
    meta = torch.empty(20, device="meta")
    assert function(meta, key=5, region=region, **arguments) is meta
    with torch._subclasses.FakeTensorMode():
        function(torch.empty(20), key=5, region=region, **arguments)


def test_compiled() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def fill(w: Tensor) -> Tensor:
        return fastinit.kaiming_uniform_(w, key=7, region=Region.flat((8, 6), 5)) * 2

    expected = fastinit.kaiming_uniform_(torch.empty(8, 6), key=7).flatten()[5:25]
    assert torch.equal(fill(torch.empty(20)), expected * 2)


def test_a_piece_of_a_huge_tensor() -> None:
    shape = (1 << 30, 1 << 30)
    start = (1 << 59) + 12345
    piece = fastinit.kaiming_normal_(torch.empty(64), key=1, region=Region.flat(shape, start))
    row, column = divmod(start, 1 << 30)
    row_of_it = torch.empty(1, 64)
    fastinit.kaiming_normal_(row_of_it, key=1, region=Region(shape, (row, column)))
    assert_same_bits(piece, row_of_it[0])


def test_an_empty_piece_of_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        fastinit.xavier_uniform_(torch.empty(0), region=Region.flat((0, 0), 0))
    fastinit.normal_(torch.empty(0), region=Region.flat((3, 0), 0))


OBJECTS = [
    initializers.Normal(0.02),
    initializers.Kaiming(distribution="uniform"),
    initializers.Xavier(parts={0: {"q": 4, "k": 3, "v": 3}}),
    initializers.VarianceScaling(parts={1: {"a": 2, "b": 5}}),
    initializers.Orthogonal(),
    initializers.Sparse(0.4),
    initializers.Eye(),
    initializers.Constant(3.0),
]


@pytest.mark.parametrize("initializer", OBJECTS, ids=repr)
def test_initializers(initializer: initializers.Initializer) -> None:
    whole = initializer(torch.empty(10, 7), key=Key(5)).flatten()
    for start, stop in ((0, 70), (3, 9), (5, 30), (14, 28), (20, 21), (70, 70)):
        piece = torch.full((stop - start,), POISON)
        initializer(piece, key=Key(5), region=Region.flat((10, 7), start))
        assert_same_bits(piece, whole[start:stop])


def test_dirac() -> None:
    whole = initializers.Dirac(groups=2)(torch.empty(6, 3, 3, 2)).flatten()
    for start, stop in ((0, 108), (1, 2), (5, 100), (53, 77)):
        piece = torch.full((stop - start,), POISON)
        initializers.Dirac(groups=2)(piece, region=Region.flat((6, 3, 3, 2), start))
        assert_same_bits(piece, whole[start:stop])


def test_a_part_of_a_manifest() -> None:
    layer = torch.nn.Linear(5, 3)
    manifest = fastinit.init_(layer, seed=0).manifest()
    piece = fastinit.regenerate(manifest, "weight", Region.flat((3, 5), 4))
    assert_same_bits(piece, layer.weight.detach().flatten()[4:])


def small_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3, bias=False))


def fill(name: str, tensor: Tensor, region: Region | None = None) -> None:
    key = Key(42).fold_in(name)
    if name.endswith("weight"):
        fastinit.kaiming_uniform_(tensor, key=key, region=region)
    else:
        fastinit.uniform_(tensor, -0.1, 0.1, key=key, region=region)


def test_a_row_of_parameters_cut_among_ranks() -> None:
    """What docs/sharding.md shows of ZeRO, every rank by itself."""
    model = small_model()
    for name, parameter in model.named_parameters():
        fill(name, parameter)
    whole = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    ranks = 4
    size = -(-len(whole) // ranks)
    for rank in range(ranks):
        begin, end = rank * size, min((rank + 1) * size, len(whole))
        shard = torch.full((end - begin,), POISON)
        passed = 0
        for name, parameter in model.named_parameters():
            first, last = max(begin, passed), min(end, passed + parameter.numel())
            if first < last:
                region = Region.flat(parameter.shape, first - passed)
                fill(name, shard[first - begin : last - begin], region)
            passed += parameter.numel()
        assert_same_bits(shard, whole[begin:end])


def test_fsdp1() -> None:
    """What docs/sharding.md shows of FSDP1, whose padding is left alone."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = small_model()
    for name, parameter in model.named_parameters():
        fill(name, parameter)
    expected = {name: parameter.detach().flatten() for name, parameter in model.named_parameters()}
    seen = dict.fromkeys(expected, 0)
    for rank in range(4):
        with rank_of((4,), rank):
            cpu = torch.device("cpu")
            wrapped = FullyShardedDataParallel(small_model(), device_id=cpu)
            flat = wrapped._handle.flat_param  # type: ignore[union-attr]
            places = zip(flat._fqns, flat._shapes, flat._shard_param_infos, strict=True)
            for name, shape, place in places:
                if place.in_shard:
                    begin, count = place.intra_param_start_idx, place.numel_in_shard
                    piece = flat.detach()[place.offset_in_shard :][:count]
                    fill(name, piece, Region.flat(shape, begin))
                    assert_same_bits(piece, expected[name][begin : begin + count])
                    seen[name] += count
    assert seen == {name: len(values) for name, values in expected.items()}
