"""Gains of activation functions: the names they go by, and exact expectations for any callable.

Owns the table of names, the quadrature over a standard normal input, and the checks that a callable
is an elementwise function at all. Must not know torch.nn.init's constants, which the compiled core
has, nor any tensor to fill.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, Literal, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fill.extension import at_compile_time

Function: TypeAlias = Callable[[Tensor], Tensor]
Direction: TypeAlias = Literal["forward", "backward"]
Moment: TypeAlias = Literal["second", "variance"]

# ------------------------------------------------------------------------------------ the names

_gelu_tanh = functools.partial(F.gelu, approximate="tanh")


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _identity(x: Tensor) -> Tensor:
    return x


_ACTIVATIONS: dict[str, Function] = {
    **dict.fromkeys(["linear", "identity"], _identity),
    **{f"conv{kind}{n}d": _identity for kind in ("", "_transpose") for n in (1, 2, 3)},
    "relu": F.relu,
    "relu6": F.relu6,
    **dict.fromkeys(["relu2", "relu_squared", "squared_relu"], _relu_squared),
    "rrelu": F.rrelu,  # as it evaluates: the slope is the mean of its bounds
    "gelu": F.gelu,
    **dict.fromkeys(["gelu_tanh", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"], _gelu_tanh),
    "quick_gelu": _quick_gelu,
    **dict.fromkeys(["silu", "swish"], F.silu),
    "mish": F.mish,
    "hardswish": F.hardswish,
    "selu": F.selu,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
}
# Those with a parameter: what it is called, its default, and the function of both.
_PARAMETRIC: dict[str, tuple[str, float, Callable[[Tensor, float], Tensor]]] = {
    "leaky_relu": ("negative slope", 0.01, F.leaky_relu),
    "prelu": ("negative slope", 0.25, F.leaky_relu),
    "elu": ("alpha", 1.0, F.elu),
    "celu": ("alpha", 1.0, F.celu),
    "softplus": ("beta", 1.0, F.softplus),
    "hardshrink": ("lambda", 0.5, F.hardshrink),
    "softshrink": ("lambda", 0.5, F.softshrink),
    "threshold": ("threshold", 0.0, lambda x, at: F.threshold(x, at, 0.0)),
    "sin": ("frequency", 1.0, lambda x, frequency: torch.sin(frequency * x)),
}
# a(u) v, with u and v the halves of a layer's output: by the name of a.
_GATED = {
    "glu": "sigmoid",
    "reglu": "relu",
    "geglu": "gelu",
    "swiglu": "silu",
    "bilinear": "linear",
}
NAMES = frozenset({*_ACTIVATIONS, *_PARAMETRIC, *_GATED})


@at_compile_time
def gain(
    nonlinearity: str | Function,
    param: float | None = None,
    *,
    direction: Direction = "forward",
    moment: Moment = "second",
) -> float:
    """The exact gain of any activation: with it, standard normal signals come out as large.

    Formula: 1 / sqrt(E f(z)^2), with z standard normal; 1 / sqrt(E f'(z)^2) for
    direction="backward"; 1 / std f(z) for moment="variance". A gated unit a(u) v has the second
    moment of a(u), as E v^2 = 1; its gradient reaches both halves, (E a^2 + E a'^2) / 2 of it each.

    Source: He et al., "Delving deep into rectifiers" (2015), equations 7 to 14, for any f; the
    variance is what weight standardization needs (Brock et al., "Characterizing signal propagation
    to close the performance gap in unnormalized ResNets", 2021, section 4.2). Composite
    Gauss-Legendre quadrature on [-12, 12] in float64; panels are bisected where halving changes
    them, so that kinks and jumps may be anywhere.

    Args:
        nonlinearity: a name of `torch.nn.functional`, such as "gelu"; "gelu_tanh", "quick_gelu",
            "relu_squared", "sin", "linear"; "glu", "reglu", "geglu", "swiglu", "bilinear". Or a
            callable that maps a float64 tensor element by element, such as `torch.sin`, a lambda or
            an `nn.Module`. For a gate of one's own, pass the function of the gate alone.
        param: of leaky_relu, prelu (the negative slope), elu, celu (alpha), softplus (beta),
            hardshrink, softshrink (lambda), threshold or sin (the frequency); the default is
            torch's.
        direction: "forward" keeps activations, "backward" gradients; relu and leaky_relu alone
            among the usual ones keep both.
        moment: "second" or, for what follows weights or activations of mean 0, "variance".

    Returns:
        The gain, a dimensionless number, to a relative 1e-13, or 1e-7 for a callable that computes
        in float32. It is computed once for a name and for a callable that stays the same.

    Raises:
        TypeError: a nonlinearity that is neither name nor instance of a callable.
        ValueError: an unknown name; a callable that is not elementwise, random, not finite, zero,
            not differentiable (backward), or whose expectation does not settle, which then comes
            with the estimate; another direction or moment.

    Reproducibility: of a function of torch, as far as its float64 values are; about 1e-15.

    Example:
        >>> import torch, fastinit
        >>> round(fastinit.gain("swiglu"), 6)
        1.676532
        >>> round(fastinit.gain(lambda x: x * torch.sigmoid(x)), 6)
        1.676532
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction must be 'forward' or 'backward', got {direction!r}")
    if moment not in ("second", "variance"):
        raise ValueError(f"moment must be 'second' or 'variance', got {moment!r}")
    if moment == "variance" and direction == "backward":
        raise ValueError(
            "moment='variance' is of what comes out forward, as no mean is taken from gradients; "
            "leave it out with direction='backward'"
        )
    if isinstance(nonlinearity, str):
        return _gain_of_name(nonlinearity, _parameter(nonlinearity, param), direction, moment)
    if param is not None:
        raise ValueError(
            f"param is for names, got {param!r} with a callable; bind it with functools.partial"
        )
    return _gain_of_callable(nonlinearity, direction, moment)


def function_of(nonlinearity: str | Function, param: float | None = None) -> Function:
    """The function of a name, for a gated one that of its gate; a callable once it is checked."""
    if not isinstance(nonlinearity, str):
        _probe(nonlinearity)
        return _prepared(nonlinearity)
    value = _parameter(nonlinearity, param)
    if value is not None:
        return functools.partial(_with_parameter, _PARAMETRIC[nonlinearity][2], value)
    return _ACTIVATIONS[_GATED.get(nonlinearity, nonlinearity)]


def _with_parameter(function: Callable[[Tensor, float], Tensor], value: float, x: Tensor) -> Tensor:
    return function(x, value)


def _parameter(name: str, param: float | None) -> float | None:
    """The parameter of a known name, its default if none was given."""
    if name not in NAMES:
        _refuse_name(name)
    if name not in _PARAMETRIC:
        if param is not None:
            raise ValueError(
                f"param is {param!r}, but {name} has no parameter; only "
                f"{', '.join(_PARAMETRIC)} take one"
            )
        return None
    word, default, _ = _PARAMETRIC[name]
    if param is None:
        return default
    if isinstance(param, bool) or not isinstance(param, int | float) or not math.isfinite(param):
        raise ValueError(f"param must be a finite number, the {word} of {name}, got {param!r}")
    return float(param)


def _refuse_name(name: str) -> NoReturn:
    near = difflib.get_close_matches(name.lower(), NAMES, n=3)
    hint = f"did you mean {' or '.join(near)}? Or" if near else "use one of torch.nn.functional, or"
    if "softm" in name:
        hint = "softmax is not elementwise, so it has no gain. Otherwise"
    raise ValueError(f"Unsupported nonlinearity {name}; {hint} pass a callable: Tensor -> Tensor")


@functools.cache
def _gain_of_name(name: str, param: float | None, direction: Direction, moment: Moment) -> float:
    function = function_of(name, param)
    if name not in _GATED:
        return _compute(function, name, direction, moment)
    gate = _compute(function, name, "forward", "second")
    if direction == "forward":  # E v = 0: the second moment is the variance too
        return gate
    slope = _compute(function, name, "backward", "second")
    return math.sqrt(2.0 / (gate**-2 + slope**-2))


# By callable: its values at the probes when its gains were computed, and those gains.
_known: WeakKeyDictionary[Function, tuple[list[float], dict[tuple[str, str], float]]] = (
    WeakKeyDictionary()
)


def _gain_of_callable(function: Function, direction: Direction, moment: Moment) -> float:
    """A callable is recognised by identity and by values, as modules and closures change."""
    values = _probe(function)
    try:
        known = _known.get(function)
    except TypeError:  # unhashable, or beyond weak references
        return _compute(_prepared(function), _name(function), direction, moment)
    if known is None or known[0] != values:
        known = (values, {})
    if (direction, moment) not in known[1]:
        result = _compute(_prepared(function), _name(function), direction, moment)
        known[1][direction, moment] = result
        _known[function] = known
    return known[1][direction, moment]


def _compute(function: Function, name: str, direction: Direction, moment: Moment) -> float:
    if direction == "backward":
        second = expectation(lambda x: slope_of(function, x, name).square(), name)
        what = "its derivative is zero everywhere"
    elif moment == "second":
        second = expectation(lambda x: _values(function, x, name).square(), name)
        what = "it is zero everywhere"
    else:
        mean = expectation(lambda x: _values(function, x, name), name)
        second = expectation(lambda x: (_values(function, x, name) - mean).square(), name)
        what = "it is constant"
        second = 0.0 if second < (1e-14 * mean) ** 2 else second
    if not second > 0:
        raise ValueError(f"nonlinearity {name} has no gain: {what}, so no factor restores a signal")
    return 1.0 / math.sqrt(second)


# -------------------------------------------------------------------------------- the quadrature

_NODES = 20
_EDGE = 12.0  # beyond it lie 4e-33 of a standard normal
_FIRST_WIDTH = 0.5
_TOLERANCE = 2e-15  # of the whole, for one panel
_LEAST_ACCURACY = 1e-7  # what is left to a function that computes in float32
_MOST_PANELS = 20_000
_DEEPEST = 60  # bisections; at a jump the panel is then narrower than float64 can say


def expectation(function: Function, name: str, *, scale: float = 1.0) -> float:
    """E function(scale z), z standard normal.

    Composite Gauss-Legendre; a panel is bisected where its halves give another value, or could hide
    a kink by their ends. Raises ValueError with the estimate if that does not settle, or if the
    tails weigh.
    """
    with _apart():
        width = _FIRST_WIDTH
        left = torch.arange(-_EDGE, _EDGE, width, dtype=torch.float64)
        whole, _ = _panels(function, left, width, scale)
        size, done = 0.0, 0.0
        for _ in range(_DEEPEST):
            lefts = torch.stack([left, left + width / 2])
            halves, hidden = _panels(function, lefts, width / 2, scale)
            size = max(size, done + float(halves.abs().sum()))
            doubt = torch.maximum((halves.sum(0) - whole).abs(), hidden.amax(0))
            rough = doubt > _TOLERANCE * size
            done += float(halves[:, ~rough].sum())
            left, whole, width = lefts[:, rough].flatten(), halves[:, rough].flatten(), width / 2
            if not 0 < left.numel() <= _MOST_PANELS:
                break
        result, open_doubt = done + float(whole.sum()), float(doubt[rough].sum())
        ends = torch.tensor([-_EDGE, _EDGE], dtype=torch.float64)
        tail = float((function(scale * ends).abs() * _density(ends)).max())
    if open_doubt > _LEAST_ACCURACY * size:
        raise ValueError(
            f"the expectation of nonlinearity {name} does not settle: {result:.6g} +- "
            f"{open_doubt:.2g} after many bisections; give a function that varies less"
        )
    if tail > 1e-13 * size:
        raise ValueError(
            f"the expectation of nonlinearity {name} does not settle: {result:.6g} within "
            f"{_EDGE:g} standard deviations, but it grows too fast beyond; give a slower one"
        )
    return result


def _panels(function: Function, left: Tensor, width: float, scale: float) -> tuple[Tensor, Tensor]:
    """The integrals of function times density over panels, and what a kink may hide in each.

    The first node of a panel is 0.0034 of it away from its end. What happens in between shows when
    the polynomial through the nodes misses the function's value at the end.
    """
    nodes, weights, to_left = torch.tensor(_gauss_legendre(), dtype=torch.float64)
    inside = left.unsqueeze(-1) + width / 2 * (nodes + 1)
    x = torch.cat([inside, left.unsqueeze(-1), left.unsqueeze(-1) + width], -1)
    values = function(scale * x.flatten()).view_as(x) * _density(x)
    inner, ends = values[..., :_NODES], values[..., _NODES:]
    expected = torch.stack([inner @ to_left, inner @ to_left.flip(0)], -1)
    hidden = (ends - expected).abs().amax(-1) * (0.0034 * width)
    return inner @ weights * (width / 2), hidden


def _density(x: Tensor) -> Tensor:
    return torch.exp(x.square() / -2) / math.sqrt(2 * math.pi)


@functools.cache
def _gauss_legendre() -> tuple[list[float], ...]:
    """Nodes and weights on [-1, 1], by Newton's method on the Legendre polynomial; and the factors
    by which values at the nodes make the interpolating polynomial's at -1.
    """
    nodes, weights = [], []
    for k in range(_NODES):
        x = -math.cos(math.pi * (k + 0.75) / (_NODES + 0.5))  # Tricomi's first guess
        for _ in range(10):
            before, value = 1.0, x
            for n in range(2, _NODES + 1):
                before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
            slope = _NODES * (x * value - before) / (x * x - 1)
            x -= value / slope
        nodes.append(x)
        weights.append(2 / ((1 - x * x) * slope**2))
    to_left = [math.prod((-1 - y) / (x - y) for y in nodes if y != x) for x in nodes]
    return nodes, weights, to_left


# --------------------------------------------------------------------------------- the callables


@contextmanager
def _apart() -> Iterator[None]:
    """Plain arithmetic on the CPU, whatever mode the caller is in; no random state moves."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        yield


def _prepared(function: Function) -> Function:
    """The callable itself, or a copy of a module in float64 on the CPU."""
    if isinstance(function, nn.Module) and [*function.parameters(), *function.buffers()]:
        if any(t.is_meta for t in [*function.parameters(), *function.buffers()]):
            raise ValueError(f"nonlinearity {_name(function)} is on meta; give it values first")
        return deepcopy(function).to("cpu", torch.float64)
    return function


def _name(function: object) -> str:
    return str(getattr(function, "__name__", None) or repr(function))


def _values(function: Function, x: Tensor, name: str) -> Tensor:
    """function(x), refused unless it is a finite float tensor of the shape of x."""
    try:
        y: Any = function(x.clone())  # it may work in place
    except Exception as error:
        raise ValueError(
            f"nonlinearity {name} fails on a float64 tensor of shape {tuple(x.shape)}: {error}; "
            "pass a callable that maps a tensor element by element"
        ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point():
        got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"nonlinearity {name} is not elementwise: a float64 tensor of shape {tuple(x.shape)} "
            f"became {got}; pass an elementwise callable, of a gated unit the gate's function"
        )
    values: Tensor = y.to("cpu", torch.float64)
    _require_finite(values, x, name)
    return values


def _require_finite(y: Tensor, x: Tensor, name: str) -> None:
    finite = y.isfinite()
    if not finite.all():
        at = float(x[~finite][0])
        raise ValueError(
            f"nonlinearity {name} is not finite: {float(y[~finite][0])} at {at:.6g}; a gain needs "
            f"a function that is finite within {_EDGE:g} standard deviations"
        )


def slope_of(function: Function, x: Tensor, name: str) -> Tensor:
    """function'(x), as autograd has it."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        y = _values(function, leaf, name)
        if not y.requires_grad:
            raise ValueError(
                f"nonlinearity {name} has no backward gain: autograd sees no derivative in it; "
                "build it of torch's functions"
            )
        (slope,) = torch.autograd.grad(y.sum(), leaf, materialize_grads=True)
    _require_finite(slope, x, f"{name}, its derivative,")
    return slope


def _probe(function: Function) -> list[float]:
    """Values of a callable at irregular points, once it is shown to be an elementwise function."""
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            f"nonlinearity must be a name or an instance of a callable, got {function!r}; pass "
            "'gelu', torch.tanh or nn.GELU(), for example"
        )
    if isinstance(function, nn.GLU) or function is F.glu:
        raise ValueError("nonlinearity halves its input; pass 'glu', or the function of the gate")
    name = _name(function)
    with _apart():
        prepared = _prepared(function)
        x = 6 * torch.sin(torch.arange(1, 513, dtype=torch.float64).square())
        y = _values(prepared, x, name)
        if not torch.equal(y, _values(prepared, x, name)):
            raise ValueError(
                f"nonlinearity {name} is random: it gave two values for one input; pass what it "
                "computes on average, of a module its eval()"
            )
        parts = [_values(prepared, part, name) for part in (x[:3], x[3:500], x[500:])]
        square = _values(prepared, x.view(16, 32), name).flatten()
        for other in (torch.cat(parts), square):
            if not torch.allclose(other, y, rtol=1e-6, atol=1e-6):
                raise ValueError(
                    f"nonlinearity {name} is not elementwise: a value changes with its neighbours; "
                    "pass a callable that treats each element alone"
                )
        result: list[float] = y.tolist()
    return result
