"""What fastinit has beyond torch.nn.init: axes, groups, scales as tensors, its own schemes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _bits import DTYPES
from test_parity import DEPRECATED, OWN, STOCK_NAMES, channels_last
from torch import Tensor
from torch.nn import init as stock

import fastinit
from fastinit._fill import extension


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastinit.trunc_normal_(torch.empty(3), std=0.0),
        lambda: fastinit.xavier_uniform_(torch.empty(0, 0)),
        lambda: fastinit.xavier_normal_(torch.empty(3, 4, 0)),
        lambda: fastinit.dirac_(torch.empty(3, 4, 5), 0),
    ],
)
def test_divisions_by_zero_are_value_errors_too(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert isinstance(error.value, ZeroDivisionError)


@pytest.mark.parametrize("name", ["uniform", "dirac", "kaiming_normal"])
def test_aliases_warn_of_fastinit(name: str) -> None:
    message = rf"^`fastinit.{name}` is now deprecated in favor of `fastinit.{name}_`\.$"
    with pytest.warns(FutureWarning, match=message) as caught:
        getattr(fastinit, name)(torch.empty(4, 4, 3))
    assert caught[0].filename == __file__
    assert getattr(fastinit, name).__name__ == name
    assert sorted(DEPRECATED) == sorted(
        n for n in fastinit.init.__all__ if f"{n}_" in OWN_AND_STOCK
    )


OWN_AND_STOCK = [*STOCK_NAMES, *OWN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distribution": "gauss"}, r"^distribution must be one of \['uniform', .*got 'gauss'"),
        ({"distribution": None}, "^distribution must be one of"),
        ({"mode": 3}, "^mode must be a str, got 3"),
        ({"mode": "fan"}, r"not supported, please use one of \['fan_in', 'fan_out', 'fan_avg'\]"),
        ({"scale": 0}, "^scale must be above 0, got 0; use zeros_"),
        ({"scale": -1.0}, "^scale must be above 0"),
        ({"scale": math.nan}, "^scale must be above 0"),
        ({"in_axis": 5}, "^in_axis holds 5"),
        ({"in_axis": 0}, "already names"),
        ({"groups": 3}, "^groups is 3"),
    ],
)
def test_variance_scaling_refuses(arguments: dict[str, Any], message: str, poisoned: Any) -> None:
    w = poisoned(4, 6)
    with pytest.raises((TypeError, ValueError), match=message):
        fastinit.variance_scaling_(w, **arguments)
    assert torch.equal(w, poisoned(4, 6))


def test_lecun_is_variance_scaling() -> None:
    shape, key = (40, 30, 2), 3
    engine = fastinit.variance_scaling_
    normal = fastinit.lecun_normal_(torch.empty(shape), key=key)
    assert torch.equal(
        normal, engine(torch.empty(shape), 1.0, "fan_in", "truncated_normal", key=key)
    )
    uniform = fastinit.lecun_uniform_(torch.empty(shape), key=key)
    assert torch.equal(uniform, engine(torch.empty(shape), distribution="uniform", key=key))
    assert torch.equal(
        engine(torch.empty(shape), distribution="untruncated_normal", key=key),
        engine(torch.empty(shape), distribution="normal", key=key),
    )
    assert torch.equal(
        engine(torch.empty(shape), mode="FAN_AVG", key=1),
        engine(torch.empty(shape), mode="fan_avg", key=1),
    )


@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
def test_variance_scaling_has_the_variance_it_names(distribution: str) -> None:
    shape = (300, 400)
    for mode, fan in (("fan_in", 400), ("fan_out", 300), ("fan_avg", 350)):
        w = fastinit.variance_scaling_(torch.empty(shape), 3.0, mode, distribution, key=1)
        # 120,000 values: the variance's own relative deviation is 0.4 % at most.
        assert w.var().item() == pytest.approx(3.0 / fan, rel=0.02)
    limit = {"truncated_normal": 2 / 0.87962566103423978, "normal": math.inf, "uniform": 3**0.5}
    assert w.abs().max().item() <= limit[distribution] * (3.0 / 350) ** 0.5 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("normal_", "std"),
        ("trunc_normal_", "std"),
        ("xavier_uniform_", "gain"),
        ("xavier_normal_", "gain"),
        ("orthogonal_", "gain"),
        ("variance_scaling_", "scale"),
        ("sparse_", "std"),
    ],
)
def test_scales_may_be_tensors(name: str, argument: str, device: str) -> None:
    function = getattr(fastinit, name)
    if name == "sparse_":
        function = partial(function, sparsity=0.3)
    for number in (0.25, 4):  # an integer tensor, or one on the CPU, is read at once
        expected = function(torch.empty(6, 5, device=device), key=1, **{argument: number})
        for place in {device, "cpu"}:
            given = {argument: torch.tensor(number, device=place)}
            assert torch.equal(function(torch.empty(6, 5, device=device), key=1, **given), expected)


# (what, Kaiming's axes, the shape whose default fans are the same)
AXES: list[tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = [
    ((8, 6), {"in_axis": -1, "out_axis": -2}, (8, 6)),
    ((8, 6), {"in_axis": 0, "out_axis": 1}, (6, 8)),
    ((8, 6, 3), {"in_axis": (1, 2)}, (8, 18)),
    ((4, 8, 6), {"in_axis": 2, "out_axis": 1, "batch_axis": 0}, (8, 6)),
    ((4, 8, 6), {"in_axis": [2], "out_axis": [1], "batch_axis": [0]}, (8, 6)),
    ((8, 6, 3), {"groups": 2}, (4, 6, 3)),
]


@pytest.mark.parametrize(("shape", "axes", "same"), AXES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_axes(shape: Any, axes: dict[str, Any], same: Any, mode: str) -> None:
    w = fastinit.kaiming_normal_(torch.empty(shape), mode=mode, key=1, **axes).flatten()
    plain = fastinit.kaiming_normal_(torch.empty(same), mode=mode, key=1).flatten()
    assert torch.equal(w[: plain.numel()], plain[: w.numel()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 2, 2), (1, 3), (3, 1)])
def test_orthogonal(dtype: torch.dtype, shape: tuple[int, ...], device: str) -> None:
    w = fastinit.orthogonal_(torch.empty(shape, dtype=dtype, device=device), 2.0, key=1)
    narrow = dtype.itemsize < 4
    if narrow:
        full = fastinit.orthogonal_(torch.empty(shape, device=device), 2.0, key=1)
        assert torch.equal(w.float(), full.to(dtype).float())
        return
    matrix = w.flatten(1) / 2
    gram = matrix @ matrix.mH if shape[0] < matrix.shape[1] else matrix.mH @ matrix
    eye = torch.eye(len(gram), dtype=dtype, device=device)
    torch.testing.assert_close(gram, eye)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fixed_fills_in_every_dtype(dtype: torch.dtype) -> None:
    for module in (stock, fastinit):
        w = module.eye_(torch.empty(3, 5, dtype=dtype))
        assert torch.equal(w.cfloat(), torch.eye(3, 5).cfloat())
    d = fastinit.dirac_(torch.empty(6, 2, 3, dtype=dtype), 2)
    assert torch.equal(d.cfloat(), stock.dirac_(torch.empty(6, 2, 3), 2).cfloat())


def test_orthogonal_follows_the_logical_order() -> None:
    expected = fastinit.orthogonal_(torch.empty(6, 4, 2, 2), key=1)
    assert torch.equal(fastinit.orthogonal_(channels_last(6, 4, 2, 2), key=1), expected)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_the_dtypes_are_those_of_the_operators() -> None:
    def is_filled(dtype: torch.dtype) -> bool:
        try:
            extension.native.normal_(torch.empty(0, dtype=dtype, device="meta"), 0.0, 1.0)
        except (NotImplementedError, RuntimeError):  # the latter: no empty tensor of such a dtype
            return False
        return True

    every = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert len(every) > 20
    assert {dtype for dtype in every if is_filled(dtype)} == set(DTYPES) == extension.DTYPES
