"""An outside opinion, asked live: `torch.func._random`, whose key and bits the stream shares.

Uniform draws agree to the bit and so do child keys. Normal draws agree to the accuracy of torch's
own functions in float32 and nearly to the last bit in float64. (What an older torch cannot be
asked, test_stream.py compares with the recording vectors/torch_random.json.)
"""

from __future__ import annotations

import functools

import pytest
import torch
from _bits import assert_same_bits, short
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastinit
from fastinit import Key

_random = pytest.importorskip("torch.func._random", reason="this torch has no torch.func._random")

WORDS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**64 - 1]))
SHAPES = st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple)
many = settings(
    deadline=None,
    derandomize=True,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@functools.cache
def refusal(device: str) -> str:
    """Why this torch cannot be asked on a device; empty if it can. (2.13 has no CPU kernels.)"""
    try:
        key = _random.fold_in(_random.split(_random.key(0, device=device), 1)[0], 0)
        _random.normal(key, 1)
        _random.uniform(key, 1)
    except (NotImplementedError, AttributeError) as error:
        return f"torch {torch.__version__} on {device}: {str(error).split('. ')[0]}"
    return ""


@pytest.fixture(autouse=True)
def torch_answers(request: pytest.FixtureRequest) -> None:
    device = request.getfixturevalue("device") if "device" in request.fixturenames else "cpu"
    if refusal(device):
        pytest.skip(refusal(device))


@many
@given(seed=WORDS, offset=WORDS, count=st.integers(1, 6))
def test_split(seed, offset, count):
    key = Key(seed, offset)
    theirs = _random.split(key.to_tensor(), count)
    assert [(k.seed, k.offset) for k in key.split(count)] == [tuple(k) for k in theirs.tolist()]


@many
@given(seed=WORDS, offset=WORDS, data=st.integers(-(2**63), 2**64 - 1))
def test_fold_in(seed, offset, data):
    key = Key(seed, offset)
    assert key.fold_in(data) == Key.from_tensor(_random.fold_in(key.to_tensor(), data))


def test_an_int_stands_for_the_same_key(device):
    theirs = _random.uniform(_random.key(1234, device=device), 100)
    assert_same_bits(fastinit.uniform_(torch.empty(100, device=device), key=1234), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@many
@given(
    seed=WORDS,
    offset=WORDS,
    shape=SHAPES,
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-3, 1e3),
)
def test_uniform_to_the_bit(dtype, device, seed, offset, shape, low, width):
    if refusal("cpu"):  # elsewhere torch may multiply and add with one rounding
        pytest.skip(refusal("cpu"))
    high = low + width
    key = Key(seed, offset)
    theirs = _random.uniform(key.to_tensor("cpu"), shape, low=low, high=high, dtype=dtype)
    ours = fastinit.uniform_(torch.empty(shape, dtype=dtype, device=device), low, high, key=key)
    # A draw that rounds to the upper bound: torch keeps it, a half-open interval does not.
    end = torch.tensor(high, dtype=dtype)
    inside = theirs < end
    assert_same_bits(ours.cpu()[inside], theirs[inside])
    assert bool((ours.cpu() < end).all())


NORMAL_TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@many
@given(seed=WORDS, offset=WORDS, shape=SHAPES)
def test_normal_to_its_accuracy(dtype, device, seed, offset, shape):
    key = Key(seed, offset).to_tensor(device)
    theirs = _random.normal(key, shape, dtype=dtype)
    ours = fastinit.normal_(torch.empty(shape, dtype=dtype, device=device), key=key)
    assert float((ours - theirs).abs().max()) <= NORMAL_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
def test_a_million_normals(dtype, device):
    key = Key(2024, 7).to_tensor(device)
    theirs = _random.normal(key, 1 << 20, mean=-1.0, std=0.5, dtype=dtype)
    ours = fastinit.normal_(torch.empty_like(theirs), -1.0, 0.5, key=key)
    assert float((ours - theirs).abs().max()) <= NORMAL_TOLERANCE[dtype]
