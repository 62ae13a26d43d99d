"""`orthogonal_` and `delta_orthogonal_`: bits, accuracy, memory, what is refused.

The bits are held against `fastinit._reference_orthogonal`, which knows neither tiles nor threads;
that the law is the right one is test_orthogonal_law.py's.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from _bits import COMPLEX, DTYPES, NARROW, assert_same_bits, short
from _memory import growth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fastinit
from fastinit import _C, Key, Region, _reference_orthogonal

KEY = Key(0x0123456789ABCDEF, 2**64 - 1000)
WIDE = [torch.float32, torch.float64, *COMPLEX]
few = settings(
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def filled(shape: Any, dtype: torch.dtype = torch.float32, **extra: Any) -> Any:
    w = torch.full(shape, torch.nan).to(dtype)
    return fastinit.orthogonal_(w, **{"key": KEY, **extra})


@functools.cache
def reference(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """What NumPy makes of the same normal matrix, which has no more columns than rows."""
    long, short_side = max(rows, columns), min(rows, columns)
    parts = (2,) if dtype.is_complex else ()
    normal = torch.empty(long, short_side, *parts, dtype=torch.empty(0, dtype=dtype).real.dtype)
    fastinit.normal_(normal, key=KEY)
    given = torch.view_as_complex(normal) if dtype.is_complex else normal
    matrix = torch.from_numpy(_reference_orthogonal.orthogonal(given.numpy()))
    return matrix if rows > columns else matrix.T


@pytest.fixture(params=_C.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Any:
    _C.force_instruction_set(request.param)
    yield request.param
    _C.force_instruction_set(None)


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------ bits


@pytest.mark.parametrize("dtype", WIDE, ids=short)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (70, 67), (34, 150)], ids=str)
@pytest.mark.usefixtures("instruction_set")
def test_the_reference_has_the_same_bits(shape: tuple[int, int], dtype: torch.dtype) -> None:
    assert_same_bits(filled(shape, dtype), reference(*shape, dtype).contiguous())


def test_a_contracted_product_would_be_noticed() -> None:
    """Sums of rounded products, as without fma, are another matrix."""
    kept = _reference_orthogonal._fma
    _reference_orthogonal._fma = lambda a, b, c: a * b + c
    try:
        plain = _reference_orthogonal.orthogonal(
            fastinit.normal_(torch.empty(20, 20), key=KEY).numpy()
        )
    finally:
        _reference_orthogonal._fma = kept
    whole = filled((20, 20)).numpy().T
    assert not np.array_equal(plain, whole)
    assert np.allclose(plain, whole, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128], ids=short)
@pytest.mark.parametrize("shape", [(300, 300), (130, 515), (515, 130), (9, 40, 40)], ids=str)
def test_threads_do_not_show(shape: tuple[int, ...], dtype: torch.dtype, threads: Any) -> None:
    batch = {"batch_axis": 0} if len(shape) == 3 else {}
    threads(1)
    expected = filled(shape, dtype, **batch)
    for count in (2, 3, 7):
        threads(count)
        assert_same_bits(filled(shape, dtype, **batch), expected)


def test_instruction_sets_do_not_show() -> None:
    found = {}
    for name in _C.instruction_sets():
        _C.force_instruction_set(name)
        found[name] = [filled((200, 210), dtype) for dtype in WIDE]
    _C.force_instruction_set(None)
    first, *others = found.values()
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert_same_bits(b, a)


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_memory_order_does_not_show(dtype: torch.dtype) -> None:
    for shape in ((70, 90), (90, 70)):
        expected = filled(shape, dtype)
        transposed = torch.empty(shape[::-1], dtype=dtype).T
        stepped = torch.empty(shape[0], 3 * shape[1], dtype=dtype)[:, ::3]
        part = torch.empty(shape[0], shape[1] + 5, dtype=dtype)[:, 2:-3]
        for held in (transposed, stepped, part):
            assert_same_bits(fastinit.orthogonal_(held, key=KEY), expected)
    shape = (12, 6, 5, 3)
    held = torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last)
    assert_same_bits(fastinit.orthogonal_(held, key=KEY), filled(shape, dtype))


@pytest.mark.parametrize("dtype", NARROW, ids=short)
def test_narrow_dtypes_are_float32_rounded(dtype: torch.dtype) -> None:
    for shape in ((64, 70), (70, 64)):
        assert_same_bits(filled(shape, dtype, gain=1.7), filled(shape, gain=1.7).to(dtype))


def test_a_matrix_and_its_transpose_are_one_draw() -> None:
    assert_same_bits(filled((70, 90)).T.contiguous(), filled((90, 70)))


def test_a_gain_multiplies_at_the_end() -> None:
    assert_same_bits(filled((40, 50), gain=-2.0), filled((40, 50)) * -2.0)
    assert_same_bits(filled((40, 50), gain=torch.tensor(0.3)), filled((40, 50), gain=0.3))


# ------------------------------------------------------------------------------- parts and batches

SHAPES = [(70, 90), (90, 70), (130, 4, 5), (6, 5, 3), (33, 33)]


@few
@given(st.data())
def test_a_region_is_a_part_of_the_whole(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.complex64]))
    offsets = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    part = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(shape, offsets, strict=True))
    batch = {"batch_axis": 1} if len(shape) == 3 and data.draw(st.booleans()) else {}
    whole = filled(shape, dtype, **batch)
    cut = whole[tuple(slice(o, o + n) for o, n in zip(offsets, part, strict=True))]
    assert_same_bits(filled(part, dtype, region=Region(shape, offsets), **batch), cut)


@few
@given(st.data())
def test_a_flat_region_is_a_run_of_the_whole(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    batch = {"batch_axis": 0} if len(shape) == 3 and data.draw(st.booleans()) else {}
    start = data.draw(st.integers(0, math.prod(shape) - 1))
    count = data.draw(st.integers(1, math.prod(shape) - start))
    run = torch.full((2 * count,), torch.nan)[::2]
    fastinit.orthogonal_(run, key=KEY, region=Region.flat(shape, start), **batch)
    assert_same_bits(torch.cat([run]), filled(shape, **batch).flatten()[start : start + count])


def test_a_batch_is_made_of_orthogonal_matrices() -> None:
    w = filled((7, 20, 30), batch_axis=0)
    assert torch.allclose(w @ w.mT, torch.eye(20).expand(7, 20, 20), atol=1e-5)
    assert len(w.flatten(1).unique(dim=0)) == 7
    assert_same_bits(w[:1], filled((1, 20, 30), batch_axis=(0,)))
    # One draw whatever the order of the axes, and the first matrix is that of a single fill.
    assert_same_bits(filled((20, 7, 30), batch_axis=1).movedim(1, 0).contiguous(), w)
    assert_same_bits(filled((20, 30, 7), batch_axis=-1).movedim(-1, 0).contiguous(), w)
    assert_same_bits(filled((20, 30)), w[0])


def test_a_key_for_each_slice() -> None:
    keys = Key(3).split(5)
    each = [fastinit.orthogonal_(torch.empty(40, 30), key=key) for key in keys]
    assert_same_bits(filled((5, 40, 30), key=keys), torch.stack(each))
    batches = [fastinit.orthogonal_(torch.empty(4, 6, 5), key=key, batch_axis=0) for key in keys]
    assert_same_bits(filled((5, 4, 6, 5), key=keys, batch_axis=0), torch.stack(batches))


@pytest.mark.parametrize("shape", [(2048, 2048), (512, 4096)], ids=str)
def test_a_matrix_needs_a_panel_beside_itself(shape: tuple[int, int]) -> None:
    w = torch.zeros(shape)
    with growth() as grown:
        fastinit.orthogonal_(w, key=0)
    assert grown.bytes < 6 << 20  # the matrix has 16 MB or 8
    part = torch.zeros(32, shape[1])
    with growth() as grown:
        fastinit.orthogonal_(part, key=0, region=Region(shape, (shape[0] - 32, 0)))
    assert grown.bytes < 6 << 20
    assert torch.equal(part, w[-32:])


# -------------------------------------------------------------------------------------- accuracy


def errors(w: torch.Tensor) -> tuple[float, float]:
    """The mean and the largest error of the products of the shorter side."""
    q = w.numpy().astype(np.clongdouble if w.is_complex() else np.longdouble)
    off = abs(q @ q.conj().T - np.eye(len(q)))
    return float(off.mean()), float(off.max())


def by_qr(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """What torch.nn.init does, which knows no complex numbers."""
    q, r = torch.linalg.qr(torch.randn(shape[::-1], dtype=dtype))
    return (q * r.diagonal().sgn()).T


@pytest.mark.parametrize("dtype", WIDE, ids=short)
@pytest.mark.parametrize(
    ("shape", "count"), [((16, 16), 100), ((64, 64), 8), ((130, 130), 2), ((40, 300), 4)], ids=str
)
def test_no_less_accurate_than_stock(
    shape: tuple[int, int], count: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ours = [errors(filled(shape, dtype, key=i)) for i in range(count)]
    stock = [errors(by_qr(shape, dtype)) for _ in range(count)]
    for mine, theirs in zip(np.mean(ours, axis=0), np.mean(stock, axis=0), strict=True):
        assert mine <= 1.05 * theirs


# ------------------------------------------------------------------------------- what is refused


def refused(error: type[Exception], message: str, tensor: torch.Tensor, **given: Any) -> None:
    before = tensor.clone()
    with pytest.raises(error, match=message):
        fastinit.orthogonal_(tensor, **{"key": 0, **given})
    assert torch.equal(tensor, before)


def test_batch_axes_must_leave_a_matrix() -> None:
    w = torch.zeros(3, 4, 5)
    refused(ValueError, r"batch_axis \[0, 1\] leaves 1 of the tensor's 3 dim", w, batch_axis=(0, 1))
    refused(ValueError, r"batch_axis \[0\] leaves 1", torch.zeros(3, 4), batch_axis=0)
    refused(ValueError, "batch_axis holds 3, but a tensor of 3 dimensions", w, batch_axis=3)
    refused(ValueError, "batch_axis holds -3 twice", w, batch_axis=(0, -3))
    refused(TypeError, "batch_axis must be an int or a sequence", w, batch_axis="0")


@pytest.mark.parametrize("rows", [1 << 38, 1 << 50])
def test_a_panel_without_memory_is_refused(rows: int) -> None:
    message = f"a matrix of {rows} x 4 is made from panels"
    refused(RuntimeError, message, torch.zeros(2, 4), region=Region((rows, 4), (7, 0)))


# ------------------------------------------------------------------------------- delta-orthogonal


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 4, 3, 3), (7, 7, 2, 5), (5, 3, 3, 4, 3)], ids=str)
def test_delta_orthogonal(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    w = torch.full(shape, torch.nan).to(dtype).to(device)
    assert fastinit.delta_orthogonal_(w, 1.5, key=KEY) is w
    centre = tuple((k - 1) // 2 for k in shape[2:])
    expected = torch.zeros(shape).to(dtype)
    expected[(slice(None), slice(None), *centre)] = filled(shape[:2], dtype, gain=1.5)
    assert_same_bits(w.cpu(), expected)


def test_a_delta_orthogonal_layer_keeps_lengths() -> None:
    layer = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    fastinit.delta_orthogonal_(layer.weight, key=0)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1))


@few
@given(st.data())
def test_parts_of_a_delta_orthogonal_weight(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(9, 4, 3, 3), (6, 6, 5), (5, 4, 1, 2, 3)]))
    whole = fastinit.delta_orthogonal_(torch.empty(shape), key=KEY)
    offsets = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    part = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(shape, offsets, strict=True))
    cut = whole[tuple(slice(o, o + n) for o, n in zip(offsets, part, strict=True))]
    held = torch.full(part, torch.nan)
    fastinit.delta_orthogonal_(held, key=KEY, region=Region(shape, offsets))
    assert_same_bits(held, cut.contiguous())
    start = data.draw(st.integers(0, whole.numel() - 1))
    run = torch.full((data.draw(st.integers(1, whole.numel() - start)),), torch.nan)
    fastinit.delta_orthogonal_(run, key=KEY, region=Region.flat(shape, start))
    assert_same_bits(run, whole.flatten()[start : start + len(run)])


def test_delta_orthogonal_draws_one_key() -> None:
    torch.manual_seed(3)
    expected = fastinit.delta_orthogonal_(torch.empty(6, 4, 3))
    after = torch.get_rng_state()
    torch.manual_seed(3)
    parts = torch.empty(11)
    fastinit.delta_orthogonal_(parts, region=Region.flat((6, 4, 3), 5))
    assert_same_bits(parts, expected.flatten()[5:16])
    assert torch.equal(torch.get_rng_state(), after)


def test_delta_orthogonal_refuses_what_keeps_no_lengths() -> None:
    for tensor, message in (
        (torch.ones(4, 5, 3), "tensor has 5 in channels and 4 out channels"),
        (torch.ones(4, 4), r"tensor must have 3, 4 or 5 dimensions .* got shape \(4, 4\)"),
        (torch.ones(4, 4, 1).expand(4, 4, 3), "tensor has elements that share memory"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            fastinit.delta_orthogonal_(tensor, key=0)
        assert (tensor == 1).all()
    with pytest.raises(ValueError, match="gain or std is a tensor of shape"):
        fastinit.delta_orthogonal_(torch.ones(4, 4, 3), torch.ones(2), key=0)
    keys = Key(3).split(2)
    each = [fastinit.delta_orthogonal_(torch.empty(5, 4, 3), key=key) for key in keys]
    together = fastinit.delta_orthogonal_(torch.empty(2, 5, 4, 3), key=keys)
    assert_same_bits(together, torch.stack(each))
