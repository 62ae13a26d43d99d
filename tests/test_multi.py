"""One call for many tensors: the values of single fills, whatever lies beside them in the list."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from _bits import DTYPES, assert_same_bits
from torch import Tensor

import fastinit
from fastinit._fill.dtensor import ops
from fastinit._fill.extension import native
from fastinit._reference import TRUNCATED_STD

UNIFORM, NORMAL, TRUNCATED = 0, 1, 2
LAWS = {
    UNIFORM: {"low": -0.3, "high": 0.5},
    NORMAL: {"mean": 0.1, "std": 0.7},
    TRUNCATED: {"mean": 0.1, "std": 0.7, "low": -1.0, "high": 1.5},
}
SIZES = (1, 2, 3, 5, 31, 4095, 4096, 4097, 40_000)


def arguments(tensors: Sequence[Tensor], **lists: Any) -> dict[str, Any]:
    """Arguments of multi_fill_: the distributions in turn, key (i, 100 i), or what `lists` says."""
    codes = lists.pop("distribution", [i % 3 for i in range(len(tensors))])
    given = {
        name: [LAWS[c].get(name, 0.0) for c in codes] for name in ("mean", "std", "low", "high")
    }
    key = [word for i in range(len(tensors)) for word in (i, 100 * i)]
    return {"distribution": codes, **given, "key": key, **lists}


def single_fill(tensor: Tensor, i: int, code: int, **region: Any) -> Tensor:
    function = {UNIFORM: native.uniform_, NORMAL: native.normal_, TRUNCATED: native.trunc_normal_}
    law = dict(LAWS[code]) | ({} if code == UNIFORM else {"scale": None})
    function[code](tensor, **law, key=[i, 100 * i], **region)
    return tensor


def layouts(make: Callable[..., Tensor], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Tensors whose memory order is the stream's, and others."""
    like = {"dtype": dtype, "device": device}
    return [
        make(7, 300, **like),
        make(300, 7, **like).t(),
        make(64, 130, **like)[1::2, 3:120],
        make(2, 6, 9, 11, **like).to(memory_format=torch.channels_last),
        make(20_000, **like)[1:],
        make(**like),
        make(3, 0, 5, **like),
        make(90_000, **like)[::3],
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_as_single_fills(
    device: str, dtype: torch.dtype, poisoned: Callable[..., Tensor]
) -> None:
    def make() -> list[Tensor]:
        plain = [poisoned(n, dtype=dtype, device=device) for n in SIZES for _ in range(3)]
        other = [t for _ in range(3) for t in layouts(poisoned, dtype, device)]
        return plain + other

    ours, expected = make(), make()
    given = arguments(ours)
    versions = [t._version for t in ours]
    native.multi_fill_(ours, **given)
    for i, (tensor, code) in enumerate(zip(expected, given["distribution"], strict=True)):
        assert_same_bits(ours[i], single_fill(tensor, i, code))
        assert ours[i]._version == versions[i] + (tensor.numel() > 0)


def test_dtypes_mix(device: str, poisoned: Callable[..., Tensor]) -> None:
    ours = [poisoned(1000, dtype=dtype, device=device) for dtype in DTYPES for _ in range(3)]
    expected = [torch.clone(t) for t in ours]
    native.multi_fill_(ours, **arguments(ours))
    for i, tensor in enumerate(expected):
        assert_same_bits(ours[i], single_fill(tensor, i, i % 3))


@pytest.mark.parametrize("sizes", [[1 << 20] + [64] * 5000, [64] * 5000 + [1 << 20], [4096] * 500])
def test_thread_count_does_not_matter(sizes: list[int]) -> None:
    ours = [torch.full((n,), math.nan) for n in sizes]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            native.multi_fill_(ours, **arguments(ours))
            results.append(torch.cat(ours))
            assert not results[-1].isnan().any()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_regions(device: str, poisoned: Callable[..., Tensor]) -> None:
    whole = [poisoned(31, 40, device=device), poisoned(17, device=device)]
    for i, tensor in enumerate(whole):
        single_fill(tensor, i, i)
    ours = [poisoned(5, 40, device=device), poisoned(6, device=device)]
    native.multi_fill_(ours, **arguments(ours), global_shape=[31, 40, 17], offsets=[7, 0, 11])
    assert_same_bits(ours[0], whole[0][7:12])
    assert_same_bits(ours[1], whole[1][11:])


def test_keys_reach_to_64_bits() -> None:
    ours, expected = torch.empty(100), torch.empty(100)
    native.multi_fill_([ours], [NORMAL], [0.0], [1.0], [0.0], [0.0], [-1, -(2**63)])
    fastinit.normal_(expected, key=fastinit.Key(2**64 - 1, 2**63))
    assert_same_bits(ours, expected)


def test_operator() -> None:
    ours, expected = [torch.empty(10), torch.empty(9)], [torch.empty(10), torch.empty(9)]
    torch.ops.fastinit.multi_fill_(ours, **arguments(ours))
    native.multi_fill_(expected, **arguments(expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    torch.library.opcheck(
        torch.ops.fastinit.multi_fill_.default,
        (ours, *(arguments(ours)[name] for name in ("distribution", "mean", "std", "low", "high"))),
        {"key": [0, 1, 2, 3]},
        test_utils=("test_schema", "test_faketensor"),
    )
    assert ops(ours[0]) is native


def test_nothing_to_fill() -> None:
    native.multi_fill_([], [], [], [], [], [], [])
    empty = [torch.empty(0), torch.empty(3, 0), torch.empty(5, device="meta")]
    native.multi_fill_(empty, **arguments(empty))
    mixed = [torch.empty(5, device="meta"), torch.full((5,), math.nan)]
    native.multi_fill_(mixed, **arguments(mixed))
    assert not mixed[1].isnan().any()


def test_leaf_that_requires_grad() -> None:
    leaf = torch.nn.Parameter(torch.zeros(5))
    native.multi_fill_([leaf], **arguments([leaf]))
    assert leaf.requires_grad and leaf.is_leaf and leaf.detach().abs().sum() > 0


class Invalid:
    """Lists with one invalid tensor or number behind a valid one."""

    @staticmethod
    def dtype(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3, dtype=torch.int32)], {}

    @staticmethod
    def expanded(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(1).expand(3)], {}

    @staticmethod
    def twice(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(2), good[3:]], {}

    @staticmethod
    def std(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"std": [1.0, -1.0], "distribution": [NORMAL, NORMAL]}

    @staticmethod
    def bounds(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"distribution": [0, 0], "low": [0, 2], "high": [1, 1]}

    @staticmethod
    def distribution(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        wrong = {"distribution": [0, 3], "mean": [0, 0], "std": [1, 1]}
        return [good, torch.zeros(3)], wrong | {"low": [0, 0], "high": [1, 1]}

    @staticmethod
    def length(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"mean": [0.0]}

    @staticmethod
    def key(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"key": [0, 1, 2]}

    @staticmethod
    def region(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"global_shape": [5, 4], "offsets": [0, 2]}

    @staticmethod
    def region_length(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"global_shape": [5], "offsets": [0]}

    @staticmethod
    def offsets(good: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        return [good, torch.zeros(3)], {"global_shape": [5, 3]}


MESSAGES = {
    "dtype": "dtype Int",
    "expanded": "more than one element",
    "twice": "tensors 0 and 2 share memory",
    "std": "std >= 0.0",
    "bounds": "from=2",
    "distribution": "got 3",
    "length": "2 tensors, but a list of 1",
    "key": "2 tensors and 3 key words",
    "region": "does not contain",
    "region_length": "2 dimensions in all",
    "offsets": "together or neither",
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_nothing_is_written_if_anything_is_wrong(fault: str) -> None:
    good = torch.zeros(5)
    tensors, wrong = getattr(Invalid, fault)(good)
    given = wrong if fault == "distribution" else arguments(tensors, **wrong)
    given = {"key": [0] * 2 * len(tensors)} | given
    with pytest.raises((TypeError, ValueError, RuntimeError), match=MESSAGES[fault]):
        native.multi_fill_(tensors, **given)
    assert good._version == 0 and not good.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_several_devices_cuda() -> None:
    tensors = [torch.zeros(5), torch.zeros(5, device="cuda")]
    with pytest.raises(ValueError, match="cpu and on cuda:0 in one list"):
        native.multi_fill_(tensors, **arguments(tensors))
    assert not tensors[0].any() and not tensors[1].any()


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("nonlinearity", ["linear", "relu", "tanh", "leaky_relu"])
def test_std_and_bounds(mode: str, nonlinearity: str) -> None:
    shape, parameter, gain = (24, 10, 3, 5), 0.2, 1.5
    fan_in, fan_out = native.fans(shape, None, None, None, 2)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    expected = gain * native.calculate_gain(nonlinearity, parameter) / math.sqrt(fan)
    rest = (gain, mode, nonlinearity, parameter, None, None, None, 2)
    assert native.std_and_bounds(shape, "normal", False, *rest)[0] == expected
    _, low, high = native.std_and_bounds(shape, "uniform", True, *rest)
    assert -low == high == math.sqrt(3.0) * expected  # in each part
    _, low, high = native.std_and_bounds(shape, "truncated_normal", True, *rest)
    assert -low == high == 2.0 * (expected / TRUNCATED_STD / math.sqrt(2.0))
    std, low, high = native.std_and_bounds(shape, "truncated_normal", False, *rest)
    assert std == expected / TRUNCATED_STD and -low == high == 2.0 * std


def test_std_and_bounds_give_the_values_of_a_fan_law() -> None:
    ours, expected = torch.empty(40, 30), torch.empty(40, 30)
    fastinit.kaiming_normal_(expected, key=5)
    rest = ("leaky_relu", 0.0, None, None, None, 1)
    std, _, _ = native.std_and_bounds((40, 30), "normal", False, 1.0, "fan_in", *rest)
    native.multi_fill_([ours], [NORMAL], [0.0], [std], [0.0], [0.0], [5, 0])
    assert_same_bits(ours, expected)
    fastinit.xavier_uniform_(expected, key=5)
    rest = ("linear", 0.0, None, None, None, 1)
    _, low, high = native.std_and_bounds((40, 30), "uniform", False, 1.0, "fan_avg", *rest)
    native.multi_fill_([ours], [UNIFORM], [0.0], [0.0], [low], [high], [5, 0])
    assert_same_bits(ours, expected)
