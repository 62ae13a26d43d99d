"""What a module's output is: which axis counts units, and where its values are saturated.

Owns what is known of module classes, by name and by type. Must not know what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastinit.diagnostics.limits import SATURATED_SLOPE
from fastinit.diagnostics.watching.moments import Bounds

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention)

_TANH = math.sqrt(1 - SATURATED_SLOPE)  # slope 1 - y^2
_SIGMOID = (1 - math.sqrt(1 - 4 * SATURATED_SLOPE)) / 2  # slope y (1 - y)
_SOFTSIGN = 1 - math.sqrt(SATURATED_SLOPE)  # slope (1 - |y|)^2
_BOUNDS = {
    "tanh": Bounds(-_TANH, _TANH),
    "sigmoid": Bounds(_SIGMOID, 1 - _SIGMOID),
    "softsign": Bounds(-_SOFTSIGN, _SOFTSIGN),
    "hardsigmoid": Bounds(0.0, 1.0),
    "relu6": Bounds(high=6.0),  # zeros are the business of dead units
}


def bounds_of(module: nn.Module) -> Bounds:
    """The values where a saturating activation's slope falls below `SATURATED_SLOPE`."""
    if type(module) is nn.Hardtanh:
        return Bounds(module.min_val, module.max_val)
    return _BOUNDS.get(type(module).__name__.lower(), Bounds())


class Axes:
    """The axis of units: told by layers, and for what has no weights by the layer before it."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def of(self, module: nn.Module, values: Tensor) -> int:
        """The axis of `values`, the output of `module`, in the order of execution."""
        dims = values.dim()
        if isinstance(module, _CHANNELS_LAST):
            axis = -1
        elif isinstance(module, _CHANNELS_FIRST):
            axis = 1
        else:
            return self._last.get(dims, 1 if dims > 3 else -1)
        self._last[dims] = axis
        return axis


def tensor_of(output: Any) -> Tensor | None:
    """The first tensor with numbers of an output: itself, or one in tuples, lists and mappings."""
    if isinstance(output, Tensor):
        return output if _holds_numbers(getattr(output, "_local_tensor", output)) else None
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        found = (tensor_of(member) for member in output)
        return next((tensor for tensor in found if tensor is not None), None)
    return None


def values_of(tensor: Tensor) -> Tensor:
    """Its numbers: of a DTensor the local ones, of complex ones both parts."""
    local: Tensor = getattr(tensor, "_local_tensor", tensor).detach()
    return torch.view_as_real(local).flatten(-2) if local.is_complex() else local


def _holds_numbers(values: Tensor) -> bool:
    # Nor do fake tensors and those inside torch.func hold any.
    abstract = isinstance(values, FakeTensor) or is_functorch_wrapped_tensor(values)
    number = values.is_floating_point() or values.is_complex()
    return number and values.dim() > 0 and not values.is_meta and not abstract
