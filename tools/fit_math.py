"""Derives every coefficient of csrc/core/math.h; nothing in math.h comes from anywhere else.

Each function is reduced to polynomials by an identity stated beside its fit below. A polynomial is
the weighted least-squares one on Chebyshev nodes, in 60-digit arithmetic, reweighted a few times
(Lawson's algorithm) towards the smallest maximum error. Its coefficients are rounded to the working
precision one by one, lowest power first, and those not yet rounded are fitted again each time, so
that they absorb the rounding.

Usage: python tools/fit_math.py [part of a name ...]     (needs mpmath; seconds for all)

Prints each polynomial, lowest power first, as it stands in math.h, with the largest weighted error
of the rounded polynomial in exact arithmetic. The C++ functions add the rounding errors of their
own operations; math.h states those totals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from mpmath import cos, erf, erfc, exp, log, lu_solve, matrix, mp, mpf, pi, sin, sqrt

mp.dps = 60

Real: TypeAlias = Any  # mpmath's mpf, which has no types
Function: TypeAlias = Callable[[Real], Real]
# Bits of the significand, digits that identify a number uniquely, suffix of a C++ literal.
Precision: TypeAlias = tuple[int, int, str]
FLOAT: Precision = (24, 9, "f")
DOUBLE: Precision = (53, 17, "")


def round_to(precision: Precision, value: Real) -> Real:
    """The nearest number of that precision."""
    with mp.workprec(precision[0]):
        return +value


def literal(precision: Precision, value: Real) -> str:
    """The number as C++ has it."""
    text = f"{float(value):.{precision[1]}g}"
    return text + ("" if "." in text or "e" in text else ".0") + precision[2]


def evaluate(coefficients: Sequence[Real], x: Real) -> Real:
    """The polynomial at x, by Horner's rule."""
    total = mpf(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def solve(
    moments: Sequence[Real], sides: Sequence[Real], rounded: Sequence[Real], low: int, high: int
) -> list[Real]:
    """Least squares for the powers low ... high, the coefficients below `low` being `rounded`."""
    n = high - low + 1
    normal = matrix(n, n)
    right = matrix(n, 1)
    for j in range(n):
        right[j] = sides[low + j] - sum(c * moments[low + j + k] for k, c in enumerate(rounded))
        for k in range(n):
            normal[j, k] = moments[2 * low + j + k]
    return list(lu_solve(normal, right))


def fit(
    name: str,
    precision: Precision,
    degree: int,
    lo: Real,
    hi: Real,
    function: Function,
    weight: Function,
    sweeps: int = 4,
) -> None:
    """Fits, rounds and prints one polynomial on [lo, hi], if the command line asks for it.

    The error is weight(x) * (function(x) - polynomial(x)): with weight = 1 / result it is relative.
    """
    if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
        return
    size = 10 * (degree + 2)
    angles = [pi * (2 * i + 1) / (2 * size) for i in range(size)]
    xs = [(lo + hi) / 2 - (hi - lo) / 2 * cos(angle) for angle in angles]
    targets = [function(x) for x in xs]
    weights = [weight(x) for x in xs]
    powers = [[x**k for k in range(2 * degree + 1)] for x in xs]

    def errors(coefficients: Sequence[Real]) -> list[Real]:
        values = (evaluate(coefficients, x) for x in xs)
        return [abs(w * (t - v)) for w, t, v in zip(weights, targets, values, strict=True)]

    best = mpf("inf")
    lawson = [mpf(1)] * size
    for _ in range(sweeps):
        squares = [q * w * w for q, w in zip(lawson, weights, strict=True)]
        columns = list(zip(*powers, strict=True))
        trial = (
            [sum(s * x for s, x in zip(squares, column, strict=True)) for column in columns],
            [
                sum(s * t * x for s, t, x in zip(squares, targets, c, strict=True))
                for c in columns[: degree + 1]
            ],
        )
        sizes = errors(solve(*trial, [], 0, degree))
        if max(sizes) < best:
            best, (moments, sides) = max(sizes), trial
        lawson = [q * (e / best + mpf("0.02")) for q, e in zip(lawson, sizes, strict=True)]

    rounded: list[Real] = []
    for low in range(degree + 1):
        rounded.append(round_to(precision, solve(moments, sides, rounded, low, degree)[0]))
    print(f"{name}: degree {degree}, largest weighted error {float(max(errors(rounded))):.1e}")
    print("  " + ", ".join(literal(precision, c) for c in rounded), flush=True)


def constant(name: str, precision: Precision, value: Real) -> None:
    """Prints a number of twice the precision as the sum of two."""
    high = round_to(precision, value)
    parts = literal(precision, high), literal(precision, value - high)
    print(f"{name}: {parts[0]} and the rest {parts[1]}")


def fit_minus_two_log(precision: Precision, degree: int) -> None:
    """-2 ln(1 + f) = g + g^2 Q(g) with g = -2 f, relative error, 1 + f in [sqrt(1/2), sqrt(2)]."""

    def exact(g: Real) -> Real:
        return -2 * log(1 - g / 2)

    def quotient(g: Real) -> Real:
        return (exact(g) - g) / g**2

    root = sqrt(mpf(2))
    name = f"minus_two_log {precision[0]} bits"
    fit(name, precision, degree, 2 - 2 * root, 2 - root, quotient, lambda g: g * g / abs(exact(g)))


def fit_sincos(precision: Precision, sine_degree: int, cosine_degree: int) -> None:
    """With q = p^2, |p| <= 1: sin(pi p / 4) = p (HIGH + S(q)), cos(pi p / 4) = 1 + q C(q)."""
    high = round_to(precision, pi / 4)

    def sine(q: Real) -> Real:
        return sin(pi / 4 * sqrt(q)) / sqrt(q)

    def low_sine(q: Real) -> Real:
        return sine(q) - high

    def cosine_less_one(q: Real) -> Real:
        return (cos(pi / 4 * sqrt(q)) - 1) / q

    name = f"sincos {precision[0]} bits, "
    interval = mpf(0), mpf(1)
    fit(name + "S", precision, sine_degree, *interval, low_sine, lambda q: 1 / sine(q))
    fit(name + "C", precision, cosine_degree, *interval, cosine_less_one, lambda q: q)


@cache
def quantile_and_center(length: Real) -> tuple[Real, Real]:
    """z <= 0 and c = Phi(z) - 1/2 such that -2 ln(4 p (1 - p)) = length, where p = Phi(z)."""
    root = sqrt(1 - exp(-length / 2))
    p = exp(-length / 2) / (2 * (1 + root))
    z = -sqrt(length)
    for _ in range(12):  # Newton on ln Phi, which is concave: converges from this side
        cdf = erfc(-z / sqrt(mpf(2))) / 2
        z -= cdf * log(cdf / p) * sqrt(2 * pi) * exp(z * z / 2)
    return z, -root / 2


def fit_quantile_center(precision: Precision, degree: int, shift: int) -> None:
    """z = c P(L - shift), L = -2 ln(4 p (1 - p)) <= 10."""

    def ratio(x: Real) -> Real:
        z, c = quantile_and_center(x + shift)
        return z / c

    name = f"quantile center {precision[0]} bits"
    fit(name, precision, degree, -mpf(shift), mpf(10 - shift), ratio, lambda x: 1 / ratio(x))


def fit_quantile_tail() -> None:
    """z = s T(1 / (s + 2)), s = sqrt(L) in [sqrt(10), 37.8]; there p falls to 1e-311."""

    def ratio(x: Real) -> Real:
        s = 1 / x - 2
        return quantile_and_center(s * s)[0] / s

    interval = 1 / mpf("39.8"), 1 / (sqrt(mpf(10)) + 2)
    fit("quantile tail", FLOAT, 8, *interval, ratio, lambda x: 1 / abs(ratio(x)))


def fit_scaled_tail() -> None:
    """exp(t^2 / 2) Phi(-t) = M(y) / (t + 3), y = (t - 4) / (t + 4), t in [0, 40]."""

    def scaled(y: Real) -> Real:
        t = 4 * (1 + y) / (1 - y)
        return exp(t * t / 2) * erfc(t / sqrt(mpf(2))) / 2 * (t + 3)

    fit("scaled tail", DOUBLE, 22, mpf(-1), mpf(36) / 44, scaled, lambda y: 1 / scaled(y))


def fit_cdf_center() -> None:
    """Phi(x) - 1/2 = x P(x^2), |x| <= 1."""

    def ratio(q: Real) -> Real:
        return erf(sqrt(q / 2)) / 2 / sqrt(q)

    fit("cdf center", DOUBLE, 12, mpf(0), mpf(1), ratio, lambda q: 1 / ratio(q))


def fit_exp() -> None:
    """exp(r) = 1 + r + r^2 E(r), |r| <= ln(2) / 2."""
    half = log(mpf(2)) / 2
    fit("exp", DOUBLE, 10, -half, half, lambda r: (exp(r) - 1 - r) / r**2, lambda r: r * r)


if __name__ == "__main__":
    for precision in (FLOAT, DOUBLE):
        constant("2 ln 2", precision, 2 * log(mpf(2)))
        constant("pi / 4", precision, pi / 4)
    constant("ln 2", DOUBLE, log(mpf(2)))
    constant("log2(e) / 2", DOUBLE, 1 / (2 * log(mpf(2))))
    constant("sqrt(2 pi)", DOUBLE, sqrt(2 * pi))
    fit_minus_two_log(FLOAT, 7)
    fit_minus_two_log(DOUBLE, 19)
    fit_sincos(FLOAT, 3, 3)
    fit_sincos(DOUBLE, 6, 6)
    fit_quantile_center(FLOAT, 8, 0)
    fit_quantile_center(DOUBLE, 20, 5)
    fit_quantile_tail()
    fit_scaled_tail()
    fit_cdf_center()
    fit_exp()
