"""Expressions: numbers of a law that are known only where a parameter is.

Owns the variables (fan_in, fan_out, depth, layer, width, head_dim), the arithmetic on them, its
text and the way back from text. An expression is a value: it compares, hashes and prints as
written. Must not know what a fan or a depth is; whoever evaluates it says so.
"""

from __future__ import annotations

import ast
import builtins
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from numbers import Real
from typing import Any, TypeAlias

_VARIABLE = "variable"
_NEGATIVE = "negative"
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "min": builtins.min,
    "max": builtins.max,
}
_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2, _NEGATIVE: 3, "**": 4}
_ATOM = 5

# What each variable stands for, and where a missing one comes from.
VARIABLES = {
    "fan_in": "it comes from the shape of a weight, of two dimensions or more",
    "fan_out": "it comes from the shape of a parameter, of one dimension or more",
    "depth": "give it by depth=, as Recipe and the presets take it, or resolve(shape, depth=)",
    "layer": "give the name of the list of blocks by layers=, as Recipe takes it, or "
    "resolve(shape, layer=)",
    "width": "give it by width=, as Recipe and the presets take it, or resolve(shape, width=)",
    "head_dim": "give it by head_dim=, as Recipe and the presets take it, or "
    "resolve(shape, head_dim=)",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A number that depends on variables, such as `0.02 / sqrt(2 * depth)`.

    Made by arithmetic on the variables of this module and by `sqrt`, `log`, `exp`, `min` and `max`;
    `parse` reads one from text.

    Args:
        operation: "variable", "negative", an operator or the name of a function.
        operands: the name of the variable, or numbers and expressions.

    Example:
        >>> from fastinit.recipes import depth, sqrt
        >>> 0.02 / sqrt(2 * depth)
        0.02 / sqrt(2 * depth)
    """

    operation: str
    operands: tuple[Any, ...]

    def __add__(self, other: Number) -> Expression:
        return _binary("+", self, other)

    def __radd__(self, other: Number) -> Expression:
        return _binary("+", other, self)

    def __sub__(self, other: Number) -> Expression:
        return _binary("-", self, other)

    def __rsub__(self, other: Number) -> Expression:
        return _binary("-", other, self)

    def __mul__(self, other: Number) -> Expression:
        return _binary("*", self, other)

    def __rmul__(self, other: Number) -> Expression:
        return _binary("*", other, self)

    def __truediv__(self, other: Number) -> Expression:
        return _binary("/", self, other)

    def __rtruediv__(self, other: Number) -> Expression:
        return _binary("/", other, self)

    def __pow__(self, other: Number) -> Expression:
        return _binary("**", self, other)

    def __rpow__(self, other: Number) -> Expression:
        return _binary("**", other, self)

    def __neg__(self) -> Expression:
        return Expression(_NEGATIVE, (self,))

    def _unknown(self, *_: object) -> Any:
        raise TypeError(
            f"{self} has no value before a parameter is known, so it can be neither compared nor "
            "converted; use min and max of fastinit.recipes in place of a condition"
        )

    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __float__ = __int__ = _unknown

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables in it."""
        return _variables(self)

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The number it stands for.

        Args:
            values: of the variables by their names.

        Raises:
            ValueError: a variable has no value, or the arithmetic has none (a division by zero).
        """
        missing = [name for name in VARIABLES if name in self.variables and name not in values]
        if missing:
            name = missing[0]
            raise ValueError(f"{self} needs {name}, which is not known here; {VARIABLES[name]}")
        try:
            value = float(_evaluate(self, values))
        except (ArithmeticError, ValueError, TypeError) as error:
            value, reason = math.nan, f": {error}"
        else:
            reason = ""
        if not math.isfinite(value):
            given = ", ".join(f"{name} = {values[name]:g}" for name in sorted(self.variables))
            raise ValueError(f"{self} has no finite value for {given}{reason}")
        return value

    def __str__(self) -> str:
        return _text(self)

    __repr__ = __str__


Number: TypeAlias = float | Expression


def _plain(value: object) -> float:
    """A Python number; a TypeError for what is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"a number or an expression is needed, got {value!r} ({type(value).__name__})"
        )
    number = value if isinstance(value, (int, float)) else float(value)
    if not math.isfinite(number):
        raise ValueError(f"a finite number is needed, got {value!r}")
    return number


def _operand(value: object) -> Number:
    return value if isinstance(value, Expression) else _plain(value)


def _binary(symbol: str, left: object, right: object) -> Expression:
    return Expression(symbol, (_operand(left), _operand(right)))


def _call(name: str, *values: Number) -> Any:
    if any(isinstance(value, Expression) for value in values):
        return Expression(name, tuple(map(_operand, values)))
    return _FUNCTIONS[name](*map(_plain, values))


fan_in = Expression(_VARIABLE, ("fan_in",))
fan_out = Expression(_VARIABLE, ("fan_out",))
depth = Expression(_VARIABLE, ("depth",))
layer = Expression(_VARIABLE, ("layer",))
width = Expression(_VARIABLE, ("width",))
head_dim = Expression(_VARIABLE, ("head_dim",))


def sqrt(value: Number) -> Any:
    """The square root, of a number or an expression."""
    return _call("sqrt", value)


def log(value: Number) -> Any:
    """The natural logarithm, of a number or an expression."""
    return _call("log", value)


def exp(value: Number) -> Any:
    """The exponential function, of a number or an expression."""
    return _call("exp", value)


def min(first: Number, second: Number, *others: Number) -> Any:
    """The least of several numbers or expressions."""
    return _call("min", first, second, *others)


def max(first: Number, second: Number, *others: Number) -> Any:
    """The greatest of several numbers or expressions."""
    return _call("max", first, second, *others)


@lru_cache(maxsize=4096)
def _variables(value: Expression) -> frozenset[str]:
    if value.operation == _VARIABLE:
        return frozenset(value.operands)
    parts = [_variables(part) for part in value.operands if isinstance(part, Expression)]
    return reduce(frozenset.union, parts, frozenset())


def _evaluate(value: Number, values: Mapping[str, float]) -> float:
    if not isinstance(value, Expression):
        return value
    if value.operation == _VARIABLE:
        return values[value.operands[0]]
    operands = [_evaluate(part, values) for part in value.operands]
    if value.operation == _NEGATIVE:
        return -operands[0]
    return (_OPERATORS.get(value.operation) or _FUNCTIONS[value.operation])(*operands)


# ------------------------------------------------------------------------------------------- text


def _strength(value: Number) -> int:
    if not isinstance(value, Expression):
        return _STRENGTH[_NEGATIVE] if value < 0 else _ATOM
    return _STRENGTH.get(value.operation, _ATOM)


def _text(value: Number) -> str:
    if not isinstance(value, Expression):
        return repr(value)
    operation, operands = value.operation, value.operands
    if operation == _VARIABLE:
        return str(operands[0])
    if operation in _FUNCTIONS:
        return f"{operation}({', '.join(map(_text, operands))})"
    own = _STRENGTH[operation]
    if operation == _NEGATIVE:
        return f"-{_enclosed(operands[0], _strength(operands[0]) <= own)}"
    left, right = operands
    if operation == "**":  # from the right, and a sign behind it needs no parentheses
        weak = isinstance(right, Expression) and _strength(right) < own
        return f"{_enclosed(left, _strength(left) <= own)} ** {_enclosed(right, weak)}"
    return (
        f"{_enclosed(left, _strength(left) < own)} {operation} "
        f"{_enclosed(right, _strength(right) <= own)}"
    )


def _enclosed(value: Number, enclose: bool) -> str:
    return f"({_text(value)})" if enclose else _text(value)


_SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}


def parse(text: str) -> Number:
    """The number or expression that a text stands for; `str` of the result is the text again.

    Args:
        text: such as "0.02 / sqrt(2 * depth)".

    Raises:
        ValueError: the text is anything but numbers, variables, + - * / ** and functions of this
            module.
    """
    try:
        return _read(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"{text!r} is no expression ({error}); it may hold numbers, {', '.join(VARIABLES)}, "
            f"{' '.join(_OPERATORS)} and {', '.join(_FUNCTIONS)}"
        ) from None


def _read(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value):
            return _plain(value)
        case ast.Name(id=name) if name in VARIABLES:
            return Expression(_VARIABLE, (name,))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            return -_plain(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _read(operand)
            return -inner
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SYMBOLS:
            symbol, first, second = _SYMBOLS[type(op)], _read(left), _read(right)
            if isinstance(first, Expression) or isinstance(second, Expression):
                return Expression(symbol, (first, second))
            return _OPERATORS[symbol](first, second)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            result: Number = _call(name, *map(_read, args))
            return result
    raise ValueError(f"{ast.unparse(node)} is not allowed")
