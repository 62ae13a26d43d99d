"""Mean-field theory with the fluctuations of a finite width: what second moments to expect.

Owns what each kind of module does to the second moment of a signal. Given its input h, a layer's
output is Gaussian with variance v = fan_in E w^2 mean(h^2) + E b^2; an activation makes E f^2 of
it; the mean over n units that goes on is off by a random factor of variance (E f^4 / (E f^2)^2 - 1)
/ n. Where V'(1) > 1 these factors decide how a deep network ends, so they are followed: each row of
the batch by some particles, each with factors of its own. Must not know how anything is measured.

Source: Poole et al., "Exponential expressivity in deep neural networks through transient chaos"
(2016), equation 3; for the width Hanin, "Which neural net architectures give rise to exploding and
vanishing gradients?" (2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from fastinit._fill.gains import Function, function_of
from fastinit.diagnostics.calibration.layers import is_norm

PARTICLES = 4096
_KNOTS = 65  # of a table of moments over the variances at hand
_EDGE, _NODES = 10.0, 801  # of the trapezoid rule, with a node at 0, where most kinks are
_GAUSSIAN = 2.0  # E z^4 / (E z^2)^2 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """What is expected of a tensor: of each particle a second moment, and how it fluctuates.

    Args:
        second: E h^2 of each particle.
        spread: E h^4 / (E h^2)^2 - 1.
        width: over how many independent values the next layer takes a mean; inf for values that
            are measured.
    """

    second: Tensor
    spread: Tensor | float
    width: float

    @property
    def mean(self) -> float:
        """The expected second moment over the batch."""
        return float(self.second.mean())


def measured(rows: Tensor) -> Signal:
    """The signal of measured second moments, one for each row of a batch."""
    rows = rows.double().cpu()
    repeats = max(1, PARTICLES // len(rows))
    return Signal(rows[:PARTICLES].repeat(repeats), 0.0, math.inf)


class Theory:
    """Predicts, module by module; the fluctuations are drawn from a generator of its own."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._functions: dict[tuple[type, str], Function | None] = {}

    def through(self, module: nn.Module, signal: Signal, shape: torch.Size) -> Signal | None:
        """The signal behind a module; None if theory does not know what the module does.

        Args:
            module: without children.
            signal: in front of it.
            shape: of its input.
        """
        if isinstance(module, nn.Identity | nn.Flatten | nn.Unflatten):
            return signal
        if isinstance(module, _DropoutNd):
            return signal if not module.training else _dropped(signal, module.p)
        if is_norm(module):
            return _normed(module, signal)
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            return self._product(module, signal, shape[-1], 1.0)
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            return self._convolved(module, signal, shape)
        function = self._function_in(module)
        return _bent(function, signal) if function is not None else None

    def _function_in(self, module: nn.Module) -> Function | None:
        """Looked up once for all modules of torch.nn that print alike."""
        kind = type(module)
        if not kind.__module__.startswith("torch.nn.") or any(True for _ in module.parameters()):
            return function_in(module)
        at = (kind, repr(module))
        if at not in self._functions:
            self._functions[at] = function_in(module)
        return self._functions[at]

    def _convolved(self, module: _ConvNd, signal: Signal, shape: torch.Size) -> Signal | None:
        taps = math.prod(module.kernel_size)
        fan_in = module.in_channels // module.groups * taps
        return self._product(module, signal, fan_in, _inside(module, shape))

    def _product(
        self, module: nn.Module, signal: Signal, fan_in: int, inside: float
    ) -> Signal | None:
        weight: Any = getattr(module, "weight", None)
        bias: Any = getattr(module, "bias", None)
        if not isinstance(weight, Tensor):
            return None
        gain = fan_in * inside * float(weight.detach().double().square().mean())
        shift = float(bias.detach().double().square().mean()) if bias is not None else 0.0
        channels = weight.shape[1] if type(module).__name__ == "Conv1D" else weight.shape[0]
        return Signal(gain * self._realized(signal) + shift, _GAUSSIAN, float(channels))

    def _realized(self, signal: Signal) -> Tensor:
        """The mean of squares over a width, which is what a layer multiplies: positive always."""
        if math.isinf(signal.width):
            return signal.second
        variance = torch.as_tensor(signal.spread, dtype=torch.float64) / signal.width
        log_std = torch.log1p(variance).sqrt()
        noise = torch.randn(len(signal.second), generator=self._generator, dtype=torch.float64)
        return signal.second * torch.exp(log_std * noise - log_std.square() / 2)


def function_in(module: nn.Module) -> Function | None:
    """The elementwise function that a module computes; None if it computes something else."""
    if any(True for _ in module.children()) or isinstance(module, _DropoutNd):
        return None
    if any(parameter.numel() > 1 for parameter in module.parameters()):
        return None
    apart = deepcopy(module)
    apart._forward_hooks.clear()
    apart._forward_pre_hooks.clear()
    try:
        return function_of(apart.double())
    except (TypeError, ValueError):
        return None


def _dropped(signal: Signal, p: float) -> Signal:
    if p >= 1:
        return Signal(torch.zeros_like(signal.second), 0.0, signal.width)
    spread = (signal.spread + 1) / (1 - p) - 1
    return Signal(signal.second / (1 - p), spread, signal.width)


def _normed(module: nn.Module, signal: Signal) -> Signal | None:
    """Second moment 1, but for the norm's own weight and bias."""
    fixed = not module.training and getattr(module, "running_mean", None) is not None
    if isinstance(module, _BatchNorm) and fixed:
        return None
    weight: Any = getattr(module, "weight", None)
    bias: Any = getattr(module, "bias", None)
    second = float(weight.detach().double().square().mean()) if weight is not None else 1.0
    second += float(bias.detach().double().square().mean()) if bias is not None else 0.0
    return Signal(torch.full_like(signal.second, second), 0.0, math.inf)


def _inside(module: _ConvNd, shape: torch.Size) -> float:
    """Which share of a kernel's taps lies inside the input on average; the others see zeros."""
    if module.padding_mode != "zeros" or not any(_padded(module)):
        return 1.0
    sizes = shape[-len(module.kernel_size) :]
    share = 1.0
    for axis, size in enumerate(sizes):  # a kernel is a product of those of its axes
        kernel = torch.ones(1, 1, module.kernel_size[axis], dtype=torch.float64)
        ones = torch.ones(1, 1, size, dtype=torch.float64)
        padding: Any = module.padding
        told = padding if isinstance(padding, str) else padding[axis]
        hits = nn.functional.conv1d(
            ones, kernel, None, module.stride[axis], told, module.dilation[axis]
        )
        share *= float(hits.mean()) / module.kernel_size[axis]
    return share


def _padded(module: _ConvNd) -> tuple[bool, ...]:
    padding: Any = module.padding
    return (padding != "valid",) if isinstance(padding, str) else tuple(p > 0 for p in padding)


def _bent(function: Function, signal: Signal) -> Signal:
    """E f(sqrt(v) z)^2 for each v, from a table over the variances at hand."""
    second, fourth = _tabled(function, signal.second)
    spread = torch.where(second > 0, fourth / second.square() - 1, 0.0).clamp_min(0.0)
    return Signal(second, spread, signal.width)


def _tabled(function: Function, variances: Tensor) -> tuple[Tensor, Tensor]:
    usable = variances.isfinite() & (variances > 0)
    if not usable.any():
        return torch.full_like(variances, math.nan), torch.full_like(variances, math.nan)
    logs = variances.log()
    low, high = float(logs[usable].min()), float(logs[usable].max())
    knots = torch.linspace(low, max(high, low + 1e-9), _KNOTS, dtype=torch.float64)
    values = moments(function, knots.exp())
    place = ((logs - low) / (knots[-1] - knots[0]) * (_KNOTS - 1)).clamp(0, _KNOTS - 1)
    left = torch.where(usable, place, 0.0).long().clamp_max(_KNOTS - 2)
    part = place - left
    found = []
    for value in values:
        table = value.log()
        between = torch.exp(table[left] * (1 - part) + table[left + 1] * part)
        found.append(torch.where(usable, between, torch.where(variances == 0, 0.0, math.nan)))
    return found[0], found[1]


def moments(function: Callable[[Tensor], Tensor], variances: Tensor) -> tuple[Tensor, Tensor]:
    """E f^2 and E f^4 of Gaussian inputs, to about 1e-4, for each variance."""
    z = torch.linspace(-_EDGE, _EDGE, _NODES, dtype=torch.float64)
    density = torch.exp(z.square() / -2)
    density /= density.sum()
    with torch.no_grad():
        squares = function((variances.sqrt().unsqueeze(-1) * z).flatten()).square()
    squares = squares.view(len(variances), _NODES)
    return squares @ density, squares.square() @ density
