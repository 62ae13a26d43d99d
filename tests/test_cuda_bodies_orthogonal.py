"""The bodies of `orthogonal_`'s CUDA kernels, run thread after thread on the CPU: the CPU's bits.

Shared memory holds poison at first, tensors NaN. Thread blocks, and threads between two barriers,
run in ascending order if the number of blocks asked for is odd, in descending order if it is even:
whoever reads what another one has not written yet gets other bits in one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _bits import COMPLEX, DTYPES, assert_same_bits, short
from test_cuda_bodies import KEY, emulated
from torch import Tensor

import fastinit
from fastinit import Region
from fastinit._fill.extension import native

WIDE = [torch.float32, torch.float64, *COMPLEX]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=short)


def unwritten(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, torch.nan).to(dtype)


def check(make: Callable[[], Tensor], **given: Any) -> None:
    """Fill what `make` makes both ways."""
    given = {"key": KEY, **given}
    expected = fastinit.orthogonal_(make(), **given)
    assert not torch.isnan(
        torch.view_as_real(expected) if expected.is_complex() else expected
    ).any()
    for blocks in (1, 2):
        ours = make()
        with emulated(blocks, 1):
            fastinit.orthogonal_(ours, **given)
        assert_same_bits(torch.cat([ours]), torch.cat([expected]))


@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (70, 67), (34, 150), (200, 130)], ids=str)
def test_shapes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Fewer than a block's columns, several blocks, the last of them not full; tall and wide."""
    check(lambda: unwritten(*shape, dtype=dtype))


@pytest.mark.parametrize("dtype", WIDE, ids=short)
@pytest.mark.parametrize("rows", [63, 64, 65, 127, 128, 129, 191, 192, 193])
def test_ends_of_segments(rows: int, dtype: torch.dtype) -> None:
    """Sums begin anew every 128 real rows, and the top has 64."""
    check(lambda: unwritten(5, rows, dtype=dtype))


@dtypes
def test_layouts(dtype: torch.dtype) -> None:
    """What is made in place, along rows and columns, and what has memory of its own."""
    for shape in ((70, 90), (90, 70)):
        check(lambda s=shape: unwritten(*s[::-1], dtype=dtype).T)
        check(lambda s=shape: unwritten(s[0], 3 * s[1], dtype=dtype)[:, ::3])
        check(lambda s=shape: unwritten(s[0], s[1] + 5, dtype=dtype)[:, 2:-3])
    channels_last = unwritten(12, 6, 5, 3, dtype=dtype).to(memory_format=torch.channels_last)
    check(lambda: channels_last.clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=short)
@pytest.mark.parametrize(
    ("shape", "offsets", "part"),
    [
        ((130, 170), (70, 0), (31, 170)),
        ((130, 170), (0, 99), (130, 20)),
        ((130, 170), (129, 169), (1, 1)),
        ((170, 130), (70, 3), (31, 77)),
        ((20, 6, 5, 3), (3, 1, 0, 1), (9, 4, 5, 2)),
    ],
    ids=str,
)
def test_regions(shape: Any, offsets: Any, part: Any, dtype: torch.dtype) -> None:
    check(lambda: unwritten(*part, dtype=dtype), region=Region(shape, offsets))


@pytest.mark.parametrize("shape", [(70, 90), (6, 5, 3), (5, 40, 30)], ids=str)
def test_flat_regions(shape: tuple[int, ...]) -> None:
    batch = {"batch_axis": 0} if shape[0] == 5 else {}
    size = torch.Size(shape).numel()
    for start, count in ((7, size - 12), (size // 2, 1), (0, size)):
        check(
            lambda n=count: unwritten(2 * n)[::2],
            region=Region.flat(shape, start),
            **batch,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex128], ids=short)
def test_batches(dtype: torch.dtype) -> None:
    check(lambda: unwritten(9, 40, 30, dtype=dtype), batch_axis=0)
    check(lambda: unwritten(20, 7, 30, dtype=dtype), batch_axis=1)
    check(lambda: unwritten(3, 70, 4, 50, dtype=dtype), batch_axis=(0, 2))
    check(
        lambda: unwritten(4, 20, 11, dtype=dtype),
        batch_axis=0,
        region=Region((9, 40, 30), (3, 11, 19)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=short)
def test_in_little_memory(dtype: torch.dtype) -> None:
    """Matrices that fit one at a time, and columns that fit 64 at a time."""
    for shape, region, batch in (
        ((20, 6, 90), None, 0),
        ((150, 160), None, ()),
        ((150, 40), Region((150, 170), (0, 31)), ()),
        ((140, 3, 4, 9), Region((150, 3, 20, 9), (3, 0, 5, 0)), 1),
    ):
        given = {"key": KEY, "batch_axis": batch, "region": region}
        ours, expected = unwritten(*shape, dtype=dtype), unwritten(*shape, dtype=dtype)
        native.emulate_cuda(1, 1, 1)
        try:
            fastinit.orthogonal_(ours, **given)
        finally:
            native.emulate_cuda(0)
        assert_same_bits(ours, fastinit.orthogonal_(expected, **given))


def test_keys_and_gains_on_the_device() -> None:
    keys = torch.stack([key.to_tensor() for key in fastinit.Key(3).split(5)])
    for key in (keys, [*fastinit.Key(3).split(5)]):
        check(lambda: unwritten(5, 40, 30), key=key)
        check(lambda: unwritten(5, 4, 6, 5), key=key, batch_axis=0)
    check(lambda: unwritten(40, 30), key=keys[2])
    for gain in (-2.0, torch.tensor(0.3), torch.tensor(-1.7, dtype=torch.bfloat16)):
        check(lambda: unwritten(40, 70), gain=gain)
        check(lambda: unwritten(40, 70, dtype=torch.float64), gain=gain)


def test_a_generator_moves_on_alike() -> None:
    torch.manual_seed(5)
    expected = fastinit.orthogonal_(unwritten(20, 30)), torch.rand(3)
    torch.manual_seed(5)
    with emulated(1, 1):
        ours = fastinit.orthogonal_(unwritten(20, 30))
    assert_same_bits(ours, expected[0])
    assert_same_bits(torch.rand(3), expected[1])


def test_a_matrix_without_memory_is_refused() -> None:
    """By either way, each of which says how much it needs: emulation is not the engine."""
    said = []
    for blocks in (0, 1):
        tensor = torch.zeros(2, 4)
        with emulated(blocks, 1), pytest.raises(RuntimeError, match="no memory for one") as refusal:
            fastinit.orthogonal_(tensor, key=0, region=Region((1 << 38, 4), (7, 0)))
        assert (tensor == 0).all()
        said.append(str(refusal.value))
    assert said[0] != said[1]
