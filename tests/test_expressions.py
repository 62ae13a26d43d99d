"""Expressions: numbers that wait for a fan, a depth or a width, as text and as values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastinit.initializers import (
    Normal,
    expressions,
)
from fastinit.initializers.expressions import (
    Expression,
    depth,
    fan_in,
    fan_out,
    head_dim,
    layer,
    parse,
    sqrt,
    width,
)


def expression() -> st.SearchStrategy[Any]:
    number = st.one_of(st.integers(-9, 9), st.floats(-9, 9, allow_nan=False))
    variable = st.sampled_from([fan_in, fan_out, depth, layer, width, head_dim])

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]),
            pair.map(lambda p: p[0] - p[1]),
            pair.map(lambda p: p[0] * p[1]),
            st.tuples(inner, variable).map(lambda p: p[0] / p[1]),
            st.tuples(variable, inner).map(lambda p: p[0] ** p[1]),
            st.tuples(inner, variable).map(lambda p: expressions.min(*p)),
            st.tuples(inner, variable).map(lambda p: expressions.max(*p)),
            inner.map(lambda p: -p),
            variable.map(sqrt),
        )

    return st.recursive(st.one_of(number, variable), larger, max_leaves=8)


VALUES = {
    "fan_in": 64.0,
    "fan_out": 16.0,
    "depth": 4.0,
    "layer": 1.0,
    "width": 3.0,
    "head_dim": 2.0,
}


@given(expression())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_expressions_print_as_python_reads_them(value: Any) -> None:
    if not isinstance(value, Expression):
        return
    assert parse(str(value)) == value and hash(parse(str(value))) == hash(value)
    scope = {**VALUES, "sqrt": math.sqrt, "min": min, "max": max}
    try:
        expected = eval(str(value), scope)
        known = not isinstance(expected, complex) and math.isfinite(expected)
    except (ArithmeticError, ValueError):
        known = False
    if known:
        assert value.evaluate(VALUES) == expected
    else:
        with pytest.raises(ValueError, match="has no finite value"):
            value.evaluate(VALUES)


def test_functions_take_numbers_too() -> None:
    assert (sqrt(4), expressions.min(1, 2.5), expressions.max(1, 2.5)) == (2.0, 1, 2.5)
    assert (expressions.log(1.0), expressions.exp(0)) == (0.0, 1.0)
    assert expressions.log(depth).evaluate({"depth": math.e}) == 1.0


def test_an_expression_has_no_truth() -> None:
    for misuse in (
        lambda: min(1, depth),
        lambda: float(depth),  # type: ignore[arg-type]
        lambda: 1 if depth else 2,
    ):
        with pytest.raises(TypeError, match="use min and max of fastinit.recipes"):
            misuse()


@pytest.mark.parametrize(
    "text",
    ["depht", "open('x')", "depth.real", "[1]", "1 if depth else 2", "'a'", "inf", "1/0", ""],
)
def test_text_that_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match="is no expression"):
        parse(text)


def test_missing_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"0.02 / sqrt\(2 \* depth\) needs depth.* give it by"):
        Normal(0.02 / sqrt(2 * depth)).resolve((3, 5))
    with pytest.raises(ValueError, match="needs fan_in, which is not known here; it comes from"):
        Normal(1 / sqrt(fan_in))(torch.empty(5), key=0)
    with pytest.raises(ValueError, match=r"has no finite value for layer = 0: .*division"):
        Normal(0.02 / layer).resolve((3, 5), layer=0)
