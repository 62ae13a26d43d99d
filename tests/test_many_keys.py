"""A key for each slice of axis 0: every slice is what a fill of it alone gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _bits import DTYPES, assert_same_bits, short
from _simulated import on_rank, rank_of
from conftest import POISON
from test_cuda_bodies import emulated
from test_regions import FILLS
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard

import fastinit
from fastinit import Key, Region, initializers
from fastinit.recipes import fan_in, sqrt

SLICE = (6, 7, 3)
KEYS = (Key(3, 8), Key(2**64 - 1, 2**64 - 2), Key(3, 8), Key(0))
SPARSE = (lambda t, **k: fastinit.sparse_(t, 0.35, std=0.5, **k), {})
LAWS = [*FILLS, SPARSE]
laws = pytest.mark.parametrize(("function", "arguments"), LAWS)


def slice_of(function: Callable[..., Tensor]) -> tuple[int, ...]:
    return SLICE[:2] if function is SPARSE[0] else SLICE


def one_by_one(
    function: Callable[..., Tensor], arguments: dict[str, Any], **options: Any
) -> Tensor:
    slices = [
        function(torch.empty(slice_of(function), **options), key=key, **arguments) for key in KEYS
    ]
    return torch.stack(slices)


def poisoned(*shape: int, **options: Any) -> Tensor:
    return torch.full(shape, POISON, **options)


FORMS: dict[str, Callable[[str], Any]] = {
    "tuple of keys": lambda device: KEYS,
    "list": lambda device: list(KEYS),
    "tensor": lambda device: torch.stack([key.to_tensor() for key in KEYS]),
    "transposed tensor": lambda device: torch.stack([k.to_tensor() for k in KEYS], 1).T,
    "tensor on the device": lambda device: torch.stack([k.to_tensor(device) for k in KEYS]),
    "list of tensors": lambda device: [key.to_tensor() for key in KEYS],
}


@laws
@pytest.mark.parametrize("form", FORMS)
def test_slices_are_single_fills(
    function: Callable[..., Tensor], arguments: dict[str, Any], form: str, device: str
) -> None:
    w = poisoned(len(KEYS), *slice_of(function), device=device)
    version = w._version
    assert function(w, key=FORMS[form](device), **arguments) is w
    assert w._version > version
    assert_same_bits(w, one_by_one(function, arguments, device=device))


def test_ints_are_keys_and_split_gives_some() -> None:
    w = fastinit.normal_(torch.empty(3, 5), key=[1, 2, 3])
    assert_same_bits(w[1], fastinit.normal_(torch.empty(5), key=2))
    w = fastinit.normal_(torch.empty(3, 5), key=Key(9).split(3))
    assert_same_bits(w[2], fastinit.normal_(torch.empty(5), key=Key(9).fold_in(2)))


def test_one_key_in_a_sequence_is_not_a_key() -> None:
    """The fans are the slice's, even if there is one slice."""
    w = fastinit.kaiming_normal_(torch.empty(1, 6, 7), key=[5])
    assert_same_bits(w[0], fastinit.kaiming_normal_(torch.empty(6, 7), key=5))
    assert not torch.equal(w, fastinit.kaiming_normal_(torch.empty(1, 6, 7), key=5))


@laws
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("backend", ["engine", "cuda bodies"])
def test_dtypes_and_layouts(
    function: Callable[..., Tensor], arguments: dict[str, Any], dtype: torch.dtype, backend: str
) -> None:
    if function is fastinit.orthogonal_ and (dtype.is_complex or backend != "engine"):
        return  # not elementwise: tests of its own
    expected = one_by_one(function, arguments, dtype=dtype)
    shape = expected.shape
    wide = poisoned(shape[0], *shape[1:-1], shape[-1] + 2, dtype=dtype)
    for w in (
        poisoned(*shape, dtype=dtype),
        poisoned(*reversed(shape), dtype=dtype).permute(*reversed(range(len(shape)))),
        wide[..., 1:-1],
    ):
        with emulated(*((2, 3) if backend == "cuda bodies" else (0, 1))):
            function(w, key=KEYS, **arguments)
        assert_same_bits(w.contiguous(), expected)
    assert (wide[..., 0].to(torch.complex128) == POISON).all()


def test_slices_of_more_dimensions_than_a_layout_has() -> None:
    expected = one_by_one(fastinit.normal_, {})
    many = poisoned(4, *[2] * 10).permute(0, *range(10, 0, -1))
    fastinit.normal_(many, key=KEYS)
    alone = fastinit.normal_(torch.empty(2**10), key=KEYS[1]).view([2] * 10)
    assert_same_bits(many[1].contiguous(), alone)
    assert expected.shape == (4, *SLICE)


def test_a_std_on_the_device(device: str) -> None:
    std = torch.tensor(0.25, device=device)
    w = fastinit.normal_(torch.empty(4, 5, device=device), std=std, key=KEYS)
    for held, key in zip(w, KEYS, strict=True):
        assert_same_bits(held, fastinit.normal_(torch.empty(5, device=device), std=0.25, key=key))


def test_slices_without_elements() -> None:
    for shape in ((0, 3, 4), (4, 0, 3)):
        w = torch.empty(shape)
        for function in (fastinit.normal_, fastinit.lecun_normal_):
            assert function(w, key=[1] * shape[0]) is w
    assert fastinit.normal_(torch.empty(0, 3), key=()).shape == (0, 3)


@laws
def test_deferred_and_keyed(function: Callable[..., Tensor], arguments: dict[str, Any]) -> None:
    expected = one_by_one(function, arguments)
    table = torch.stack([key.to_tensor() for key in KEYS])
    with fastinit.deferred(seed=1):
        w = function(poisoned(*expected.shape), key=KEYS, **arguments)
        late = function(poisoned(*expected.shape), key=table, **arguments)
        table.zero_()  # after the call
        last = fastinit.normal_(torch.empty(3))
    assert_same_bits(w, expected)
    assert_same_bits(late, expected)
    assert_same_bits(last, fastinit.normal_(torch.empty(3), key=Key(1).fold_in(0)))


@laws
def test_meta_and_fake(function: Callable[..., Tensor], arguments: dict[str, Any]) -> None:
    shape = (len(KEYS), *slice_of(function))
    meta = torch.empty(shape, device="meta")
    assert function(meta, key=KEYS, **arguments) is meta
    with torch._subclasses.FakeTensorMode():
        function(torch.empty(shape), key=KEYS, **arguments)


def test_compiled() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def constant(w: Tensor) -> Tensor:
        return fastinit.kaiming_uniform_(w, key=KEYS) * 2

    @torch.compile(fullgraph=True, backend="aot_eager")
    def given(w: Tensor, key: Tensor) -> Tensor:
        return fastinit.kaiming_uniform_(w, key=key) * 2

    expected = one_by_one(fastinit.kaiming_uniform_, {}) * 2
    assert torch.equal(constant(torch.empty(4, *SLICE)), expected)
    table = torch.stack([key.to_tensor() for key in KEYS])
    assert torch.equal(given(torch.empty(4, *SLICE), table), expected)
    assert torch.equal(given(torch.empty(4, *SLICE), table.flip(0)), expected.flip(0))


REFUSALS: list[tuple[str, Any, tuple[int, ...], type[Exception], str]] = [
    ("too few", KEYS[:3], (4, *SLICE), ValueError, r"^key holds 3 keys, but .* \(?\[?4, 6"),
    ("too many", [1, 2], (1, *SLICE), ValueError, "^key holds 2 keys"),
    ("none", [], (1, *SLICE), ValueError, "^key holds 0 keys"),
    ("no slices", [], (), ValueError, "^(key holds 0 keys|Only|Fan in)"),
    ("a float", [1, 2.0], (2, *SLICE), TypeError, "^key must be an int, got 2.0"),
    ("a str", "ab", (2, *SLICE), TypeError, "^key must be an int, got 'ab'"),
    ("mixed", [1, Key(1).to_tensor()], (2, *SLICE), TypeError, "^key must not mix tensors"),
    ("int64", torch.zeros(2, 2, dtype=torch.int64), (2, *SLICE), TypeError, "^key has dtype"),
    ("three", torch.zeros(2, 3).to(torch.uint64), (2, *SLICE), ValueError, "^key has shape"),
    ("3-d", torch.zeros(2, 2, 2).to(torch.uint64), (2, *SLICE), ValueError, "^key has shape"),
]


@laws
@pytest.mark.parametrize(("key", "shape", "error", "message"), [r[1:] for r in REFUSALS])
def test_refusals(
    function: Callable[..., Tensor], arguments: dict[str, Any], key: Any, shape: tuple[int, ...],
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    w = poisoned(*(shape[:3] if function is SPARSE[0] else shape))
    with pytest.raises(error, match=message):
        function(w, key=key, **arguments)
    assert (w == POISON).all()


@laws
def test_regions_generators_and_dtensors_are_refused(
    function: Callable[..., Tensor], arguments: dict[str, Any]
) -> None:
    shape = (4, *slice_of(function))
    w = poisoned(*shape)
    region = Region(shape, (0,) * len(shape))
    with pytest.raises(ValueError, match="^key holds a key for each slice .* region"):
        function(w, key=KEYS, region=region, **arguments)
    with pytest.raises(ValueError, match="^key and generator exclude each other"):
        function(w, key=KEYS, generator=torch.Generator(), **arguments)
    assert (w == POISON).all()
    with rank_of((2,), 1) as mesh:
        for placement in (Shard(0), Replicate()):
            tensor = on_rank(shape, [placement], mesh)
            with pytest.raises(ValueError, match="^key holds a key for each slice .* DTensor"):
                function(tensor, key=KEYS, **arguments)
            assert (tensor.to_local() == POISON).all()


OBJECTS = [
    initializers.Normal(1 / sqrt(fan_in)),
    initializers.Kaiming(batch_axis=0),
    initializers.Xavier(parts={0: {"q": 4, "k": 2}}),
    initializers.Orthogonal(),
    initializers.Eye(),
    initializers.Constant(3.0),
]


@pytest.mark.parametrize("initializer", OBJECTS, ids=repr)
def test_initializers(initializer: initializers.Initializer) -> None:
    shape = (2, 6, 7) if getattr(initializer, "batch_axis", ()) == 0 else (6, 7)
    w = initializer(poisoned(4, *shape), key=KEYS)
    for held, key in zip(w, KEYS, strict=True):
        assert_same_bits(held, initializer(torch.empty(shape), key=key))
    with pytest.raises(ValueError, match="^key holds a key for each slice .* region"):
        initializer(w, key=KEYS, region=Region((4, *shape), (0,) * (1 + len(shape))))
