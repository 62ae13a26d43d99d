"""Python's share of fans and gains: reading the arguments as torch.nn.init reads them.

Owns the types and defaults of `nonlinearity`, `a`, `mode`, `gain`, `std` and the fan axes. The
gains of torch.nn.init, the fan count and the validation of values live in the compiled core, all
other gains in `gains`; nothing here may repeat them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from torch import Tensor

from fastinit._fill.extension import at_compile_time, native
from fastinit._fill.gains import Function, gain
from fastinit._fill.placements import is_dtensor, local_scalar

Axes: TypeAlias = int | Sequence[int]
FanArguments: TypeAlias = tuple[
    tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None, int
]

_NN_INIT_FANS: FanArguments = (None, None, None, 1)  # the core's defaults, 1, 0 and ()
KAIMING_MODES = ["fan_in", "fan_out"]
_DEFAULT_SLOPE = 0.01  # torch.nn.LeakyReLU's and nn.init's
_NN_INIT_NAMES = frozenset(  # whose gains the core has
    ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
    + [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]
)


class ZeroScaleError(ValueError, ZeroDivisionError):
    """A std, fan or group count of zero: a bad value, by which torch.nn.init divides."""


def calculate_gain(nonlinearity: str | Function, param: float | None = None) -> float:
    r"""The gain for what follows a layer: torch.nn.init's where that has one, else the exact one.

    Formula: 1 for linear, conv{1,2,3}d, conv_transpose{1,2,3}d and sigmoid; 5/3 for tanh; sqrt(2)
    for relu; sqrt(2 / (1 + param^2)) for leaky_relu; 3/4 for selu. For every other name and any
    callable, `gain`: 1 / sqrt(E f(z)^2). Those of sigmoid, tanh and selu are not of that form;
    docs/gains.md compares them.

    Source: He et al. 2015, equations 10 and 15 (relu, leaky_relu); the others are the values of
    `torch.nn.init.calculate_gain`.

    Args:
        nonlinearity: its name in `torch.nn.functional`, another one that `gain` knows, or an
            elementwise callable.
        param: the negative slope of leaky_relu (default 0.01), which torch.nn.init's other names
            ignore; what `gain` takes, for the rest.

    Returns:
        The gain, a dimensionless number.

    Raises:
        ValueError: an unknown nonlinearity, or a slope that is not a number; others as `gain`.

    Example:
        >>> import fastinit
        >>> fastinit.calculate_gain("leaky_relu", 1.0)
        1.0
        >>> round(fastinit.calculate_gain("gelu"), 6)
        1.53353
    """
    if _is_ours(nonlinearity):
        return gain(nonlinearity, param)
    name, parameter = _core_arguments(nonlinearity, param)
    value = _core_gain(name, parameter)
    # nn.init returns the int 1 for the linear maps and sigmoid, a float for all others.
    return 1 if value == 1.0 and name != "leaky_relu" else value


@at_compile_time
def _core_gain(name: str, parameter: float) -> float:
    value: float = native.calculate_gain(name, parameter)
    return value


def gain_arguments(nonlinearity: str | Function, a: object) -> tuple[float, str, float]:
    """(gain, name, parameter) for the core, whose gain of the name is a further factor.

    As in nn.init, only leaky_relu looks at `a`, which has a default of its own here.
    """
    # What most calls say, ahead of all else: of a call of 2 us the rest takes a tenth.
    plain = type(a) is int or type(a) is float
    if plain and type(nonlinearity) is str and nonlinearity == "leaky_relu":
        return 1.0, nonlinearity, a  # type: ignore[return-value]
    if _is_ours(nonlinearity):
        return gain(nonlinearity), "linear", 0.0
    return 1.0, *_core_arguments(nonlinearity, a)


def _is_ours(nonlinearity: str | Function) -> bool:
    """Whether `gain` has to answer; what is no nonlinearity at all is for the core to refuse."""
    if isinstance(nonlinearity, str):
        return nonlinearity not in _NN_INIT_NAMES
    return callable(nonlinearity)


def _core_arguments(nonlinearity: object, param: object) -> tuple[str, float]:
    if nonlinearity != "leaky_relu":
        # Anything but a name is for the core to refuse by its text, as nn.init does.
        return str(nonlinearity), 0.0
    if isinstance(param, (int, float)) and not isinstance(param, bool):
        return "leaky_relu", param
    if param is None:
        return "leaky_relu", _DEFAULT_SLOPE
    raise ValueError(f"negative_slope {param} not a valid number")


def kaiming_mode(mode: str) -> str:
    """`mode`, refusing the fan_avg that the core knows and nn.init's Kaiming functions do not."""
    if mode in KAIMING_MODES:
        return mode
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, got {mode!r}; please use one of {KAIMING_MODES}")
    if mode.lower() in KAIMING_MODES:
        return mode.lower()
    raise ValueError(f"Mode {mode.lower()} not supported, please use one of {KAIMING_MODES}")


def number(name: str, value: float | Tensor) -> float:
    """`value` as a float; waits for the device of a tensor."""
    if isinstance(value, float):
        return value
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a number, got {value!r}; pass a float")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"{name} must be a number, got {value!r} ({type(value).__name__}); pass a float"
        ) from None


def scaled(name: str, value: float | Tensor, tensor: Tensor) -> tuple[float, Tensor | None]:
    """(factor, None) for a number, (1, value) for a 0-dim tensor that the kernel reads itself.

    An integer tensor, and one on the CPU for a tensor elsewhere, is a number as for nn.init.
    """
    if isinstance(value, float):
        return value, None
    if isinstance(value, Tensor):
        if is_dtensor(value):
            value = local_scalar(name, value)
        is_number = value.ndim == 0 and value.is_cpu and not tensor.is_cpu
        if value.is_floating_point() and not is_number:
            return 1.0, value
    return number(name, value), None


def fan_arguments(in_axis: Axes, out_axis: Axes, batch_axis: Axes, groups: int) -> FanArguments:
    """The axes as tuples, and groups, as the core takes them."""
    if in_axis == 1 and out_axis == 0 and batch_axis == () and groups == 1:
        return _NN_INIT_FANS
    if type(groups) is not int:
        raise TypeError(f"groups must be an int, got {groups!r}; pass the layer's group count")
    return (
        _axes("in_axis", in_axis),
        _axes("out_axis", out_axis),
        _axes("batch_axis", batch_axis),
        groups,
    )


def _axes(name: str, axes: Axes) -> tuple[int, ...]:
    if type(axes) is int:
        return (axes,)
    if not isinstance(axes, Iterable) or not all(type(axis) is int for axis in axes):
        raise TypeError(f"{name} must be an int or a sequence of ints, got {axes!r}")
    return tuple(axes)
