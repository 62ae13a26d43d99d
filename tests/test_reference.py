"""The oracle itself, against published vectors, recorded outside opinions and exact arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastinit import _reference as reference

VECTORS = Path(__file__).parent / "vectors"
WORDS = st.integers(0, 2**64 - 1)
RECORDED = json.loads((VECTORS / "torch_random.json").read_text())["keys"]


def recorded_key(entry: dict) -> tuple[int, int]:
    seed, offset = entry["key"]
    return int(seed), int(offset)


def known_answers() -> list[list[list[int]]]:
    """(counter, key, result) of each published Philox vector."""
    lines = (VECTORS / "philox4x32_10.txt").read_text().splitlines()
    words = [[int(w, 16) for w in line.split()] for line in lines if not line.startswith("#")]
    return [[line[:4], line[4:6], line[6:]] for line in words]


@pytest.mark.parametrize(("counter", "key", "result"), known_answers())
def test_philox_gives_the_published_answers(counter, key, result):
    assert reference.philox4x32(counter, key).tolist() == result


def test_philox_is_vectorised():
    counters = np.arange(40).reshape(2, 5, 4)
    together = reference.philox4x32(counters, (1, 2))
    assert together.shape == counters.shape
    assert together[1, 3].tolist() == reference.philox4x32(counters[1, 3], (1, 2)).tolist()


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: "-".join(entry["key"]))
class TestAgainstRecordedTorch:
    def test_child_keys(self, entry):
        key = recorded_key(entry)
        for index, child in enumerate(entry["split"]):
            assert reference.child_key(key, index) == tuple(int(word) for word in child)
        last = tuple(int(word) for word in entry["fold_in_last"])
        assert reference.child_key(key, 2**64 - 1) == last

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_uniform_to_the_bit(self, entry, dtype):
        for case in entry["uniform"]:
            expected = [float.fromhex(value) for value in case[dtype]]
            low, high = case["bounds"]
            drawn = reference.uniform(
                recorded_key(entry), np.arange(len(expected)), low, high, dtype
            )
            assert drawn.dtype == dtype
            assert drawn.tolist() == expected

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-6), ("float64", 1e-14)])
    def test_normal(self, entry, dtype, tolerance):
        expected = [float.fromhex(value) for value in entry["normal"][dtype]]
        drawn = reference.normal(recorded_key(entry), np.arange(len(expected)), dtype=dtype)
        np.testing.assert_allclose(drawn, expected, rtol=0, atol=tolerance)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(seed=WORDS, offset=WORDS, index=st.integers(0, 2**62), dtype=st.sampled_from("fd"))
def test_normal_is_the_formula_in_exact_arithmetic(seed, offset, index, dtype):
    mpmath = pytest.importorskip("mpmath")
    lanes = 4 if dtype == "f" else 2
    counter = (offset + index // lanes) % 2**64
    block = reference.philox4x32(
        [counter % 2**32, counter >> 32, 0, 0], (seed % 2**32, seed >> 32)
    ).tolist()
    with mpmath.workdps(40):
        half, scale = mpmath.mpf(1) / 2, mpmath.mpf(2) ** -32
        if dtype == "f":
            x0, x1 = block[:2] if index % 4 < 2 else block[2:]
            u1 = mpmath.mpf(float(np.float32(int(np.float32(x0)) * 2.0**-32 + 2.0**-33)))
            turn = (x1 + half) * scale
        else:
            u1 = (block[0] + (block[1] + half) * scale) * scale
            turn = (block[2] + (block[3] + half) * scale) * scale
        wave = mpmath.sin if index % 2 else mpmath.cos
        exact = mpmath.sqrt(-2 * mpmath.log(u1)) * wave(2 * mpmath.pi * turn)
    drawn = reference.normal((seed, offset), index, dtype=dtype)
    assert abs(float(drawn) - float(exact)) < 4e-15


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    index=st.integers(0, 2**62),
    low=st.floats(-12, 11.9),
    width=st.floats(0.01, 24),
    dtype=st.sampled_from("fd"),
)
def test_trunc_normal_inverts_the_cdf_in_exact_arithmetic(index, low, width, dtype):
    mpmath = pytest.importorskip("mpmath")
    high = min(low + width, 12.0)
    key = (3, 1)
    word, bits = (
        (reference._own_word32(key, index), 32)
        if dtype == "f"
        else (reference._own_word64(key, index), 64)
    )
    drawn = float(reference.trunc_normal(key, index, 0.0, 1.0, low, high, dtype))
    assert low <= drawn <= high
    with mpmath.workdps(60):
        v = (int(word) + mpmath.mpf(1) / 2) / mpmath.mpf(2) ** bits
        target = mpmath.ncdf(low) + v * (mpmath.ncdf(high) - mpmath.ncdf(low))
        # The distance to the exact root, by one Newton step: the density is the slope.
        error = (mpmath.ncdf(drawn) - target) / mpmath.npdf(drawn)
    assert abs(float(error)) < 2e-14


@settings(deadline=None, derandomize=True, max_examples=50)
@given(data=st.data())
def test_region_index_is_the_row_major_index(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=0, max_size=4))
    offsets = [data.draw(st.integers(0, 9)) for _ in shape]
    margin = [data.draw(st.integers(0, 9)) for _ in shape]
    whole = [o + s + m for o, s, m in zip(offsets, shape, margin, strict=True)]
    index = reference.region_index(whole, offsets, shape)
    inside = tuple(slice(o, o + s) for o, s in zip(offsets, shape, strict=True))
    assert np.array_equal(index, np.arange(int(np.prod(whole))).reshape(whole)[inside])


def test_region_index_beyond_32_bits():
    index = reference.region_index((2**31, 2**31), (2**31 - 2, 2**31 - 3), (2, 3))
    assert index[-1, -1] == 2**62 - 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_never_reaches_the_upper_bound(dtype):
    # The spacing of numbers is 2 there: half of all u round to low + 2 unless limited.
    low = 2.0**24 if dtype == "float32" else 2.0**53
    drawn = reference.uniform((1, 0), np.arange(1000), low, low + 2, dtype)
    assert set(drawn.tolist()) == {low}
    empty = reference.uniform((1, 0), np.arange(8), 3.0, 3.0, dtype)
    assert set(empty.tolist()) == {3.0}


def test_imports_nothing_compiled_and_no_torch():
    source = Path(reference.__file__)
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('oracle', {str(source)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module.trunc_normal((1, 2), [3, 4])\n"
        "assert not {'torch', 'fastinit'} & set(sys.modules), 'the oracle must stand alone'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
