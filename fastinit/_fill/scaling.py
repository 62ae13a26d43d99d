"""The schemes of nn.init whose scale comes from the fan: Kaiming (He) and Xavier (Glorot).

Owns their public functions; `variance_scaling_` of the compiled operators is the engine of all.
What they share (generator, key, region, dtypes, errors, reproducibility) is told in
`fastinit.init`. Must not know how a fan or a gain is computed. Beyond that they share:

Args:
    gain: a factor of the standard deviation, as a float or a 0-dim tensor on the tensor's device.
    in_axis, out_axis: the axes, an int or several, that a layer sums over and that it produces.
        The defaults are those of nn.Linear and nn.Conv: 1 and 0.
    batch_axis: axes that only index independent weights, such as the experts of an MoE layer.
        All axes named nowhere are the receptive field.
    groups: of a grouped convolution, of which one group's channels make the fan.

fan_in is the extent of in_axis times the receptive field, fan_out that of out_axis times the
receptive field over groups.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from fastinit._fill.dtensor import ops
from fastinit._fill.extension import delegate, native
from fastinit._fill.fans import (
    KAIMING_MODES,
    Axes,
    FanArguments,
    ZeroScaleError,
    fan_arguments,
    gain_arguments,
    kaiming_mode,
    scaled,
)
from fastinit._fill.gains import Function
from fastinit._fill.keys import KeyLike, stream
from fastinit._fill.regions import Region, nothing_to_fill


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with Kaiming (He) uniform values.

    Formula: uniform on [-bound, bound), bound = gain sqrt(3 / fan), gain of the nonlinearity.

    Source: He et al., "Delving deep into rectifiers" (2015), equations 10 and 14.

    Args:
        tensor, generator, key, region: see `fastinit.init`; at least 2 dimensions.
        a: the negative slope, for leaky_relu.
        mode: "fan_in" keeps the variance of activations, "fan_out" that of gradients.
        nonlinearity: what follows the layer; a name that `calculate_gain` knows, or an elementwise
            callable.
        in_axis, out_axis, batch_axis, groups: see `fastinit._fill.scaling`.

    Returns: the tensor.

    Raises: ValueError for fewer than 2 dimensions, an unknown mode or nonlinearity; others as in
        `fastinit.init`. Warns and does nothing if there is no element.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.kaiming_uniform_(torch.empty(3, 5), nonlinearity="relu", key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            kaiming_uniform_,
            tensor,
            a=a,
            mode=mode,
            nonlinearity=nonlinearity,
            generator=generator,
            key=key,
            region=region,
            in_axis=in_axis,
            out_axis=out_axis,
            batch_axis=batch_axis,
            groups=groups,
        )
    if tensor.numel() == 0 and nothing_to_fill(region):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    if mode not in KAIMING_MODES:  # here, as a call for it takes a hundredth of a small fill
        mode = kaiming_mode(mode)
    gain, name, slope = gain_arguments(nonlinearity, a)
    ops(tensor).variance_scaling_(
        tensor,
        "uniform",
        gain,
        None,
        mode,
        name,
        slope,
        *fan_arguments(in_axis, out_axis, batch_axis, groups),
        *stream(tensor, generator, key, region),
    )
    return tensor


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with Kaiming (He) normal values.

    Formula: normal with mean 0 and std = gain / sqrt(fan), gain of the nonlinearity.

    Source: He et al., "Delving deep into rectifiers" (2015), equations 10 and 14.

    Args, Returns, Raises, Reproducibility: as `kaiming_uniform_`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.kaiming_normal_(torch.empty(3, 5), nonlinearity="relu", key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            kaiming_normal_,
            tensor,
            a=a,
            mode=mode,
            nonlinearity=nonlinearity,
            generator=generator,
            key=key,
            region=region,
            in_axis=in_axis,
            out_axis=out_axis,
            batch_axis=batch_axis,
            groups=groups,
        )
    if tensor.numel() == 0 and nothing_to_fill(region):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    if mode not in KAIMING_MODES:  # here, as a call for it takes a hundredth of a small fill
        mode = kaiming_mode(mode)
    gain, name, slope = gain_arguments(nonlinearity, a)
    ops(tensor).variance_scaling_(
        tensor,
        "normal",
        gain,
        None,
        mode,
        name,
        slope,
        *fan_arguments(in_axis, out_axis, batch_axis, groups),
        *stream(tensor, generator, key, region),
    )
    return tensor


def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with Xavier (Glorot) uniform values.

    Formula: uniform on [-bound, bound), bound = gain sqrt(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks" (2010), equation 16.

    Args:
        tensor, generator, key, region: see `fastinit.init`; at least 2 dimensions.
        gain, in_axis, out_axis, batch_axis, groups: see `fastinit._fill.scaling`.

    Returns: the tensor.

    Raises: ValueError for fewer than 2 dimensions; a ValueError that is a ZeroDivisionError too if
        both fans are 0; others as in `fastinit.init`.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.xavier_uniform_(torch.empty(3, 5), gain=5 / 3, key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            xavier_uniform_,
            tensor,
            gain=gain,
            generator=generator,
            key=key,
            region=region,
            in_axis=in_axis,
            out_axis=out_axis,
            batch_axis=batch_axis,
            groups=groups,
        )
    fans = fan_arguments(in_axis, out_axis, batch_axis, groups)
    if tensor.numel() == 0 and nothing_to_fill(region):
        _refuse_zero_fans(tensor, region, fans)
    ops(tensor).variance_scaling_(
        tensor,
        "uniform",
        *scaled("gain", gain, tensor),
        "fan_avg",
        "linear",
        0.0,
        *fans,
        *stream(tensor, generator, key, region),
    )
    return tensor


def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    in_axis: Axes = 1,
    out_axis: Axes = 0,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Tensor:
    """Fill the tensor with Xavier (Glorot) normal values.

    Formula: normal with mean 0 and std = gain sqrt(2 / (fan_in + fan_out)).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks" (2010), equation 12, for a normal distribution.

    Args, Returns, Raises, Reproducibility: as `xavier_uniform_`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.xavier_normal_(torch.empty(3, 5), gain=5 / 3, key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            xavier_normal_,
            tensor,
            gain=gain,
            generator=generator,
            key=key,
            region=region,
            in_axis=in_axis,
            out_axis=out_axis,
            batch_axis=batch_axis,
            groups=groups,
        )
    fans = fan_arguments(in_axis, out_axis, batch_axis, groups)
    if tensor.numel() == 0 and nothing_to_fill(region):
        _refuse_zero_fans(tensor, region, fans)
    ops(tensor).variance_scaling_(
        tensor,
        "normal",
        *scaled("gain", gain, tensor),
        "fan_avg",
        "linear",
        0.0,
        *fans,
        *stream(tensor, generator, key, region),
    )
    return tensor


def _refuse_zero_fans(tensor: Tensor, region: Region | None, fans: FanArguments) -> None:
    """The end of a Xavier fill without elements: nn.init divides by fan_in + fan_out first."""
    shape = tuple(tensor.shape if region is None else region.global_shape)
    if sum(native.fans(shape, *fans)) == 0:
        raise ZeroScaleError(
            f"tensor must have a fan above 0, got shape {shape}; skip tensors without elements"
        )
