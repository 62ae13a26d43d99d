"""The promise: an element is a pure function of (key, global index, law). Held against the oracle.

Uniform draws must equal `fastinit._reference` to the bit; normal and truncated normal draws, whose
float32 polynomials are the project's own, must lie within 1e-6 of the formula in exact arithmetic.
Every narrower dtype must be the float32 draw rounded once. What the fills were on the day they were
written is pinned by the checksums of vectors/golden.json.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from _bits import (
    COMPLEX,
    DTYPES,
    NARROW,
    REAL,
    arithmetic,
    assert_same_bits,
    largest_below,
    raw,
    short,
    to_numpy,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reference import RECORDED, known_answers, recorded_key

import fastinit
from fastinit import _C, Key, Region
from fastinit import _reference as reference

pytestmark = pytest.mark.filterwarnings("ignore:mean is more than 2 std")  # far tails, on purpose

WORDS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**64 - 1]))
KEYS = st.tuples(WORDS, WORDS)
FINITE = st.floats(-1e3, 1e3)
thorough = settings(
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def places(draw):
    """A small tensor's shape and where it lies in a possibly huge global tensor."""
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    if draw(st.booleans()):
        return tuple(shape), None
    room = 2**61 // math.prod(shape)  # complex indices are twice as large
    offsets, whole = [], []
    for size in shape:
        at = draw(st.one_of(st.integers(0, 50), st.integers(0, min(room, 2**40))))
        beyond = draw(st.integers(0, 50))
        total = at + size + beyond
        if total > room:
            at, total = 0, size
        room //= total
        offsets.append(at)
        whole.append(total)
    return tuple(shape), Region(whole, offsets)


def index_of(shape, region):
    if region is None:
        return reference.region_index(shape, [0] * len(shape), shape)
    return reference.region_index(region.global_shape, region.offsets, shape)


def poisoned(shape, dtype, device):
    """A tensor of NaNs: an element that is not written shows."""
    return torch.full(shape, torch.nan, dtype=torch.float32).to(dtype).to(device)


# Philox and keys


@pytest.mark.parametrize(("counter", "key", "result"), known_answers())
def test_philox_gives_the_published_answers(counter, key, result):
    assert list(_C.philox(counter, key)) == result


@thorough
@given(
    counter=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
    key=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2),
)
def test_philox_equals_the_reference(counter, key):
    assert list(_C.philox(counter, key)) == reference.philox4x32(counter, key).tolist()


@thorough
@given(key=KEYS, index=WORDS)
def test_child_keys_equal_the_reference(key, index):
    expected = reference.child_key(key, index)
    assert tuple(_C.child_key(*key, index)) == expected
    child = Key(*key).fold_in(index)
    assert (child.seed, child.offset) == expected


@thorough
@given(key=KEYS, count=st.integers(0, 5))
def test_split_gives_the_first_children(key, count):
    children = Key(*key).split(count)
    assert [(c.seed, c.offset) for c in children] == [
        reference.child_key(key, i) for i in range(count)
    ]


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: "-".join(entry["key"]))
def test_recorded_draws_of_torch(entry, device):
    """What torch.func._random drew on the day it was recorded (test_oracles.py asks it live)."""
    key = Key(*recorded_key(entry))
    for case in entry["uniform"]:
        for dtype in (torch.float32, torch.float64):
            expected = [float.fromhex(value) for value in case[short(dtype)]]
            w = torch.empty(len(expected), dtype=dtype, device=device)
            assert fastinit.uniform_(w, *case["bounds"], key=key).tolist() == expected


# Uniform


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@thorough
@given(key=KEYS, place=places(), low=FINITE, width=st.one_of(st.floats(0, 1e3), st.just(1e-7)))
def test_uniform_equals_the_reference_to_the_bit(dtype, device, key, place, low, width):
    shape, region = place
    w = poisoned(shape, dtype, device)
    fastinit.uniform_(w, low, low + width, key=Key(*key), region=region)
    expected = reference.uniform(key, index_of(shape, region), low, low + width, arithmetic(dtype))
    assert_same_bits(w, torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@pytest.mark.parametrize("before", [0, 1, 2, 37, 500])
@pytest.mark.parametrize("end", [2**32, 3 * 2**32, 2**64], ids=["2^32", "3 2^32", "2^64"])
def test_the_counter_carries_into_its_upper_half(dtype, device, end, before):
    """Long and short rows, and those of a transposed tensor, around a carry."""
    key = (0x0123456789ABCDEF, end - before)
    for shape in ((5001,), (41, 13), (3, 1501)):
        region = Region((*shape[:-1], shape[-1] + 2), (0,) * (len(shape) - 1) + (1,))
        index = reference.region_index(region.global_shape, region.offsets, shape)
        expected = torch.from_numpy(reference.uniform(key, index, -1.0, 1.0, arithmetic(dtype)))
        transposed = poisoned(shape[::-1], dtype, device).permute(*reversed(range(len(shape))))
        for w in (poisoned(shape, dtype, device), transposed):
            fastinit.uniform_(w, -1.0, 1.0, key=Key(*key), region=region)
            assert_same_bits(w, expected)


@pytest.mark.parametrize("dtype", NARROW, ids=short)
@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (-1.0, 1.0), (-0.3, 0.1), (-2.0, -1.0), (1.0, 1.0 + 2**-5), (0.5, 0.5), (16, 17)],
)
def test_narrow_uniform_is_the_rounded_float32_kept_below_the_bound(dtype, device, low, high):
    w = poisoned((3, 5003), dtype, device)
    fastinit.uniform_(w, low, high, key=Key(5, 6))
    limit = largest_below(high, low, dtype)
    exact = reference.uniform((5, 6), index_of(w.shape, None), low, high, limit=limit)
    assert_same_bits(w, torch.from_numpy(exact).to(dtype))
    if high > low and limit > float(torch.tensor(low).to(dtype)):
        assert float(to_numpy(w).max()) == limit  # the bound rule had work to do


def test_narrow_uniform_with_nothing_between_its_bounds_is_the_lower_one(device):
    w = torch.empty(4096, dtype=torch.float8_e5m2, device=device)
    fastinit.uniform_(w, 1.0, 1.01, key=1)
    assert set(to_numpy(w)) == {1.0}


# Normal


NORMAL_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@thorough
@given(key=KEYS, place=places())
def test_standard_normal_is_near_the_exact_formula(dtype, device, key, place):
    shape, region = place
    w = poisoned(shape, dtype, device)
    fastinit.normal_(w, key=Key(*key), region=region)
    exact = reference.normal(key, index_of(shape, region), dtype=arithmetic(dtype))
    assert np.abs(to_numpy(w) - exact).max() <= NORMAL_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
def test_a_million_normals_are_near_the_exact_formula(dtype, device):
    w = poisoned((1 << 20,), dtype, device)
    fastinit.normal_(w, key=Key(11, 3))
    exact = reference.normal((11, 3), np.arange(w.numel()), dtype=arithmetic(dtype))
    assert np.abs(to_numpy(w) - exact).max() <= NORMAL_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@thorough
@given(key=KEYS, mean=FINITE, std=st.floats(1e-6, 1e3))
def test_mean_and_std_enter_with_two_roundings(dtype, device, key, mean, std):
    shape = (257,)
    z = fastinit.normal_(poisoned(shape, dtype, device), key=Key(*key)).cpu()
    w = fastinit.normal_(poisoned(shape, dtype, device), mean, std, key=Key(*key))
    scaled = z * torch.tensor(std, dtype=dtype)
    assert_same_bits(w.cpu(), scaled + torch.tensor(mean, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
def test_a_std_of_zero_gives_the_mean(dtype, device):
    w = fastinit.normal_(poisoned((100,), dtype, device), 0.3, 0.0, key=1)
    assert_same_bits(w.cpu(), torch.full((100,), 0.3, dtype=dtype))


# Truncated normal


TRUNCATIONS = [
    (0.0, 1.0, -2.0, 2.0),
    (0.5, 2.0, -1.0, 0.25),
    (0.0, 0.001, -2.0, 2.0),
    (0.0, 1.0, 8.0, 9.0),
    (0.0, 1.0, -9.0, -8.0),
    (0.0, 1.0, 11.0, 12.0),
    (0.0, 1.0, -12.0, 12.0),
    (0.0, 1.0, -0.001, 0.001),
    (3.0, 1.0, 3.0, 12.0),
    (1.0, 0.02, 0.9, 1e4),
]


def assert_near_truncated(w, key, index, mean, std, low, high):
    """Within 1e-6 (float32) or 1e-13 (float64) of the inverse CDF, in units of std.

    Allowed on top are two units in the last place of the result: half of one each from rounding z
    and `z * std + mean`, the rest from the inverse, which far tails of 8 sigma need.
    """
    dtype = arithmetic(w.dtype)
    values = to_numpy(w)
    exact = reference.trunc_normal(key, index, mean, std, low, high, dtype)
    rounding = 2 * np.finfo(dtype).eps * np.maximum(np.abs(exact), abs(mean))
    error = np.maximum(np.abs(values - exact) - rounding, 0) / std
    assert error.max() <= (1e-6 if dtype == np.float32 else 1e-13)
    assert values.min() >= float(dtype(low))
    assert values.max() <= float(dtype(high))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@pytest.mark.parametrize("law", TRUNCATIONS, ids=str)
def test_trunc_normal_is_near_the_exact_inverse(dtype, device, law):
    w = poisoned((1 << 16,), dtype, device)
    fastinit.trunc_normal_(w, *law, key=Key(9, 2))
    assert_near_truncated(w, (9, 2), np.arange(w.numel()), *law)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@thorough
@given(
    key=KEYS,
    place=places(),
    mean=st.floats(-10, 10),
    std=st.floats(1e-3, 10),
    alpha=st.floats(-12, 11.5),
    width=st.floats(0.5, 24),
)
def test_trunc_normal_anywhere(dtype, device, key, place, mean, std, alpha, width):
    shape, region = place
    low, high = mean + alpha * std, mean + min(alpha + width, 12.0) * std
    w = poisoned(shape, dtype, device)
    fastinit.trunc_normal_(w, mean, std, low, high, key=Key(*key), region=region)
    law = mean, std, low, high
    assert_near_truncated(w, key, index_of(shape, region), *law)


# Narrow dtypes and complex numbers


LAWS = {
    "normal": (fastinit.normal_, (0.0, 1.0)),
    "small normal": (fastinit.normal_, (0.1, 0.02)),
    "trunc_normal": (fastinit.trunc_normal_, (0.0, 0.75, -1.5, 1.25)),
    "tiny trunc_normal": (fastinit.trunc_normal_, (0.0, 0.001, -2.0, 2.0)),
    "kaiming_normal": (fastinit.kaiming_normal_, ()),
    "xavier_normal": (fastinit.xavier_normal_, ()),
}


@pytest.mark.parametrize("dtype", NARROW, ids=short)
@pytest.mark.parametrize("law", LAWS)
@settings(thorough, max_examples=10)
@given(key=KEYS)
def test_narrow_is_float32_rounded_once(dtype, device, law, key):
    function, arguments = LAWS[law]
    wide = function(poisoned((97, 61), torch.float32, device), *arguments, key=Key(*key))
    narrow = function(poisoned((97, 61), dtype, device), *arguments, key=Key(*key))
    assert_same_bits(narrow, wide.to(dtype))


@pytest.mark.parametrize("dtype", REAL, ids=short)
@pytest.mark.parametrize("bounds", [(-0.3, 0.7), (0.3, 0.30001), (-1.1, -0.9), (8.3, 9.1)])
def test_trunc_normal_stays_within_the_rounded_bounds(dtype, device, bounds):
    w = poisoned((20011,), dtype, device)
    fastinit.trunc_normal_(w, 0.0, 1.0, *bounds, key=2)
    low, high = (float(torch.tensor(x, dtype=torch.float64).to(dtype)) for x in bounds)
    assert to_numpy(w).min() >= low
    assert to_numpy(w).max() <= high


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
@thorough
@given(key=KEYS, place=places())
def test_complex_normal_is_its_real_view(dtype, device, key, place):
    shape, region = place
    w = poisoned(shape, dtype, device)
    fastinit.normal_(w, 0.25, 3.0, key=Key(*key), region=region)
    real = torch.empty((*shape, 2), dtype=dtype.to_real(), device=device)
    whole = None
    if region is not None:
        whole = Region((*region.global_shape, 2), (*region.offsets, 0))
    fastinit.normal_(real, 0.25, 3.0 / math.sqrt(2.0), key=Key(*key), region=whole)
    assert_same_bits(torch.view_as_real(w), real)


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
def test_complex_uniform_draws_each_component_within_the_bounds(dtype, device):
    w = fastinit.uniform_(poisoned((33, 7), dtype, device), -0.5, 2.0, key=Key(8, 1))
    real = torch.empty((33, 7, 2), dtype=dtype.to_real(), device=device)
    fastinit.uniform_(real, -0.5, 2.0, key=Key(8, 1))
    assert_same_bits(torch.view_as_real(w), real)


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
def test_fan_based_complex_normal_shares_its_std_and_uniform_does_not(dtype, device):
    w = fastinit.kaiming_normal_(poisoned((24, 50), dtype, device), key=3)
    real = torch.empty((24, 50, 2), dtype=dtype.to_real(), device=device)
    std = math.sqrt(2.0) / math.sqrt(50)
    assert_same_bits(
        torch.view_as_real(w), fastinit.normal_(real, 0.0, std / math.sqrt(2.0), key=3)
    )
    w = fastinit.kaiming_uniform_(poisoned((24, 50), dtype, device), key=3)
    bound = math.sqrt(3.0) * std
    assert_same_bits(torch.view_as_real(w), fastinit.uniform_(real, -bound, bound, key=3))


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
def test_variance_scaling_is_of_the_modulus(dtype, device):
    w = fastinit.lecun_uniform_(poisoned((24, 50), dtype, device), key=3)
    real = torch.empty((24, 50, 2), dtype=dtype.to_real(), device=device)
    bound = math.sqrt(3.0) * (math.sqrt(0.5) / math.sqrt(50))
    assert_same_bits(torch.view_as_real(w), fastinit.uniform_(real, -bound, bound, key=3))
    scale = torch.tensor(1.0, device=device)
    assert_same_bits(
        w, fastinit.variance_scaling_(torch.empty_like(w), scale, distribution="uniform", key=3)
    )


# Fans and gains: the std is computed in float64 and rounded once


FAN_SHAPES = [(50, 33), (7, 3, 5), (6, 4, 3, 3), (5, 2, 3, 3, 2), (1, 7)]


def fans(shape):
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


@pytest.mark.parametrize("dtype", REAL, ids=short)
@pytest.mark.parametrize("shape", FAN_SHAPES, ids=str)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_kaiming_is_normal_and_uniform_with_the_exact_std(dtype, device, shape, mode):
    fan = fans(shape)[mode == "fan_out"]
    for nonlinearity, a, gain in [
        ("relu", 0, math.sqrt(2.0)),
        ("leaky_relu", 0.25, math.sqrt(2.0 / (1 + 0.25**2))),
        ("tanh", 0, 5.0 / 3.0),
        ("linear", 0, 1.0),
        ("selu", 0, 0.75),
    ]:
        std = gain / math.sqrt(fan)
        w, expected = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        fastinit.kaiming_normal_(w, a, mode, nonlinearity, key=4)
        assert_same_bits(w, fastinit.normal_(expected, 0.0, std, key=4))
        bound = math.sqrt(3.0) * std
        fastinit.kaiming_uniform_(w, a, mode, nonlinearity, key=4)
        assert_same_bits(w, fastinit.uniform_(expected, -bound, bound, key=4))


@pytest.mark.parametrize("dtype", REAL, ids=short)
@pytest.mark.parametrize("shape", FAN_SHAPES, ids=str)
@pytest.mark.parametrize("gain", [1.0, 5.0 / 3.0])
def test_xavier_is_normal_and_uniform_with_the_exact_std(dtype, device, shape, gain):
    std = gain / math.sqrt(sum(fans(shape)) / 2.0)
    w, expected = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
    fastinit.xavier_normal_(w, gain, key=4)
    assert_same_bits(w, fastinit.normal_(expected, 0.0, std, key=4))
    bound = math.sqrt(3.0) * std
    fastinit.xavier_uniform_(w, gain, key=4)
    assert_same_bits(w, fastinit.uniform_(expected, -bound, bound, key=4))


@pytest.mark.parametrize("dtype", REAL, ids=short)
def test_lecun_normal_is_truncated_with_the_corrected_std(dtype, device):
    w, expected = (torch.empty((40, 30), dtype=dtype, device=device) for _ in range(2))
    std = 1.0 / math.sqrt(30) / reference.TRUNCATED_STD
    fastinit.lecun_normal_(w, key=4)
    fastinit.trunc_normal_(expected, 0.0, std, -2.0 * std, 2.0 * std, key=4)
    assert_same_bits(w, expected)


@pytest.mark.parametrize("function", ["kaiming_normal_", "xavier_uniform_", "lecun_normal_"])
def test_a_region_takes_its_fans_from_the_global_shape(function, device):
    initializer = getattr(fastinit, function)
    whole = initializer(torch.empty(60, 40, device=device), key=1)
    part = torch.empty(13, 17, device=device)
    initializer(part, key=1, region=Region((60, 40), (11, 20)))
    assert_same_bits(part, whole[11:24, 20:37])


# Sparse matrices


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@settings(thorough, max_examples=15)
@given(
    key=KEYS,
    shape=st.tuples(st.integers(1, 70), st.integers(1, 40)),
    beyond=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    offsets=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    sparsity=st.floats(0, 1),
)
def test_sparse_is_the_normal_fill_under_the_keyed_mask(
    dtype, device, key, shape, beyond, offsets, sparsity
):
    rows, columns = (sum(sizes) for sizes in zip(shape, beyond, offsets, strict=True))
    region = Region((rows, columns), offsets)
    w = poisoned(shape, dtype, device)
    fastinit.sparse_(w, sparsity, 0.5, key=Key(*key), region=region)
    expected = torch.empty(shape, dtype=dtype)
    fastinit.normal_(expected, 0.0, 0.5, key=Key(*key), region=region)
    row, column = np.indices(shape)
    zero = reference.sparse_zeros(
        key, row + offsets[0], column + offsets[1], rows, math.ceil(sparsity * rows)
    )
    kept = torch.from_numpy(np.repeat(~zero.ravel(), dtype.itemsize))
    assert torch.equal(raw(w), raw(expected) * kept)  # the bytes of a zero are zeros


def test_sparse_with_rows_beyond_16_bits(device):
    rows = 2**31 + 11
    at = Region((rows, 50), (2**31 - 20, 7))
    w = fastinit.sparse_(torch.empty(31, 9, device=device), 0.5, 1.0, key=5, region=at)
    row, column = np.indices((31, 9))
    zero = reference.sparse_zeros((5, 0), row + 2**31 - 20, column + 7, rows, math.ceil(rows / 2))
    assert np.array_equal(to_numpy(w) == 0, zero)
