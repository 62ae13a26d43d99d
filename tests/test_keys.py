"""Keys: values, children, conversions, refusals, and the arguments they become."""

from __future__ import annotations

import copy
import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastinit
from fastinit import Key
from fastinit._fill import keys
from fastinit._fill.extension import native

U64 = 1 << 64
EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, U64 - 1]


def draw(**source: Any) -> Tensor:
    return fastinit.normal_(torch.empty(64), **source)


def test_key_is_a_value() -> None:
    key = Key(3, 5)
    assert key == Key(3, offset=5) and hash(key) == hash(Key(3, 5)) and key != Key(3)
    assert eval(repr(key), {"Key": Key}) == key
    assert pickle.loads(pickle.dumps(key)) == copy.deepcopy(key) == key
    with pytest.raises(AttributeError):
        key.seed = 1  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        key.extra = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [-1, U64, U64 + 7, -(2**63), 2**200])
def test_words_are_taken_mod_2_64(value: int) -> None:
    assert Key(value, value) == Key(value % U64, value % U64)
    assert Key(0).fold_in(value) == Key(0).fold_in(value % U64)


def test_numpy_integers_are_integers() -> None:
    key = Key(np.int64(-1), np.uint8(3))  # type: ignore[arg-type]
    assert key == Key(U64 - 1, 3) and type(key.seed) is int


@pytest.mark.parametrize("bad", [True, 1.0, "1", None, b"1", torch.tensor(1), np.float32(1)])
@pytest.mark.parametrize("name", ["seed", "offset"])
def test_words_refuse_other_types(name: str, bad: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be an int, got .*; "):
        Key(**{"seed": 0, name: bad})


@pytest.mark.parametrize("bad", [True, 1.5, None, b"name"])
def test_fold_in_refuses_other_types(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"^data must be an int.*; fold in an int or a str"):
        Key(0).fold_in(bad)


@pytest.mark.parametrize("seed", EDGES)
@pytest.mark.parametrize("offset", [0, 9, U64 - 1])
def test_child_is_one_philox_block(seed: int, offset: int) -> None:
    for index in (0, 1, 2**32, U64 - 1):
        counter = (offset + index) % U64
        r = native.philox(
            [counter % 2**32, counter >> 32, 0, 0],
            [seed % 2**32, seed >> 32],
        )
        expected = Key(r[0] | r[1] << 32, r[2] | r[3] << 32)
        assert Key(seed, offset).fold_in(index) == expected


def test_the_keys_of_many_names_are_those_of_each() -> None:
    """Names up to beyond a block of the digest, which is 128 bytes, by hashlib's."""
    names = ["x" * size for size in range(300)] + ["h.0.wte", "\u03b3.\u00e9.weight", "\0", "a\0b"]
    found = keys.words_of_names(Key(7, U64 - 1), names)
    assert [Key(*words) for words in found] == [Key(7, U64 - 1).fold_in(name) for name in names]


def test_fold_in_a_name_folds_in_its_digest() -> None:
    for name in ("", "wte", "décodeur.0.poids", "層"):
        digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
        assert Key(7, 2).fold_in(name) == Key(7, 2).fold_in(int.from_bytes(digest, "little"))


def test_split_gives_the_first_children() -> None:
    key = Key(11, 4)
    children = key.split(5)
    assert type(children) is tuple
    assert children == tuple(key.fold_in(i) for i in range(5))
    assert len(set(children)) == 5
    assert key.split(0) == ()


def test_split_refuses() -> None:
    with pytest.raises(ValueError, match="^n must be at least 0, got -1"):
        Key(0).split(-1)
    for bad in (True, 2.0, "2"):
        with pytest.raises(TypeError, match="^n must be an int, got"):
            Key(0).split(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", EDGES)
def test_tensor_round_trip(seed: int, device: str) -> None:
    key = Key(seed, U64 - 1 - seed)
    tensor = key.to_tensor(device)
    assert tensor.dtype == torch.uint64 and tensor.shape == (2,) and tensor.device.type == device
    assert tensor.tolist() == [key.seed, key.offset]
    assert Key.from_tensor(tensor) == key


def test_from_tensor_refuses() -> None:
    with pytest.raises(TypeError, match="^tensor must be a Tensor, got list"):
        Key.from_tensor([1, 2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must have dtype torch.uint64, got torch.int64"):
        Key.from_tensor(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(3,\)"):
        Key.from_tensor(torch.zeros(3, dtype=torch.uint64))
    with pytest.raises(ValueError, match="meta"):
        Key.from_tensor(torch.zeros(2, dtype=torch.uint64, device="meta"))


def test_children_agree_with_torch_func_random() -> None:
    random = pytest.importorskip("torch.func._random")
    if not hasattr(torch.ops.aten, "_philox_key_fold_in"):
        pytest.skip("this torch has no stateless random numbers")
    for seed in (0, 42, 2**63 + 1):
        theirs = Key(seed, 3).to_tensor()
        try:
            folded = random.fold_in(theirs, 5)
        except NotImplementedError:
            pytest.skip("this torch has no stateless random numbers on the CPU")
        assert Key.from_tensor(folded) == Key(seed, 3).fold_in(5)
        assert tuple(map(Key.from_tensor, random.split(theirs, 4))) == Key(seed, 3).split(4)


@pytest.mark.parametrize("seed", EDGES)
def test_the_forms_of_a_key_are_one_key(seed: int) -> None:
    expected = draw(key=Key(seed))
    assert torch.equal(draw(key=seed), expected)
    assert torch.equal(draw(key=seed - U64), expected)
    assert torch.equal(draw(key=Key(seed).to_tensor()), expected)
    assert not torch.equal(draw(key=Key(seed, 1)), expected)


def test_offset_moves_along_the_sequence() -> None:
    """One counter step holds four float32 uniforms."""
    start = fastinit.uniform_(torch.empty(64), key=Key(5))
    later = fastinit.uniform_(torch.empty(60), key=Key(5, 1))
    assert torch.equal(later, start[4:])
    wrapped = fastinit.uniform_(torch.empty(64), key=Key(5, U64 - 1))
    assert torch.equal(wrapped[4:], start[:60])


def test_a_key_leaves_the_generators_alone() -> None:
    before = torch.get_rng_state()
    draw(key=0)
    fastinit.kaiming_uniform_(torch.empty(4, 4), key=Key(0))
    fastinit.orthogonal_(torch.empty(4, 4), key=Key(0).to_tensor())
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_key_the_generator_decides() -> None:
    torch.manual_seed(3)
    first, second = draw(), draw()
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(draw(), first)
    assert torch.equal(draw(), second)
    assert torch.equal(draw(generator=torch.Generator().manual_seed(3)), first)


def test_a_draw_takes_two_words_of_the_generator_whatever_its_size() -> None:
    generator = torch.Generator()
    states = []
    for shape in ((1,), (7,), (300, 5)):
        generator.manual_seed(1)
        fastinit.uniform_(torch.empty(shape), generator=generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    generator.manual_seed(1)
    torch.empty(2, dtype=torch.int64).random_(generator=generator)
    assert torch.equal(generator.get_state(), states[0])


RANDOM: list[tuple[Any, dict[str, Any]]] = [
    (fastinit.uniform_, {}),
    (fastinit.normal_, {}),
    (fastinit.trunc_normal_, {}),
    (fastinit.kaiming_uniform_, {}),
    (fastinit.kaiming_normal_, {}),
    (fastinit.xavier_uniform_, {}),
    (fastinit.xavier_normal_, {}),
    (fastinit.lecun_uniform_, {}),
    (fastinit.lecun_normal_, {}),
    (fastinit.variance_scaling_, {}),
    (fastinit.orthogonal_, {}),
    (fastinit.sparse_, {"sparsity": 0.25}),
]


@pytest.mark.parametrize(
    ("function", "arguments"), RANDOM, ids=lambda x: getattr(x, "__name__", "")
)
def test_every_random_function_takes_keys(
    function: Any, arguments: dict[str, Any], poisoned: Any, unwritten: Any
) -> None:
    w = function(poisoned(9, 7), key=Key(2), **arguments)
    assert unwritten(w) == 0
    assert torch.equal(w, function(poisoned(9, 7), key=2, **arguments))
    assert not torch.equal(w, function(poisoned(9, 7), key=3, **arguments))
    untouched = poisoned(9, 7)
    with pytest.raises(ValueError, match="^key and generator exclude each other"):
        function(untouched, key=2, generator=torch.Generator(), **arguments)
    for bad in ("name", 1.5, True, (1.5, 2), b"x"):
        with pytest.raises(TypeError, match="^key must be an int, got .*; pass a fastinit.Key"):
            function(untouched, key=bad, **arguments)
    with pytest.raises(TypeError, match="key"):
        function(untouched, key=torch.tensor([1, 2]), **arguments)
    with pytest.raises((TypeError, ValueError), match="key"):
        function(untouched, key=torch.zeros(3, dtype=torch.uint64), **arguments)
    assert unwritten(untouched) == 63


def test_stream_arguments() -> None:
    w = torch.empty(2, 3)
    generator = torch.Generator()
    assert keys.stream(w, generator, None, None) == (generator,)
    assert keys.stream(w, None, Key(U64 - 1, 2**63), None)[1] == (-1, -(2**63))
    region = fastinit.Region((4, 3), (2, 0))
    assert keys.stream(w, None, 2**63 - 1, region) == (
        None,
        (2**63 - 1, 0),
        None,
        (4, 3),
        (2, 0),
    )


def test_a_missing_key_is_resolved_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "missing_words", lambda tensor, region: (8, 0))
    expected = draw(key=8)
    assert torch.equal(draw(), expected)
    assert torch.equal(draw(key=9), draw(key=Key(9)))  # a key given is not missing
    given = torch.Generator().manual_seed(3)
    assert not torch.equal(draw(generator=given), expected)


class FakeGenerator:
    """What `key_from_generator` asks of a CUDA generator."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.offset = 8

    def initial_seed(self) -> int:
        return 2**64 - 7

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset


def test_key_of_a_cuda_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """One counter step a key; test_cuda.py compares with what the device draws."""
    device = torch.device("cuda", 1)
    fake: Any = FakeGenerator("cuda:1")
    monkeypatch.setattr(torch.cuda, "default_generators", [None, fake])
    for generator in (None, fake):
        offset = fake.offset
        words = keys.key_from_generator(generator, device)
        assert fake.offset == offset + 4
        assert tuple(word % U64 for word in words) == native.cuda_generator_key(2**64 - 7, offset)
    without_index: Any = FakeGenerator("cuda")
    for generator in (None, fake, without_index):
        assert keys.can_draw_key(generator, device)
    for other in ("cuda:0", "cpu"):
        elsewhere: Any = FakeGenerator(other)
        assert not keys.can_draw_key(elsewhere, device)
    assert not keys.can_draw_key(None, torch.device("xpu"))
