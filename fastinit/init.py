"""Drop-in replacement for `torch.nn.init`: same names, arguments, results, refusals and no-ops.

Owns the public functions and what only Python can decide: `__torch_function__` dispatch, warnings
and no-ops. The fan-scaled functions live in `_fill.scaling` and `_fill.variance_scaling`,
orthogonal_ in `_fill.orthogonal`. Must not know how values are computed, nor repeat a check the
compiled operators make.

What every random function here has in common:

Args, besides its own:
    tensor: any shape, strides and device the function allows; float16, bfloat16, float32, float64,
        float8_e4m3fn, float8_e5m2, complex64 or complex128. It is filled in place. Of a DTensor,
        the local part is, with the values and fans of the whole (docs/sharding.md).
    generator: a `torch.Generator` of the tensor's device, or the CPU's for a DTensor; None means
        the default one, for a DTensor the CPU's. It yields one key per call, whatever the size.
    key: a `fastinit.Key`, an int (the seed of a Key) or a uint64 tensor [seed, offset]; no
        generator is touched. Exclusive with generator. Or a sequence of n keys or a uint64 tensor
        (n, 2): slice i of axis 0 is then what a fill of that slice alone under key i gives, and
        shapes and axes are the slice's.
    region: a `fastinit.Region`, if the tensor is a rectangle of a larger one, or a
        `fastinit.Region.flat`, if it is a run of its flattened elements; shapes and fans are then
        the larger one's. A DTensor takes none.

Returns: the tensor itself. Neither autograd nor `no_grad` plays a part: nothing is recorded, a leaf
that requires grad may be filled, and the version counter moves.

Raises: TypeError, ValueError or RuntimeError, naming the argument; the tensor is then untouched.

Reproducibility: a value depends on the key, its row-major index in the (global) tensor, the
distribution and its parameters. It does not depend on device, strides, threads or sharding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from fastinit._fill.dtensor import ops
from fastinit._fill.extension import delegate
from fastinit._fill.fans import ZeroScaleError, calculate_gain, number, scaled
from fastinit._fill.keys import KeyLike, stream
from fastinit._fill.orthogonal import delta_orthogonal_, orthogonal_
from fastinit._fill.placements import fill_pieces, is_dtensor
from fastinit._fill.regions import Region
from fastinit._fill.scaling import (
    kaiming_normal_,
    kaiming_uniform_,
    xavier_normal_,
    xavier_uniform_,
)
from fastinit._fill.variance_scaling import lecun_normal_, lecun_uniform_, variance_scaling_

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
) -> Tensor:
    """Fill the tensor with values uniform on [a, b).

    Formula: a + (b - a) u, with u a multiple of 2^-24 in [0, 1) (2^-53 in float64).

    Source: the bits are Philox4x32-10's (Salmon et al., SC'11).

    Args:
        tensor, generator, key, region: see `fastinit.init`.
        a, b: the bounds, in the units of the tensor; a <= b.

    Returns: the tensor.

    Raises: RuntimeError for a > b; others as in `fastinit.init`.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.uniform_(torch.empty(3, 5), -0.1, 0.1, key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(uniform_, tensor, a=a, b=b, generator=generator, key=key, region=region)
    ops(tensor).uniform_(
        tensor, number("a", a), number("b", b), *stream(tensor, generator, key, region)
    )
    return tensor


def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
) -> Tensor:
    """Fill the tensor with normally distributed values.

    Formula: mean + std z, with z standard normal, by Box-Muller; |z| reaches 6.7 in float32.
    Complex tensors get independent parts, each of standard deviation std / sqrt(2) and of this
    mean, as torch's do.

    Source: Box and Muller, "A note on the generation of random normal deviates" (1958).

    Args:
        tensor, generator, key, region: see `fastinit.init`.
        mean: in the units of the tensor.
        std: standard deviation, at least 0; a float, or a 0-dim tensor on the tensor's device,
            which is then read there without waiting.

    Returns: the tensor.

    Raises: RuntimeError for a negative std; others as in `fastinit.init`.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.normal_(torch.empty(3, 5), std=0.02, key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            normal_, tensor, mean=mean, std=std, generator=generator, key=key, region=region
        )
    factor, scale = scaled("std", std, tensor)
    ops(tensor).normal_(
        tensor, number("mean", mean), factor, scale, *stream(tensor, generator, key, region)
    )
    return tensor


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
) -> Tensor:
    """Fill the tensor from a normal distribution cut off outside [a, b].

    Formula: the inverse of the normal distribution function between the two bounds, one draw per
    element. The bounds are in the units of the tensor, not in multiples of std.

    Source: Devroye, "Non-Uniform Random Variate Generation" (1986), section II.2 (inversion).

    Args:
        tensor, generator, key, region: see `fastinit.init`.
        mean: of the normal distribution before the cut.
        std: of the normal distribution before the cut, above 0; a float or a 0-dim tensor on the
            tensor's device.
        a, b: the bounds; every value lies in [a, b], as far as the dtype can represent them.

    Returns: the tensor.

    Raises: ValueError (a ZeroDivisionError as well) for std 0; RuntimeError for a > b; others as
        in `fastinit.init`. Warns, as nn.init does, if the mean is over 2 std outside the bounds.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.trunc_normal_(torch.empty(3, 5), std=0.02, a=-0.04, b=0.04, key=0)
    """
    if has_torch_function_unary(tensor):
        return delegate(
            trunc_normal_,
            tensor,
            mean=mean,
            std=std,
            a=a,
            b=b,
            generator=generator,
            key=key,
            region=region,
        )
    if tensor.is_meta:
        return tensor
    mean, a, b = number("mean", mean), number("a", a), number("b", b)
    factor, scale = scaled("std", std, tensor)
    if scale is None:  # a std on the device is not waited for
        if mean < a - 2 * factor or mean > b + 2 * factor:
            warnings.warn(
                "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
                "The distribution of values may be incorrect.",
                stacklevel=2,
            )
        if factor == 0:
            raise ZeroScaleError(f"std must be above 0, got {std}; use constant_ for a fixed value")
    ops(tensor).trunc_normal_(
        tensor, mean, factor, a, b, scale, *stream(tensor, generator, key, region)
    )
    return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill the tensor with one value.

    Args:
        tensor: any shape and dtype.
        val: the value.

    Returns: the tensor.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.constant_(torch.empty(3, 5), 0.3)
    """
    if has_torch_function_unary(tensor):
        return delegate(constant_, tensor, val=val)
    return _fill(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill the tensor, of any shape and dtype, with 1 and return it.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.ones_(torch.empty(3, 5))
    """
    return _fill(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill the tensor, of any shape and dtype, with 0 and return it.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.zeros_(torch.empty(3, 5))
    """
    if is_dtensor(tensor):
        return fill_pieces(tensor, lambda local, _: local.zero_())
    with torch.no_grad():
        return tensor.zero_()


def _fill(tensor: Tensor, value: float) -> Tensor:
    if is_dtensor(tensor):
        return fill_pieces(tensor, lambda local, _: local.fill_(value))
    with torch.no_grad():
        return tensor.fill_(value)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity: 1 at (i, i), 0 elsewhere.

    Args:
        tensor: shape (rows, columns), not necessarily square.

    Returns: the tensor.

    Raises: ValueError for other than 2 dimensions.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.eye_(torch.empty(3, 5))
    """
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if is_dtensor(tensor):
        return fill_pieces(tensor, lambda local, region: _fill_eye(local, *region.offsets))
    with torch.no_grad():
        _fill_eye(tensor, 0, 0)
    return tensor


def _fill_eye(tensor: Tensor, row: int, column: int) -> None:
    # torch.eye(out=) does not compile for any strides.
    tensor.zero_().diagonal(row - column).fill_(1)


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that the layer passes its input on.

    Formula: within each group, 1 at (out channel d, in channel d, centre of the kernel) for as
    many d as both have, 0 elsewhere.

    Args:
        tensor: shape (out channels, in channels / groups, kernel...), 1 to 3 kernel dimensions.
        groups: of the convolution; divides the number of out channels.

    Returns: the tensor.

    Raises: ValueError for another number of dimensions, or groups that do not divide.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.dirac_(torch.empty(3, 24, 5, 5), groups=3)
    """
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if not isinstance(groups, int):
        raise TypeError(f"groups must be an int, got {groups!r}; pass the layer's count")
    if groups < 1:
        raise ZeroScaleError(f"groups must be at least 1, got {groups}; pass the layer's count")
    out_channels = tensor.size(0)
    if out_channels % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    if is_dtensor(tensor):
        return fill_pieces(
            tensor, lambda local, region: _fill_dirac(local, region, out_channels // groups)
        )
    if tensor.is_meta:
        return tensor
    with torch.no_grad():
        centre = tensor.zero_()
        for extent in tensor.shape[2:]:
            centre = centre.select(2, extent // 2)
        per_group = centre.view(groups, out_channels // groups, tensor.size(1))
        per_group.diagonal(dim1=1, dim2=2).fill_(1)
    return tensor


def _fill_dirac(tensor: Tensor, region: Region, per_group: int) -> None:
    """Fill a rectangle of the weight of a convolution with `per_group` out channels a group."""
    centre = tensor.zero_()
    row, column, *kernel = region.offsets
    for extent, offset in zip(region.global_shape[2:], kernel, strict=True):
        at = extent // 2 - offset
        if not 0 <= at < centre.size(2):
            return
        centre = centre.select(2, at)
    if centre.numel() == 0:  # without out channels, per_group is 0
        return
    end = row + centre.size(0)
    for group in range(row - row % per_group, end, per_group):  # by their first out channels
        first, last = max(group, row), min(group + per_group, end)
        ones = centre[first - row : last - row].diagonal(first - group - column)
        ones.fill_(1)


def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
) -> Tensor:
    """Fill a matrix with normal values, of which each column loses a fixed share to zero.

    Formula: std z, with ceil(sparsity rows) zeros at random places in each column.

    Source: Martens, "Deep learning via Hessian-free optimization" (2010), section 5.

    Args:
        tensor, generator, key, region: see `fastinit.init`; shape (rows, columns).
        sparsity: the share of zeros in each column, from 0 to 1.
        std: standard deviation of the values kept, as a float or a 0-dim tensor on the tensor's
            device.

    Returns: the tensor.

    Raises: ValueError for other than 2 dimensions; others as in `fastinit.init`.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.sparse_(torch.empty(10, 5), sparsity=0.3, key=0)
        >>> (w == 0).sum(dim=0).tolist()
        [3, 3, 3, 3, 3]
    """
    if has_torch_function_unary(tensor):
        return delegate(
            sparse_, tensor, sparsity=sparsity, std=std, generator=generator, key=key, region=region
        )
    ops(tensor).sparse_(
        tensor,
        number("sparsity", sparsity),
        *scaled("std", std, tensor),
        *stream(tensor, generator, key, region),
    )
    return tensor


# nn.init keeps these under their old names, without the underscore.
def _deprecated(function: Callable[_P, _R]) -> Callable[_P, _R]:
    new_name = function.__name__
    old_name = new_name.removesuffix("_")

    def alias(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        warnings.warn(
            f"`fastinit.{old_name}` is now deprecated in favor of `fastinit.{new_name}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old_name
    alias.__doc__ = f"Deprecated alias of `fastinit.{new_name}`, kept because nn.init has it."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
