"""What an edit by numbers makes of a recorded law, where that is a law again.

Owns multiplication, addition and clamping of a truncated normal. A value computed by the new law is
the edited one to rounding, but has been rounded once, at the end. Must not know tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TypeAlias

from fastinit._fill.laws import Law

Edit: TypeAlias = Callable[..., Law | None]  # None where the result is no such law

# Of a draw beyond a bound, 2^32 values are possible.
_NEVER = 2.0**-40
_ROUNDING = 2.0**-22
_standard = NormalDist()


def mul(law: Law, factor: object) -> Law | None:
    """The law of a product. A negative factor is refused: it would exchange the tails."""
    if not _is_number(factor) or factor <= 0:  # type: ignore[operator]
        return None
    return _finite(law, *(number * factor for number in law[1:5]))  # type: ignore[operator]


def add(law: Law, term: object) -> Law | None:
    """The law of a sum."""
    if not _is_number(term):
        return None
    mean, low, high = (number + term for number in (law.mean, law.low, law.high))  # type: ignore[operator]
    return _finite(law, mean, law.std, low, high)


def clamp(law: Law, low: object = None, high: object = None) -> Law | None:
    """The law of clamped values, if clamping moves none of them by more than rounding."""
    if (low, high) == (None, None) or not all(x is None or _is_number(x) for x in (low, high)):
        return None
    least = law.low if low is None else max(law.low, low)  # type: ignore[call-overload]
    most = law.high if high is None else min(law.high, high)  # type: ignore[call-overload]
    for moved, bound in ((least, law.low), (most, law.high)):
        near = abs(moved - bound) <= _ROUNDING * max(abs(bound), law.std)
        if not near and _between(law, moved, bound) > _NEVER * _between(law, law.low, law.high):
            return None
    return law._replace(low=float(least), high=float(most)) if least < most else None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _finite(law: Law, *numbers: float) -> Law | None:
    """The law with another mean, std, low and high."""
    mean, std, low, high = map(float, numbers)
    if not all(map(math.isfinite, (mean, std, low, high))) or std == 0.0 or low >= high:
        return None
    return law._replace(mean=mean, std=std, low=low, high=high)


def _between(law: Law, one: float, other: float) -> float:
    """The probability that a normal without bounds lies between two numbers."""
    first, last = sorted(((one - law.mean) / law.std, (other - law.mean) / law.std))
    if first > 0.0:  # in the upper tail, whose probabilities are small numbers only from above
        first, last = -last, -first
    return _standard.cdf(last) - _standard.cdf(first)
