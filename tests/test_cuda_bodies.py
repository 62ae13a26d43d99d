"""The CUDA kernels' bodies, run thread after thread on the CPU: the bits of the CPU engine.

`native.emulate_cuda(blocks, threads)` has the functions that the kernels wrap fill CPU tensors.
Outputs are poisoned first, so that an element no thread writes shows; and they are cut from larger
poisoned buffers, so that an element beyond the ends shows too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from _bits import DTYPES, assert_same_bits, raw, short
from conftest import POISON
from torch import Tensor

import fastinit
from fastinit._fill.extension import native

Fill = Callable[..., Tensor]

FILLS: dict[str, Fill] = {
    "uniform_": lambda t, **stream: fastinit.uniform_(t, -0.3, 0.5, **stream),
    "normal_": lambda t, **stream: fastinit.normal_(t, 0.1, 0.7, **stream),
    "trunc_normal_": lambda t, **stream: fastinit.trunc_normal_(t, 0.1, 0.7, -1.0, 1.5, **stream),
}
KEY = fastinit.Key(0x0123456789ABCDEF, 2**64 - 5)  # the offset wraps around


@contextmanager
def emulated(blocks: int, threads: int) -> Iterator[None]:
    native.emulate_cuda(blocks, threads)
    try:
        yield
    finally:
        native.emulate_cuda(0)


def buffer(elements: int, dtype: torch.dtype) -> Tensor:
    """Poisoned memory that begins at a multiple of 64 bytes."""
    memory = torch.full((elements + 64,), POISON, dtype=dtype)
    skip = -memory.data_ptr() % 64 // memory.element_size()
    return memory[skip:][:elements]


def check(
    fill: Fill, make: Callable[[Tensor], Tensor], elements: int, dtype: torch.dtype,
    grid: tuple[int, int], **stream: Any,
) -> None:  # fmt: skip
    """Fill the view that `make` takes of a buffer both ways and compare the whole buffers."""
    ours, expected = buffer(elements, dtype), buffer(elements, dtype)
    with emulated(*grid):
        fill(make(ours), **stream)
    fill(make(expected), **stream)
    assert_same_bits(ours, expected)
    view = make(expected)
    wrong = view.real if view.is_complex() else view.double()
    assert not (wrong == POISON).any()  # the engine itself leaves no element out


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=short)
functions = pytest.mark.parametrize("function", FILLS)


@dtypes
@functions
def test_sizes(function: str, dtype: torch.dtype) -> None:
    for size in [*range(1, 40), 127, 128, 129, 1000]:
        grid = (size % 3 + 1, size % 7 + 1)
        check(FILLS[function], lambda t, n=size: t[:n], size + 20, dtype, grid, key=KEY)


@dtypes
@functions
def test_alignments(function: str, dtype: torch.dtype) -> None:
    """Every place of the first element in 16 bytes, with every place of it in its block."""
    for begin in range(17):
        for offset in range(5):
            region = fastinit.Region((1000,), (offset,))
            size = 1 + (begin * 5 + offset) % 70
            check(
                FILLS[function],
                lambda t, b=begin, n=size: t[b : b + n],
                100,
                dtype,
                (2, 3),
                key=KEY,
                region=region,
            )


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "transposed": (lambda t: t.view(23, 37).t(), 23 * 37),
    "channels_last": (lambda t: t.view(3, 4, 5, 7).permute(0, 3, 1, 2), 3 * 4 * 5 * 7),
    "stepped": (lambda t: t[1::3], 400),
    "rows with gaps": (lambda t: t.view(11, 31)[:, 3:20], 11 * 31),
    "stepped rows": (lambda t: t.view(30, 16)[::2, 1::5], 30 * 16),
    "one column": (lambda t: t.view(50, 9)[:, 4], 450),
    "permuted": (lambda t: t.view(2, 3, 4, 5, 6).permute(3, 0, 4, 2, 1), 720),
    "scalar": (lambda t: t[3].view(()), 10),
    "ten dimensions": (lambda t: t.view([2] * 10).permute(*range(9, -1, -1)), 1024),
}


@dtypes
@functions
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(function: str, dtype: torch.dtype, layout: str) -> None:
    make, elements = LAYOUTS[layout]
    for grid in [(1, 1), (3, 5), (2, 64)]:
        check(FILLS[function], make, elements, dtype, grid, key=KEY)


REGIONS = {
    "rows": ((40, 13), (17, 0), (5, 13)),
    "columns": ((40, 13), (0, 3), (40, 6)),
    "one column": ((40, 13), (0, 12), (40, 1)),
    "block": ((7, 9, 11), (2, 3, 5), (4, 5, 3)),
    "vector": ((1001,), (998,), (3,)),
}


@dtypes
@functions
@pytest.mark.parametrize("case", REGIONS)
def test_regions(function: str, dtype: torch.dtype, case: str) -> None:
    whole, offsets, shape = REGIONS[case]
    elements = int(np.prod(shape))
    region = fastinit.Region(whole, offsets)
    for make in (
        lambda t: t.view(shape),
        lambda t: t.view(shape[::-1]).permute(*range(len(shape))[::-1]),
    ):
        check(FILLS[function], make, elements, dtype, (2, 7), key=KEY, region=region)


def test_far_regions() -> None:
    """Element numbers beyond 32 bits, and beyond 2^62."""
    for whole, offsets in [((2**33, 3), (2**33 - 9, 0)), ((2**31, 2**31), (2**31 - 9, 2**31 - 3))]:
        region = fastinit.Region(whole, offsets)
        check(
            FILLS["normal_"],
            lambda t: t.view(9, 3),
            27,
            torch.float32,
            (2, 3),
            key=KEY,
            region=region,
        )


@pytest.mark.parametrize("grid", [(1, 1), (1, 128), (7, 1), (3, 5), (40, 33)])
@functions
def test_grids(function: str, grid: tuple[int, int]) -> None:
    for size in (1, 100, 5001):
        check(
            FILLS[function], lambda t, n=size: t[3 : n + 3], size + 20, torch.float32, grid, key=KEY
        )


@dtypes
def test_sparse(dtype: torch.dtype) -> None:
    def fill(tensor: Tensor, **stream: Any) -> Tensor:
        return fastinit.sparse_(tensor, 0.3, 0.5, **stream)

    for make in (lambda t: t.view(37, 23), lambda t: t.view(23, 37).t()):
        check(fill, make, 23 * 37, dtype, (3, 5), key=KEY)
    region = fastinit.Region((80, 23), (21, 0))
    check(fill, lambda t: t.view(37, 23), 37 * 23, dtype, (3, 5), key=KEY, region=region)


@dtypes
@pytest.mark.parametrize(
    "name", ["kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "lecun_normal_"]
)
def test_fan_on_the_device(name: str, dtype: torch.dtype) -> None:
    function = getattr(fastinit, name)
    check(function, lambda t: t.view(6, 8, 3, 3), 432, dtype, (2, 5), key=KEY)


SCALES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]


@pytest.mark.parametrize("scale_dtype", [*SCALES, torch.float8_e5m2], ids=short)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
def test_scale_on_the_device(dtype: torch.dtype, scale_dtype: torch.dtype) -> None:
    scale = torch.tensor(0.40625).to(scale_dtype)

    def normal(tensor: Tensor, **stream: Any) -> Tensor:
        return fastinit.normal_(tensor, 0.1, scale, **stream)

    def truncated(tensor: Tensor, **stream: Any) -> Tensor:
        return fastinit.trunc_normal_(tensor, 0.0, scale, -1.0, 1.0, **stream)

    def xavier(tensor: Tensor, **stream: Any) -> Tensor:
        return fastinit.xavier_normal_(tensor, scale, **stream)

    for fill in (normal, truncated, xavier):
        check(fill, lambda t: t.view(9, 31), 279, dtype, (2, 5), key=KEY)


def test_key_on_the_device() -> None:
    key = fastinit.Key(2**63 + 11, 77)
    words = torch.tensor([0, 0, 0, 0], dtype=torch.uint64)
    words[::2] = key.to_tensor()
    for tensor in (key.to_tensor(), words[::2]):
        check(FILLS["normal_"], lambda t: t, 100, torch.float32, (2, 5), key=tensor)
    ours, expected = torch.empty(50), torch.empty(50)
    with emulated(2, 3):
        fastinit.normal_(ours, key=key.to_tensor())
    assert_same_bits(ours, fastinit.normal_(expected, key=key))


@pytest.mark.parametrize("grid", [(1, 1), (5, 3), (64, 32)])
def test_many_tensors(grid: tuple[int, int]) -> None:
    def tensors() -> list[Tensor]:
        sizes = (1, 2, 5, 64, 3000, 1, 4, 777)
        plain = [buffer(n, dtype) for dtype in DTYPES for n in sizes for _ in range(3)]
        strided = [
            make(buffer(elements, dtype))
            for dtype in DTYPES
            for make, elements in LAYOUTS.values()
            for _ in range(3)
        ]
        return plain + strided

    ours, expected = tensors(), tensors()
    codes = [i % 3 for i in range(len(ours))]
    mean, std = [0.1] * len(ours), [0.7] * len(ours)
    low, high = [-1.0] * len(ours), [1.5] * len(ours)
    key = [word for i in range(len(ours)) for word in (i, -i)]
    with emulated(*grid):
        native.multi_fill_(ours, codes, mean, std, low, high, key)
    native.multi_fill_(expected, codes, mean, std, low, high, key)
    for a, b in zip(ours, expected, strict=True):
        assert_same_bits(a, b)


@dtypes
@pytest.mark.parametrize("grid", [(1, 5), (7, 3), (400, 2)])
def test_many_of_every_alignment(grid: tuple[int, int], dtype: torch.dtype) -> None:
    """In memory and in the stream, cut into shares wherever they end."""
    places = [(begin, offset) for begin in range(17) for offset in range(5)]
    count = len(places)
    buffers = [[buffer(120, dtype) for _ in places] for _ in range(2)]
    ours, expected = (
        [t[begin : begin + 60 + offset] for t, (begin, offset) in zip(each, places, strict=True)]
        for each in buffers
    )
    law = ([i % 3 for i in range(count)], *([x] * count for x in (0.1, 0.7, -1.0, 1.5)))
    region = {"global_shape": [1000] * count, "offsets": [offset for _, offset in places]}
    with emulated(*grid):
        native.multi_fill_(ours, *law, list(range(2 * count)), **region)
    native.multi_fill_(expected, *law, list(range(2 * count)), **region)
    for a, b in zip(*buffers, strict=True):
        assert_same_bits(a, b)


def test_one_huge_among_small_tensors() -> None:
    sizes = [3] * 40 + [20_000] + [5] * 40
    ours, expected = ([buffer(n, torch.float32) for n in sizes] for _ in range(2))
    count = len(sizes)
    given = ([1] * count, [0.0] * count, [1.0] * count, [0.0] * count, [0.0] * count)
    with emulated(37, 4):
        native.multi_fill_(ours, *given, list(range(2 * count)))
    native.multi_fill_(expected, *given, list(range(2 * count)))
    for a, b in zip(ours, expected, strict=True):
        assert_same_bits(a, b)


def test_emulation_is_not_the_engine() -> None:
    """A test of the tests: emulating with no thread at all would pass unnoticed otherwise."""
    tensor = torch.full((1 << 20,), POISON)
    with emulated(1, 1):
        fastinit.normal_(tensor[:64], key=1)
    assert (tensor[64:] == POISON).all()
    with pytest.raises(ValueError, match="0 threads"):
        native.emulate_cuda(1, 0)


def test_key_of_a_cuda_generator() -> None:
    """Philox of (seed, offset / 4) in a subsequence of its own, which no stock kernel reads."""
    subsequence = int.from_bytes(b"fastinit", "big")
    for seed, offset in [(0, 0), (2**64 - 1, 4), (12345, 2**40), (7, 2**64 - 4)]:
        step = offset // 4
        counter = [step % 2**32, step >> 32, subsequence % 2**32, subsequence >> 32]
        words = native.philox(counter, [seed % 2**32, seed >> 32])
        expected = (words[0] | words[1] << 32, words[2] | words[3] << 32)
        assert native.cuda_generator_key(seed, offset) == expected


def test_raw_helper_sees_bytes() -> None:
    assert raw(torch.zeros(2, dtype=torch.float64)).numel() == 16
