"""Regions: refusals of their own and against a tensor, and shards that make up the whole."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shards

import fastinit
from fastinit import _C, Region

SHAPE = (10, 7, 3)

FILLS: list[tuple[Any, dict[str, Any]]] = [
    (fastinit.uniform_, {"a": -1.0}),
    (fastinit.normal_, {"std": 0.5}),
    (fastinit.trunc_normal_, {"std": 0.5}),
    (fastinit.kaiming_uniform_, {"nonlinearity": "relu"}),
    (fastinit.kaiming_normal_, {"mode": "fan_out"}),
    (fastinit.kaiming_normal_, {"in_axis": 0, "out_axis": (1, 2)}),
    (fastinit.xavier_uniform_, {"gain": 2.0}),
    (fastinit.xavier_normal_, {}),
    (fastinit.variance_scaling_, {"mode": "fan_avg", "distribution": "uniform"}),
    (fastinit.lecun_normal_, {"batch_axis": 0, "out_axis": 2}),
    (fastinit.lecun_uniform_, {"groups": 2}),
    (fastinit.orthogonal_, {"gain": 1.5}),
]


def test_region_is_a_value() -> None:
    region = Region([4, 5], torch.Size([1, 0]))  # type: ignore[arg-type]
    assert region.global_shape == (4, 5) and region.offsets == (1, 0)
    assert type(region.global_shape) is tuple and type(region.offsets) is tuple
    assert region == Region((4, 5), (1, 0)) and hash(region) == hash(Region((4, 5), (1, 0)))
    assert region != Region((4, 5), (0, 1))
    assert eval(repr(region), {"Region": Region}) == pickle.loads(pickle.dumps(region)) == region
    with pytest.raises(AttributeError):
        region.offsets = (0, 0)  # type: ignore[misc]
    numpy_ints = Region(np.array([4, 5]), np.array([1, 0]))  # type: ignore[arg-type]
    assert numpy_ints == region and type(numpy_ints.offsets[0]) is int


@pytest.mark.parametrize(
    ("shape", "offsets", "error", "message"),
    [
        ((4, 5), (1,), ValueError, "^offsets must have one entry per dimension"),
        ((4, -5), (0, 0), ValueError, r"^global_shape must not be negative, got \(4, -5\)"),
        ((4, 5), (0, -1), ValueError, r"^offsets must not be negative, got \(0, -1\)"),
        (
            (4, 5),
            (0, 6),
            ValueError,
            r"^offsets must lie inside global_shape, got offsets \(0, 6\)",
        ),
        (4, (0,), TypeError, r"^global_shape must be a sequence of ints, got 4 \(int\)"),
        ((4,), 0, TypeError, "^offsets must be a sequence of ints, got 0"),
        ((4.0,), (0,), TypeError, r"^global_shape must hold ints, got 4.0 \(float\)"),
        ((4,), (True,), TypeError, "^offsets must hold ints, got True"),
        ("45", "00", TypeError, "^global_shape must hold ints, got '4'"),
    ],
)
def test_region_refuses(shape: Any, offsets: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Region(shape, offsets)


@pytest.mark.parametrize(("function", "arguments"), FILLS)
@pytest.mark.parametrize(("dim", "count"), [(0, 3), (1, 4), (2, 2)])
def test_shards_make_up_the_whole(
    function: Any, arguments: dict[str, Any], dim: int, count: int, poisoned: Any, device: str
) -> None:
    whole = function(torch.empty(SHAPE, device=device), key=5, **arguments)
    for cut in shards(SHAPE, dim, count):
        expected = whole[cut]
        region = Region(SHAPE, tuple(s.start for s in cut))
        shard = poisoned(*expected.shape, device=device)
        assert function(shard, key=5, region=region, **arguments) is shard
        assert torch.equal(shard, expected)


def test_sparse_shards_make_up_the_whole() -> None:
    whole = fastinit.sparse_(torch.empty(10, 6), 0.35, key=5)
    for dim in (0, 1):
        for cut in shards((10, 6), dim, 3):
            region = Region((10, 6), tuple(s.start for s in cut))
            shard = fastinit.sparse_(torch.empty_like(whole[cut]), 0.35, key=5, region=region)
            assert torch.equal(shard, whole[cut])


@pytest.mark.parametrize(("function", "arguments"), FILLS)
def test_the_whole_region_changes_nothing(function: Any, arguments: dict[str, Any]) -> None:
    plain = function(torch.empty(SHAPE), key=5, **arguments)
    region = Region(SHAPE, (0, 0, 0))
    assert torch.equal(function(torch.empty(SHAPE), key=5, region=region, **arguments), plain)


@pytest.mark.parametrize(("function", "arguments"), FILLS)
@pytest.mark.parametrize(
    ("global_shape", "offsets"),
    [((10, 7), (0, 0)), ((10, 7, 3, 1), (0,) * 4), ((10, 7, 3), (9, 0, 0)), ((4, 7, 2), (0, 0, 0))],
)
def test_a_region_that_does_not_fit_is_refused(
    function: Any,
    arguments: dict[str, Any],
    global_shape: tuple[int, ...],
    offsets: tuple[int, ...],
    poisoned: Any,
    unwritten: Any,
) -> None:
    shard = poisoned(4, 7, 3)
    generator = torch.Generator()
    before = generator.get_state()
    with pytest.raises(ValueError):
        function(shard, generator=generator, region=Region(global_shape, offsets), **arguments)
    assert unwritten(shard) == shard.numel()
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("function", "arguments"), FILLS)
def test_other_types_are_refused(function: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"^region must be a fastinit.Region, got \(\(10, 7, 3\)"):
        function(torch.empty(SHAPE), region=(SHAPE, (0, 0, 0)), **arguments)


@pytest.mark.parametrize(("function", "arguments"), FILLS)
def test_an_empty_shard_is_silent(
    function: Any, arguments: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    shard = torch.empty(0, 7, 3)
    assert function(shard, key=5, region=Region(SHAPE, (10, 0, 0)), **arguments) is shard
    assert len(recwarn) == 0


def test_the_generator_decides_for_regions_too() -> None:
    torch.manual_seed(4)
    whole = fastinit.normal_(torch.empty(6, 4))
    torch.manual_seed(4)
    shard = fastinit.normal_(torch.empty(3, 4), region=Region((6, 4), (3, 0)))
    assert torch.equal(shard, whole[3:])


def test_orthogonal_takes_one_key_for_a_region() -> None:
    generator = torch.Generator().manual_seed(4)
    fastinit.orthogonal_(torch.empty(6, 4), generator=generator)
    expected = generator.get_state()
    generator.manual_seed(4)
    fastinit.orthogonal_(torch.empty(3, 4), generator=generator, region=Region((6, 4), (3, 0)))
    assert torch.equal(generator.get_state(), expected)


def test_a_slice_of_a_huge_tensor() -> None:
    """A region needs no memory but its own; two overlapping views of 2^44 elements agree."""
    shape = (1 << 22, 1 << 22)
    a = fastinit.kaiming_normal_(torch.empty(4, 8), key=1, region=Region(shape, (1 << 21, 1 << 20)))
    b = fastinit.kaiming_normal_(
        torch.empty(3, 6), key=1, region=Region(shape, ((1 << 21) + 1, (1 << 20) + 2))
    )
    assert torch.equal(a[1:, 2:], b)
    assert 0 < a.abs().max() < 7 * 2**0.5 / 2**11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("fill", [fastinit.normal_, lambda t, **k: fastinit.sparse_(t, 0.4, **k)])
def test_inner_rectangles_of_every_width(fill: Any, dtype: torch.dtype, request: Any) -> None:
    """Short rows are generated several at a time: no width, offset or stride may matter."""
    shape = (301, 1100)
    whole = fill(torch.empty(shape, dtype=dtype), key=5)
    request.addfinalizer(lambda: _C.force_instruction_set(None))
    for isa in _C.instruction_sets():
        _C.force_instruction_set(isa)
        for width in (1, 3, 8, 17, 32, 33, 64, 131, 513, 1023, 1025):
            for offset in (0, 1, 6, 74):
                width = min(width, shape[1] - offset)
                cut = whole[2:, offset : offset + width]
                region = Region(shape, (2, offset))
                padded = torch.zeros(299, width + 5, dtype=dtype)
                for shard in (torch.empty_like(cut), padded[:, 2:-3], torch.empty_like(cut.T).T):
                    fill(shard, key=5, region=region)
                    assert torch.equal(shard, cut), (isa, width, offset, shard.stride())
                assert not padded[:, :2].any() and not padded[:, -3:].any()


def test_a_row_of_a_sparse_complex_matrix_in_steps() -> None:
    whole = fastinit.sparse_(torch.empty(9, 20, dtype=torch.complex64), 0.4, key=5)
    row = torch.empty(1, 40, dtype=torch.complex64)[:, ::2]
    fastinit.sparse_(row, 0.4, key=5, region=Region((9, 20), (3, 0)))
    assert torch.equal(row, whole[3:4])
