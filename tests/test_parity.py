"""Parity with the torch.nn.init installed: names, signatures, results, refusals, warnings."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import init as stock
from torch.torch_version import TorchVersion

import fastinit

STOCK_NAMES = getattr(stock, "__all__", None) or [
    name
    for name, value in vars(stock).items()
    if inspect.isfunction(value) and value.__module__ == stock.__name__ and name[0] != "_"
]
DEPRECATED = [name for name in STOCK_NAMES if f"{name}_" in STOCK_NAMES]
RANDOM = [
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
]
OWN = ["variance_scaling_", "lecun_normal_", "lecun_uniform_"]
FAN_BASED = [n for n in RANDOM if n.startswith(("xavier", "kaiming"))] + OWN
REFUSALS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError)
NAN, INF = math.nan, math.inf


def empty(*shape: int, **options: Any) -> Tensor:
    return torch.empty(*shape, **options)


def outcome(module: Any, call: Callable[[Any], Any]) -> tuple[Any, list[warnings.WarningMessage]]:
    """What a call on a module gives: its result or its exception, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return call(module), caught
        except REFUSALS as error:
            return error, caught


# ------------------------------------------------------------------------------------ signatures


@pytest.mark.parametrize("name", STOCK_NAMES)
def test_signatures_start_with_stocks(name: str) -> None:
    assert name in fastinit.__all__ and name in fastinit.init.__all__
    assert getattr(fastinit, name) is getattr(fastinit.init, name)
    theirs = list(inspect.signature(getattr(stock, name)).parameters.values())
    ours = list(inspect.signature(getattr(fastinit, name)).parameters.values())
    for mine, yours in zip(ours, theirs, strict=False):
        assert (mine.name, mine.kind) == (yours.name, yours.kind)
        assert mine.default == yours.default and type(mine.default) is type(yours.default)
    extras = ours[len(theirs) :]
    assert len(ours) >= len(theirs)
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in extras)


@pytest.mark.parametrize("name", RANDOM + OWN)
def test_extras(name: str) -> None:
    parameters = inspect.signature(getattr(fastinit, name)).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    expected: dict[str, Any] = {"key": None, "region": None}
    if name in FAN_BASED:
        expected |= {"in_axis": 1, "out_axis": 0, "batch_axis": (), "groups": 1}
    if name == "orthogonal_":
        expected |= {"batch_axis": ()}
    assert defaults == expected


@pytest.mark.parametrize("name", fastinit.init.__all__)
def test_everything_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(fastinit, name))


def test_surface() -> None:
    assert len(set(fastinit.__all__)) == len(fastinit.__all__)
    assert all(hasattr(fastinit, name) for name in fastinit.__all__)
    info = fastinit.build_info()
    assert info["version"] == fastinit.__version__ == "0.1.0"
    assert info["stream_version"] == fastinit.STREAM_VERSION
    assert info["torch"].split("+")[0] in torch.__version__


# --------------------------------------------------------------------------------- good and bad

GOOD: list[tuple[str, Callable[[Any], Any]]] = [
    ("uniform_", lambda m: m.uniform_(empty(3, 4), b=2)),
    ("uniform_ of nothing", lambda m: m.uniform_(empty(0, 4))),
    ("uniform_ of a scalar", lambda m: m.uniform_(empty(()))),
    ("uniform_ of one value", lambda m: m.uniform_(empty(3), 2.0, 2.0)),
    ("uniform_ meta, bad bounds", lambda m: m.uniform_(empty(3, device="meta"), 0.0, 1.0)),
    ("normal_", lambda m: m.normal_(empty(3, 4), 1, 2, torch.Generator())),
    ("normal_ std 0", lambda m: m.normal_(empty(3, 4), 1.0, 0.0)),
    ("normal_ std tensor", lambda m: m.normal_(empty(3, 4), 1.0, torch.tensor(0.5))),
    ("normal_ std int tensor", lambda m: m.normal_(empty(3, 4), 1.0, torch.tensor(2))),
    ("normal_ mean tensor", lambda m: m.normal_(empty(3, 4), torch.tensor(0.5))),
    ("trunc_normal_", lambda m: m.trunc_normal_(empty(3, 4), 0.0, 1.0, -1, 1)),
    ("trunc_normal_ far", lambda m: m.trunc_normal_(empty(3, 4), 5.0, 1.0, -2.0, 2.0)),
    ("trunc_normal_ far below", lambda m: m.trunc_normal_(empty(3, 4), mean=-5.0)),
    ("trunc_normal_ one value", lambda m: m.trunc_normal_(empty(3), 0.0, 1.0, 1.0, 1.0)),
    ("trunc_normal_ meta", lambda m: m.trunc_normal_(empty(3, device="meta"), std=0.02)),
    ("xavier_uniform_", lambda m: m.xavier_uniform_(empty(3, 4), 2)),
    ("xavier_normal_ empty", lambda m: m.xavier_normal_(empty(0, 4))),
    ("xavier_uniform_ empty", lambda m: m.xavier_uniform_(empty(4, 0))),
    ("xavier_normal_ gain 0", lambda m: m.xavier_normal_(empty(3, 4), 0)),
    ("kaiming_normal_ relu", lambda m: m.kaiming_normal_(empty(3, 4, 5), nonlinearity="relu")),
    ("kaiming_normal_ None", lambda m: m.kaiming_normal_(empty(3, 4), None)),
    ("kaiming_normal_ a ignored", lambda m: m.kaiming_normal_(empty(3, 4), "x", "fan_in", "tanh")),
    ("kaiming_uniform_ FAN_OUT", lambda m: m.kaiming_uniform_(empty(3, 4), 1, "FAN_OUT")),
    ("kaiming_uniform_ empty", lambda m: m.kaiming_uniform_(empty(3, 0), mode="no such mode")),
    ("kaiming_normal_ empty", lambda m: m.kaiming_normal_(empty(0))),
    ("kaiming_normal_ empty meta", lambda m: m.kaiming_normal_(empty(0, 2, device="meta"))),
    ("orthogonal_", lambda m: m.orthogonal_(empty(3, 4, 2))),
    ("orthogonal_ empty", lambda m: m.orthogonal_(empty(3, 0), "no gain")),
    ("orthogonal_ meta", lambda m: m.orthogonal_(empty(3, 4, device="meta"))),
    ("orthogonal_ gain tensor", lambda m: m.orthogonal_(empty(3, 4), torch.tensor(2.0))),
    ("sparse_", lambda m: m.sparse_(empty(3, 4), 0.5, 1)),
    ("sparse_ all", lambda m: m.sparse_(empty(3, 4), 1.5)),
    ("sparse_ meta", lambda m: m.sparse_(empty(3, 4, device="meta"), 0.5)),
    ("constant_ int", lambda m: m.constant_(empty(3, dtype=torch.int64), 3)),
    ("constant_ tensor", lambda m: m.constant_(empty(3), torch.tensor(2.0))),
    ("ones_ bool", lambda m: m.ones_(empty(3, dtype=torch.bool))),
    ("zeros_", lambda m: m.zeros_(empty(3, requires_grad=True))),
    ("eye_ wide", lambda m: m.eye_(empty(3, 5))),
    ("eye_ tall int", lambda m: m.eye_(empty(5, 3, dtype=torch.int32))),
    ("eye_ leaf", lambda m: m.eye_(empty(5, 3, requires_grad=True))),
    ("eye_ transposed", lambda m: m.eye_(empty(5, 3).t())),
    ("eye_ empty", lambda m: m.eye_(empty(0, 3))),
    ("eye_ meta", lambda m: m.eye_(empty(2, 3, device="meta"))),
    ("dirac_ 3d", lambda m: m.dirac_(empty(4, 2, 3))),
    ("dirac_ 4d", lambda m: m.dirac_(empty(6, 4, 2, 3), 2)),
    ("dirac_ 5d", lambda m: m.dirac_(empty(6, 1, 5, 4, 1), 3)),
    ("dirac_ leaf", lambda m: m.dirac_(empty(4, 2, 3, requires_grad=True))),
    ("dirac_ strided", lambda m: m.dirac_(empty(3, 2, 4).permute(2, 1, 0), 2)),
    ("dirac_ channels_last", lambda m: m.dirac_(channels_last(4, 4, 3, 3), 2)),
    ("dirac_ empty", lambda m: m.dirac_(empty(0, 2, 3))),
    ("dirac_ meta", lambda m: m.dirac_(empty(4, 2, 3, device="meta"), 2)),
    ("uniform alias", lambda m: m.uniform(empty(3, 4), 0, 2)),
    ("kaiming_normal alias", lambda m: m.kaiming_normal(empty(3, 4), a=1)),
    ("dirac alias", lambda m: m.dirac(empty(4, 2, 3))),
    ("gain linear", lambda m: m.calculate_gain("linear")),
    ("gain conv", lambda m: m.calculate_gain("conv_transpose3d", "ignored")),
    ("gain sigmoid", lambda m: m.calculate_gain("sigmoid", 3)),
    ("gain tanh", lambda m: m.calculate_gain("tanh")),
    ("gain relu", lambda m: m.calculate_gain("relu", None)),
    ("gain selu", lambda m: m.calculate_gain("selu")),
    ("gain leaky", lambda m: m.calculate_gain("leaky_relu")),
    ("gain leaky 0", lambda m: m.calculate_gain("leaky_relu", 0)),
    ("gain leaky 1", lambda m: m.calculate_gain("leaky_relu", 1)),
    ("gain leaky .2", lambda m: m.calculate_gain("leaky_relu", 0.2)),
    ("gain leaky -3", lambda m: m.calculate_gain("leaky_relu", param=-3)),
]

# (what, call, how the message must start, or None where only the type is to agree)
BAD: list[tuple[str, Callable[[Any], Any], str | None]] = [
    ("uniform_ int", lambda m: m.uniform_(empty(3, dtype=torch.int64)), None),
    ("uniform_ bool", lambda m: m.uniform_(empty(3, dtype=torch.bool)), None),
    ("uniform_ a > b", lambda m: m.uniform_(empty(3), 1, 0), "uniform_ expects to return a [from"),
    ("uniform_ of nothing", lambda m: m.uniform_(empty(0), 1, 0), "uniform_ expects to return a ["),
    ("normal_ of nothing", lambda m: m.normal_(empty(0), std=-1), "normal expects std >= 0.0"),
    ("trunc_normal_ of nothing", lambda m: m.trunc_normal_(empty(0), a=2, b=-2), None),
    (
        "xavier_normal_ of nothing",
        lambda m: m.xavier_normal_(empty(0, 4), -1),
        "normal expects std",
    ),
    ("xavier_uniform_ of nothing", lambda m: m.xavier_uniform_(empty(0, 4), "2"), None),
    ("dirac_ groups float", lambda m: m.dirac_(empty(4, 2, 3), 2.0), None),
    ("uniform_ nan", lambda m: m.uniform_(empty(3), NAN, 0), None),
    ("uniform_ inf", lambda m: m.uniform_(empty(3), 0, INF), "to is out of bounds"),
    ("uniform_ too wide", lambda m: m.uniform_(empty(3), -3e38, 3e38), "uniform_ expects to-from"),
    ("uniform_ half", lambda m: m.uniform_(empty(3, dtype=torch.half), 0, 1e5), "to is out of"),
    ("uniform_ str", lambda m: m.uniform_(empty(3), "0"), None),
    ("uniform_ None", lambda m: m.uniform_(empty(3), None), None),
    ("uniform_ overlap", lambda m: m.uniform_(empty(1, 3).expand(2, 3)), "unsupported operation"),
    ("uniform_ sparse", lambda m: m.uniform_(empty(3, 4).to_sparse()), None),
    ("uniform_ generator", lambda m: m.uniform_(empty(3), generator=1), None),
    ("normal_ int", lambda m: m.normal_(empty(3, dtype=torch.int64)), None),
    ("normal_ std < 0", lambda m: m.normal_(empty(3), 0, -1), "normal expects std >= 0.0"),
    ("normal_ std nan", lambda m: m.normal_(empty(3), 0, NAN), "normal expects std >= 0.0"),
    ("normal_ std complex", lambda m: m.normal_(empty(3), 0, 1j), None),
    ("normal_ std list", lambda m: m.normal_(empty(3), 0, [1]), None),
    ("normal_ mean str", lambda m: m.normal_(empty(3), "x"), None),
    ("normal_ overlap", lambda m: m.normal_(empty(1, 3).expand(2, 3)), "unsupported operation"),
    ("trunc_normal_ std 0", lambda m: m.trunc_normal_(empty(3), std=0.0), None),
    ("trunc_normal_ std 0 int", lambda m: m.trunc_normal_(empty(3), 0, 0), None),
    ("trunc_normal_ far std 0", lambda m: m.trunc_normal_(empty(3), 9.0, 0.0), None),
    ("trunc_normal_ a > b", lambda m: m.trunc_normal_(empty(3), a=2.0, b=-2.0), None),
    ("trunc_normal_ int", lambda m: m.trunc_normal_(empty(3, dtype=torch.int64)), None),
    ("trunc_normal_ str", lambda m: m.trunc_normal_(empty(3), "x"), None),
    ("xavier_uniform_ 1d", lambda m: m.xavier_uniform_(empty(3)), "Fan in and fan out can not"),
    ("xavier_normal_ 0d", lambda m: m.xavier_normal_(empty(())), "Fan in and fan out can not"),
    ("xavier_normal_ 1d empty", lambda m: m.xavier_normal_(empty(0)), "Fan in and fan out can"),
    ("xavier_normal_ 1d meta", lambda m: m.xavier_normal_(empty(3, device="meta")), "Fan in and"),
    ("xavier_uniform_ no fan", lambda m: m.xavier_uniform_(empty(0, 0)), None),
    ("xavier_normal_ no fan", lambda m: m.xavier_normal_(empty(3, 4, 0)), None),
    ("xavier_normal_ gain < 0", lambda m: m.xavier_normal_(empty(3, 4), -1), "normal expects std"),
    ("xavier_uniform_ gain < 0", lambda m: m.xavier_uniform_(empty(3, 4), -1), None),
    ("xavier_normal_ gain str", lambda m: m.xavier_normal_(empty(3, 4), "2"), None),
    ("kaiming_normal_ 1d", lambda m: m.kaiming_normal_(empty(3)), "Fan in and fan out can not"),
    (
        "kaiming_uniform_ mode",
        lambda m: m.kaiming_uniform_(empty(3, 4), mode="x"),
        "Mode x not sup",
    ),
    ("kaiming_normal_ avg", lambda m: m.kaiming_normal_(empty(3, 4), 0, "fan_avg"), "Mode fan_avg"),
    (
        "kaiming_normal_ mode and 1d",
        lambda m: m.kaiming_normal_(empty(3), mode="Fan"),
        "Mode fan not supported, please use one of ['fan_in', 'fan_out']",
    ),
    (
        "kaiming_normal_ nonlinearity",
        lambda m: m.kaiming_normal_(empty(3, 4), nonlinearity="step"),
        "Unsupported nonlinearity step",
    ),
    (
        "kaiming_normal_ a",
        lambda m: m.kaiming_normal_(empty(3, 4), True),
        "negative_slope True not",
    ),
    (
        "kaiming_normal_ a str",
        lambda m: m.kaiming_normal_(empty(3, 4), "1"),
        "negative_slope 1 not",
    ),
    ("kaiming_normal_ int", lambda m: m.kaiming_normal_(empty(3, 4, dtype=torch.int64)), None),
    ("orthogonal_ 1d", lambda m: m.orthogonal_(empty(3)), "Only tensors with 2 or more dimensions"),
    ("orthogonal_ 1d meta", lambda m: m.orthogonal_(empty(3, device="meta")), "Only tensors with"),
    ("orthogonal_ int", lambda m: m.orthogonal_(empty(3, 4, dtype=torch.int64)), None),
    ("orthogonal_ gain", lambda m: m.orthogonal_(empty(3, 4), "2"), None),
    ("orthogonal_ overlap", lambda m: m.orthogonal_(empty(1, 3).expand(2, 3)), "unsupported oper"),
    ("sparse_ 1d", lambda m: m.sparse_(empty(3), 0.5), "Only tensors with 2 dimensions"),
    ("sparse_ 1d meta", lambda m: m.sparse_(empty(3, device="meta"), 0.5), "Only tensors with 2"),
    ("sparse_ str", lambda m: m.sparse_(empty(3, 4), "0.5"), None),
    ("sparse_ nan", lambda m: m.sparse_(empty(3, 4), NAN), None),
    ("sparse_ std < 0", lambda m: m.sparse_(empty(3, 4), 0.5, -1.0), "normal expects std >= 0.0"),
    ("eye_ 3d", lambda m: m.eye_(empty(3, 4, 5)), "Only tensors with 2 dimensions are supported"),
    ("dirac_ 2d", lambda m: m.dirac_(empty(3, 4)), "Only tensors with 3, 4, or 5 dimensions are"),
    ("dirac_ 2d meta", lambda m: m.dirac_(empty(3, 4, device="meta")), "Only tensors with 3, 4"),
    ("dirac_ groups", lambda m: m.dirac_(empty(3, 4, 5), 2), "dim 0 must be divisible by groups"),
    ("dirac_ groups 0", lambda m: m.dirac_(empty(3, 4, 5), 0), None),
    ("dirac_ no kernel", lambda m: m.dirac_(empty(3, 4, 0)), None),
    ("constant_ str", lambda m: m.constant_(empty(3), "x"), "fill_() received an invalid comb"),
    ("gain unknown", lambda m: m.calculate_gain("step"), "Unsupported nonlinearity step"),
    ("gain of 3", lambda m: m.calculate_gain(3), "Unsupported nonlinearity 3"),
    ("gain slope", lambda m: m.calculate_gain("leaky_relu", "x"), "negative_slope x not a valid"),
    ("gain slope bool", lambda m: m.calculate_gain("leaky_relu", True), "negative_slope True not"),
    ("gain slope tensor", lambda m: m.calculate_gain("leaky_relu", torch.ones(())), None),
]


if TorchVersion(torch.__version__) >= (2, 13):  # before, stock divided by std, on meta as well
    on_meta = lambda m: m.trunc_normal_(empty(3, device="meta"), std=0.0)  # noqa: E731
    GOOD.append(("trunc_normal_ meta std 0", on_meta))


def channels_last(*shape: int) -> Tensor:
    return empty(*shape).to(memory_format=torch.channels_last)


def same_warnings(
    ours: list[warnings.WarningMessage], theirs: list[warnings.WarningMessage]
) -> None:
    def told(caught: list[warnings.WarningMessage]) -> list[tuple[type[Warning], str]]:
        return [(w.category, str(w.message).replace("nn.init.", "")) for w in caught]

    assert [(c, m.replace("fastinit.", "")) for c, m in told(ours)] == told(theirs)
    assert all(w.filename == __file__ for w in ours), "a warning must point at its caller"


@pytest.mark.parametrize("call", [c for _, c in GOOD], ids=[n for n, _ in GOOD])
def test_what_stock_accepts(call: Callable[[Any], Any], request: pytest.FixtureRequest) -> None:
    theirs, their_warnings = outcome(stock, call)
    ours, our_warnings = outcome(fastinit, call)
    assert not isinstance(theirs, Exception), "a wrong example"
    assert not isinstance(ours, Exception), repr(ours)
    same_warnings(our_warnings, their_warnings)
    if not isinstance(theirs, Tensor):
        assert ours == theirs and type(ours) is type(theirs)
        return
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert ours.device == theirs.device and ours.requires_grad == theirs.requires_grad
    name = request.node.callspec.id.split()[0].removesuffix("_") + "_"
    if name not in RANDOM and not ours.is_meta:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("case", BAD, ids=[name for name, _, _ in BAD])
def test_what_stock_refuses(case: tuple[str, Callable[[Any], Any], str | None]) -> None:
    _, call, start = case
    theirs, their_warnings = outcome(stock, call)
    ours, our_warnings = outcome(fastinit, call)
    assert isinstance(theirs, Exception), "a wrong example"
    assert isinstance(ours, type(theirs)), f"{ours!r} for {theirs!r}"
    assert isinstance(ours, (TypeError, ValueError, RuntimeError, IndexError))
    same_warnings(our_warnings, their_warnings)
    if start is not None:
        assert str(theirs).startswith(start), "a wrong example"
        assert str(ours).startswith(start)


@pytest.mark.parametrize("name", RANDOM + OWN)
def test_a_refused_tensor_is_untouched(name: str, poisoned: Any, unwritten: Any) -> None:
    function = getattr(fastinit, name)
    options = {"sparsity": 0.5} if name == "sparse_" else {}
    generator = torch.Generator()
    before = generator.get_state()
    w = poisoned(4, 6)
    bad: list[dict[str, Any]] = [
        {"generator": "cpu"},
        {"generator": generator, "key": 1},
        {"key": "name"},
        {"region": (4, 6)},
    ]
    if "std" in inspect.signature(function).parameters:
        bad += [{"std": -1.0}, {"std": math.inf}, {"std": torch.ones(2)}]
        if name == "trunc_normal_":  # as stock, it only sees the square
            bad.remove({"std": -1.0})
    if "gain" in inspect.signature(function).parameters:
        bad += [{"gain": "2"}, {"gain": torch.ones(2)}]
    if name in FAN_BASED:
        bad += [
            {"in_axis": 2},
            {"in_axis": 0},
            {"out_axis": 1.0},
            {"batch_axis": (0,)},
            {"batch_axis": "0"},
            {"groups": 0},
            {"groups": 3},
            {"groups": 2.0},
        ]
    for arguments in bad:
        drawing = {} if "key" in arguments else {"generator": generator}
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            function(w, **(drawing | options | arguments))
        assert len(str(error.value)) > 20, arguments
    assert unwritten(w) == w.numel()
    assert torch.equal(generator.get_state(), before)


def test_a_refused_dirac_is_untouched(poisoned: Any, unwritten: Any) -> None:
    w = poisoned(4, 2, 3)
    for groups in (2.0, "2", 0, 3):
        with pytest.raises((TypeError, ValueError)):
            fastinit.dirac_(w, groups)
    assert unwritten(w) == w.numel()
