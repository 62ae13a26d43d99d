"""Initializers: values that print, compare and go to JSON, and fill as the functions do."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import fastinit
from fastinit import Region, initializers
from fastinit._fill import laws
from fastinit.initializers import (
    Constant,
    Dirac,
    Eye,
    Initializer,
    Kaiming,
    Keep,
    Native,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncNormal,
    Uniform,
    VarianceScaling,
    Xavier,
    Zeros,
    expressions,
)
from fastinit.initializers.expressions import (
    depth,
    fan_in,
    fan_out,
    head_dim,
    layer,
    sqrt,
    width,
)

NAMES = {word: getattr(initializers, word) for word in initializers.__all__}
NAMES |= {word: getattr(expressions, word) for word in expressions.VARIABLES}
NAMES |= {word: getattr(expressions, word) for word in ("sqrt", "log", "exp", "min", "max")}

SAMPLES: list[Initializer] = [
    Normal(0.02),
    Normal(0.02 / sqrt(2 * depth), mean=1, transposed=True),
    Normal(1 / sqrt(fan_in), parts={0: {"wq": 8, "wk": 4, "wv": fan_out / 4}}),
    TruncNormal(1 / sqrt(fan_in), cut=3, batch_axis=0),
    TruncNormal(0.1, corrected=True, in_axis=(1, 2), out_axis=0),
    Uniform(-1, 1 / 3),
    Kaiming(),
    Kaiming(math.sqrt(5), "fan_out", distribution="uniform", groups=2),
    Xavier(gain=(8 * depth) ** -0.25),
    VarianceScaling(2.0, "fan_avg", "uniform", in_axis=0, out_axis=-1),
    Orthogonal(sqrt(fan_out / fan_in)),
    Sparse(0.9, std=1e-9),
    Constant(2 - layer),
    Zeros(),
    Ones(),
    Eye(),
    Dirac(groups=2),
    Keep(),
    Native(),
]


@pytest.mark.parametrize("initializer", SAMPLES, ids=repr)
def test_an_initializer_is_a_value(initializer: Initializer) -> None:
    assert eval(repr(initializer), dict(NAMES)) == initializer
    data = json.loads(json.dumps(initializer.to_dict()))
    assert Initializer.from_dict(data) == initializer
    twin = pickle.loads(pickle.dumps(initializer))
    assert twin == copy.deepcopy(initializer) == initializer and hash(twin) == hash(initializer)
    assert [other for other in SAMPLES if other == initializer] == [initializer]
    with pytest.raises((AttributeError, TypeError)):
        initializer.anything = 1  # type: ignore[attr-defined]


def test_text_is_as_written() -> None:
    assert repr(Normal(0.02 / sqrt(2 * depth))) == "Normal(0.02 / sqrt(2 * depth))"
    assert repr(TruncNormal(1 / sqrt(fan_in), cut=3, batch_axis=0)) == (
        "TruncNormal(1 / sqrt(fan_in), cut=3, batch_axis=0)"
    )
    assert repr(Normal(1e-6)) == "Normal(1e-06)" and repr(Normal(1 / 3)) == f"Normal({1 / 3!r})"


# ------------------------------------------------------------------------------- plain numbers


def test_fans_follow_the_layout() -> None:
    shape = (2, 6, 4, 3)
    assert Normal(fan_in).resolve(shape).std == 6 * 4 * 3
    assert Normal(fan_out).resolve(shape).std == 2 * 4 * 3
    assert Normal(fan_in, transposed=True).resolve(shape).std == 2 * 4 * 3
    assert Normal(fan_in, batch_axis=0, in_axis=2, out_axis=3).resolve(shape).std == 6 * 4
    assert Normal(fan_in, batch_axis=0).resolve((5, 7, 3)).std == 3  # experts: (out, in) of each
    assert Normal(fan_in, batch_axis=-1).resolve((7, 3, 5)).std == 3
    assert Normal(fan_in, batch_axis=(0, 1), transposed=True).resolve((2, 5, 7, 3)).std == 7
    assert Normal(fan_out, groups=2).resolve(shape).std == 4 * 3
    # A transposed convolution of 2 groups: (in, out / groups, kernel).
    assert Normal(fan_in, transposed=True, groups=2).resolve(shape).std == 2 / 2 * 4 * 3
    assert Normal(fan_in).resolve((7,), weight=(7, 5)).std == 5
    assert Normal(fan_out).resolve((7,)).std == 7


def test_values_of_variables() -> None:
    resolved = Normal(depth + 10 * layer, mean=width * head_dim).resolve(
        (3,), depth=1, layer=2, width=3, head_dim=4
    )
    assert resolved == Normal(21, mean=12)
    assert Normal(1.0).resolve((3,)) == Normal(1.0)


def test_refused_once_known() -> None:
    with pytest.raises(ValueError, match="std must be at least 0"):
        Normal(1 - depth).resolve((3, 5), depth=4)


SHAPE = (6, 8)
CALLS: list[tuple[Initializer, Any]] = [
    (Normal(0.3, 0.1), lambda w, **k: fastinit.normal_(w, 0.1, 0.3, **k)),
    (Uniform(-2, 0.5), lambda w, **k: fastinit.uniform_(w, -2, 0.5, **k)),
    (TruncNormal(0.2, cut=1.5, mean=1.0), lambda w, **k: fastinit.trunc_normal_(
        w, 1.0, 0.2, 1 - 0.2 * 1.5, 1 + 0.2 * 1.5, **k)),
    (Kaiming(0.3), lambda w, **k: fastinit.kaiming_normal_(w, 0.3, **k)),
    (Kaiming(mode="fan_out", nonlinearity="relu", distribution="uniform"), lambda w, **k:
        fastinit.kaiming_uniform_(w, 0, "fan_out", "relu", **k)),
    (Kaiming(transposed=True), lambda w, **k: fastinit.kaiming_normal_(
        w, in_axis=0, out_axis=1, **k)),
    (Xavier(2.0), lambda w, **k: fastinit.xavier_normal_(w, 2.0, **k)),
    (Xavier(distribution="uniform"), lambda w, **k: fastinit.xavier_uniform_(w, **k)),
    (VarianceScaling(), lambda w, **k: fastinit.lecun_normal_(w, **k)),
    (VarianceScaling(2.0, "fan_out", "normal"), lambda w, **k: fastinit.variance_scaling_(
        w, 2.0, "fan_out", "normal", **k)),
    (Orthogonal(0.5), lambda w, **k: fastinit.orthogonal_(w, 0.5, **k)),
    (Sparse(0.5), lambda w, **k: fastinit.sparse_(w, 0.5, **k)),
    (Constant(3), lambda w, **k: fastinit.constant_(w, 3.0)),
    (Zeros(), lambda w, **k: fastinit.zeros_(w)),
    (Ones(), lambda w, **k: fastinit.ones_(w)),
    (Eye(), lambda w, **k: fastinit.eye_(w)),
]  # fmt: skip


def filled(
    shape: tuple[int, ...], device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.full(shape, -192.0, device=device, dtype=dtype)


@pytest.mark.parametrize(("initializer", "function"), CALLS, ids=[repr(c[0]) for c in CALLS])
def test_a_call_is_the_function(initializer: Initializer, function: Any, device: str) -> None:
    w = filled(SHAPE, device)
    assert initializer(w, key=7) is w
    assert torch.equal(w, function(filled(SHAPE, device), key=7))
    rows = filled((2, 8), device)
    initializer(rows, key=7, region=Region(SHAPE, (3, 0)))
    assert torch.equal(rows, w[3:5])
    if device == "cpu":
        again = function(filled(SHAPE), generator=torch.Generator().manual_seed(3))
        ours = initializer(filled(SHAPE), generator=torch.Generator().manual_seed(3))
        assert torch.equal(ours, again)


def test_experts_have_the_fans_of_one() -> None:
    shape = (4, 6, 8)
    experts = Kaiming(batch_axis=0)(filled(shape), key=7)
    explicit = fastinit.kaiming_normal_(filled(shape), in_axis=2, out_axis=1, batch_axis=0, key=7)
    assert torch.equal(experts, explicit)
    turned = Xavier(batch_axis=0, in_axis=1, out_axis=2)(filled(shape), key=7)
    assert torch.equal(turned, Xavier(batch_axis=0)(filled(shape), key=7))
    assert Kaiming(batch_axis=0).law(shape) == Kaiming().law((6, 8))


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("initializer", [c[0] for c in CALLS], ids=repr)
def test_the_law_of_a_table_is_the_call(initializer: Initializer, complex: bool) -> None:
    law = initializer.resolve(SHAPE).law(SHAPE, complex)
    if law is None:
        assert isinstance(initializer, (Orthogonal, Sparse, Eye)) or hasattr(initializer, "value")
        return
    dtype = torch.complex64 if complex else torch.float32
    single = initializer(filled(SHAPE, dtype=dtype), key=fastinit.Key(5))
    table = filled(SHAPE, dtype=dtype)
    laws.fill([(table, law, (5, 0))])
    assert torch.equal(single, table)


def test_dirac() -> None:
    w = Dirac(groups=3)(filled((6, 2, 3)))
    assert torch.equal(w, fastinit.dirac_(filled((6, 2, 3)), 3))
    part = Dirac(groups=3)(filled((3, 2, 3)), region=Region((6, 2, 3), (2, 0, 0)))
    assert torch.equal(part, w[2:5])
    with pytest.raises(ValueError, match="region must hold a tensor of shape"):
        Dirac()(filled((3, 2, 3)), region=Region((4, 2, 3), (2, 0, 0)))


def test_markers() -> None:
    w = filled((2,))
    assert Keep()(w, key=0) is w and (w == -192).all()
    with pytest.raises(TypeError, match="use it in a recipe"):
        Native()(w)


def test_no_law_before_numbers_are_known() -> None:
    for initializer in (Normal(depth), TruncNormal(0.1, cut=depth), Uniform(0, depth)):
        with pytest.raises(ValueError, match="call resolve"):
            initializer.law(SHAPE)


def test_numbers_for_a_report() -> None:
    assert Normal(2.0, 1.0).numbers(SHAPE)[:2] == (1.0, 2.0)
    assert Uniform(-3, 3).numbers(SHAPE).std == pytest.approx(math.sqrt(3))
    assert TruncNormal(0.5, cut=3).numbers(SHAPE) == (0.0, 0.5, -1.5, 1.5)
    assert Kaiming().numbers(SHAPE).std == pytest.approx(math.sqrt(2 / 8))
    bound = math.sqrt(6 / 14)
    uniform = Xavier(distribution="uniform").numbers(SHAPE)
    assert uniform == pytest.approx((0.0, bound / math.sqrt(3), -bound, bound))
    assert VarianceScaling().numbers(SHAPE).std == pytest.approx(8**-0.5 / 0.87962566103423978)
    assert Orthogonal(2.0).numbers(SHAPE).std == pytest.approx(2 / math.sqrt(8))
    assert Zeros().numbers(SHAPE) == (0.0, 0.0, 0.0, 0.0) and Keep().numbers(SHAPE).std is None


def test_a_correction_makes_up_for_the_cut() -> None:
    for cut in (0.5, 2.0, 3.0):
        w = TruncNormal(0.5, cut=cut, corrected=True)(torch.empty(1000, 1000), key=1)
        assert w.std().item() == pytest.approx(0.5, rel=3e-3)  # 4 standard errors
        plain = TruncNormal(0.5, cut=cut)(torch.empty(1000, 1000), key=1)
        assert plain.std().item() < 0.5 * 0.99
    law = TruncNormal(8**-0.5, corrected=True).law(SHAPE)
    assert law is not None and law[2:5] == pytest.approx(VarianceScaling().law(SHAPE)[2:5])  # type: ignore[index]


# -------------------------------------------------------------------------------- packed parts


def test_parts_are_weights_of_their_own(device: str) -> None:
    packed = Normal(1 / sqrt(fan_out), parts={0: {"wq": 8, "wk": 4, "wv": fan_out / 4}})
    w = packed(filled((16, 4), device), key=3)
    start = 0
    for name, rows in [("wq", 8), ("wk", 4), ("wv", 4)]:
        own = Normal(1 / sqrt(fan_out))(
            filled((rows, 4), device), key=fastinit.Key(3).fold_in(name)
        )
        assert torch.equal(w[start : start + rows], own)
        start += rows
    for first, last in [(0, 16), (3, 7), (5, 13), (12, 16), (16, 16)]:
        piece = packed(filled((last - first, 2), device), key=3, region=Region((16, 4), (first, 2)))
        assert torch.equal(piece, w[first:last, 2:])


def test_parts_draw_one_key() -> None:
    packed = Kaiming(parts={-1: {"gate": 3, "up": 3}}, batch_axis=0)
    generator = torch.Generator().manual_seed(1)
    first = packed(filled((2, 4, 6)), generator=generator)
    other = torch.Generator().manual_seed(1)
    fastinit.normal_(torch.empty(1), generator=other)
    assert torch.equal(generator.get_state(), other.get_state())
    assert not torch.equal(first[..., :3], first[..., 3:])
    with fastinit.keyed(4):
        scoped = packed(filled((2, 4, 6)))
    assert torch.equal(scoped, packed(filled((2, 4, 6)), key=fastinit.Key(4).fold_in(0)))
    leaf = torch.nn.Parameter(filled((2, 4, 6)))
    assert packed(leaf, key=1) is leaf and leaf.is_leaf and leaf._version > 0
    assert packed(torch.empty(2, 4, 6, device="meta")).is_meta


def test_parts_have_to_fill_the_axis() -> None:
    with pytest.raises(ValueError, match=r"got wq 8 \+ wk 4 = 12; give extents that sum to 16"):
        Normal(1.0, parts={0: {"wq": 8, "wk": 4}})(filled((16, 4)), key=0)
    with pytest.raises(ValueError, match="parts must have whole extents"):
        Normal(1.0, parts={0: {"a": fan_out / 3, "b": 1}}).pieces((16, 4))
    with pytest.raises(ValueError, match="parts must name an axis of the shape"):
        Normal(1.0, parts={2: {"a": 4}}).pieces((16, 4))


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Normal("0.02"), TypeError, "std must be a number or an expression, got '0.02'"),
        (lambda: Normal(True), TypeError, "std must be a number"),
        (lambda: Normal(-1), ValueError, "std must be at least 0, got -1"),
        (lambda: Normal(math.nan), ValueError, "std must be finite"),
        (lambda: TruncNormal(0), ValueError, "std must be above 0"),
        (lambda: TruncNormal(1, cut=-2), ValueError, "cut must be above 0"),
        (lambda: TruncNormal(1, corrected=1), TypeError, "corrected must be a bool"),
        (lambda: Uniform(1, 0), ValueError, "high must be at least low = 1"),
        (lambda: Kaiming(mode="fan_avg"), ValueError, "fan_avg not supported"),
        (lambda: Kaiming(nonlinearity="nope"), ValueError, "nope"),
        (lambda: Kaiming(distribution="cauchy"), ValueError, "distribution must be one of"),
        (lambda: VarianceScaling(0), ValueError, "scale must be above 0"),
        (lambda: VarianceScaling(mode="fan"), ValueError, "mode must be one of"),
        (lambda: Sparse(1.5), ValueError, "sparsity must be from 0 to 1"),
        (lambda: Dirac(0), ValueError, "groups must be at least 1"),
        (lambda: Dirac(1.0), TypeError, "groups must be an int"),
        (lambda: Normal(1, groups=1.0), TypeError, "groups must be an int"),
        (lambda: Normal(1, in_axis="x"), TypeError, "in_axis must be an int or a sequence"),
        (lambda: Normal(1, transposed="yes"), TypeError, "transposed must be a bool"),
        (lambda: Normal(1, parts={"a": 1}), TypeError, "parts must name an axis"),
        (lambda: Normal(1, parts={0: {"a": 1.5}}), TypeError, "parts must map names to ints"),
        (lambda: Initializer.from_dict({"law": "Nope"}), ValueError, "law must be one of"),
        (lambda: Initializer.from_dict({"law": "_Value"}), ValueError, "law must be one of"),
        (
            lambda: Initializer.from_dict({"law": "Zeros", "std": 1}),
            ValueError,
            "describes no Zero",
        ),
    ],
)
def test_refusals(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_a_refusal_leaves_the_tensor() -> None:
    w = filled((6, 8))
    for initializer in (Normal(depth), Normal(1.0, parts={0: {"a": 5}})):
        with pytest.raises(ValueError):
            initializer(w, key=0)
        with pytest.raises(ValueError, match="exclude each other"):
            Normal(1.0, parts={0: {"a": 6}})(w, key=0, generator=torch.Generator())
    assert (w == -192).all()
