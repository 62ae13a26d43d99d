"""Orthogonal matrices, and convolutions that are one: the fills whose elements hang together.

Owns `orthogonal_` and `delta_orthogonal_`. Must not know how a matrix is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from fastinit._fill.dtensor import ops, shared_source
from fastinit._fill.extension import delegate
from fastinit._fill.fans import Axes, fan_arguments, scaled
from fastinit._fill.keys import KeyLike, key_from_generator, keys_of_slices, stream
from fastinit._fill.placements import bump_version, is_dtensor, pieces, untraced
from fastinit._fill.regions import Region, nothing_to_fill, rectangles


def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
    batch_axis: Axes = (),
) -> Tensor:
    """Fill the tensor with a (semi-)orthogonal matrix, uniform among all of its shape.

    Formula: gain Q, or its transpose, with Q = H_1 ... H_n D, where column k of a normal matrix is
    the vector of the reflection H_k and D turns the signs: the law of the Q of a normal matrix Q R,
    diag(R) > 0, without a factorization. The rows or the columns, whichever are fewer, are
    orthonormal; dimensions beyond the first are one.

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks" (2014); Stewart, "The efficient generation of random orthogonal matrices"
    (1980); the signs from Mezzadri, "How to generate random matrices from the classical compact
    groups" (2007), section 5.

    Args:
        tensor, generator, key, region: see `fastinit.init`; at least 2 dimensions. A region that
            holds some of the rows, where these are orthonormal, costs its share of the whole.
        gain: a factor, as a float or a 0-dim tensor on the tensor's device.
        batch_axis: an axis, or several, that number independent matrices, such as the gates of an
            LSTM or the experts of a layer; the others make the matrix.

    Returns: the tensor.

    Raises: ValueError for fewer than 2 dimensions in a matrix; RuntimeError where 64 columns of it
        do not fit into memory; others as in `fastinit.init`.

    Reproducibility: bit for bit, as in `fastinit.init`. Narrow dtypes are the float32 matrix,
        rounded.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.orthogonal_(torch.empty(3, 5), key=0)
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-5)
        True
    """
    if has_torch_function_unary(tensor):
        return delegate(
            orthogonal_,
            tensor,
            gain=gain,
            generator=generator,
            key=key,
            region=region,
            batch_axis=batch_axis,
        )
    batch = fan_arguments(1, 0, batch_axis, 1)[2]
    if tensor.numel() == 0 and tensor.ndim > 1 and nothing_to_fill(region):
        return tensor
    ops(tensor).orthogonal_(
        tensor, *scaled("gain", gain, tensor), batch, *stream(tensor, generator, key, region)
    )
    return tensor


def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
) -> Tensor:
    """Fill a convolution's weight so that the layer is one orthogonal matrix, at every place.

    Formula: `orthogonal_` of shape (out channels, in channels) at the centre (k - 1) // 2 of each
    kernel dimension k, 0 around it.

    Source: Xiao et al., "Dynamical isometry and a mean field theory of CNNs" (2018), algorithm 1;
    `jax.nn.initializers.delta_orthogonal` is the same in another order of axes.

    Args:
        tensor, generator, key, region: see `fastinit.init`; shape (out channels, in channels,
            kernel...) with 1 to 3 kernel dimensions and no more in channels than out channels.
        gain: a factor, as a float or a 0-dim tensor on the tensor's device.

    Returns: the tensor.

    Raises: ValueError for another number of dimensions, or more in channels than out channels,
        which would not keep lengths; others as `orthogonal_`.

    Reproducibility: bit for bit, as in `fastinit.init`.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.delta_orthogonal_(torch.empty(8, 4, 3, 3), key=0)
        >>> torch.equal(w[:, :, 1, 1], fastinit.orthogonal_(torch.empty(8, 4), key=0))
        True
    """
    if has_torch_function_unary(tensor):
        return delegate(
            delta_orthogonal_, tensor, gain=gain, generator=generator, key=key, region=region
        )
    keys = keys_of_slices(key, tensor, region)
    if keys is not None:
        with torch.no_grad():
            for one, held in zip(keys, tensor, strict=True):
                delta_orthogonal_(held, gain, generator, key=one)
        return tensor
    _check_convolution(tensor.shape if not isinstance(region, Region) else region.global_shape)
    if tensor.numel() == 0 and nothing_to_fill(region):
        return tensor
    factor, scale = scaled("gain", gain, tensor)
    source = stream(tensor, generator, key, region)
    with torch.no_grad():
        if is_dtensor(tensor):
            _fill_sharded(tensor, factor, scale, source)
        else:
            _fill_plain(tensor, region, factor, scale, (*source, None, None)[:3])
    return tensor


def _check_convolution(shape: Sequence[int]) -> None:
    if len(shape) not in (3, 4, 5):
        raise ValueError(
            "tensor must have 3, 4 or 5 dimensions (out channels, in channels, kernel...), got "
            f"shape {tuple(shape)}; use orthogonal_ for a matrix"
        )
    if shape[1] > shape[0]:
        raise ValueError(
            f"tensor has {shape[1]} in channels and {shape[0]} out channels, and a map to fewer "
            "keeps no lengths; use orthogonal_, or as many out channels"
        )


def _fill_plain(
    tensor: Tensor,
    region: Region | None,
    factor: float,
    scale: Tensor | None,
    source: tuple[Any, ...],
) -> None:
    if region is None:
        whole = Region(tuple(tensor.shape), (0,) * tensor.ndim)
        return _fill_delta(tensor, whole, factor, scale, source)
    parts = rectangles(tensor, region) or [(tensor, region)]
    if len(parts) > 1 and source[1] is None and source[2] is None:  # one key for all
        source = (None, key_from_generator(source[0], tensor.device), None)
    for part, where in parts:
        _fill_delta(part, where, factor, scale, source)


@untraced
def _fill_sharded(
    tensor: Tensor, factor: float, scale: Tensor | None, source: tuple[Any, ...]
) -> None:
    with shared_source(tensor, *source) as shared:
        for local, region in pieces(tensor):
            _fill_delta(local, region, factor, scale, shared)
    bump_version(tensor)


def _fill_delta(
    tensor: Tensor,
    region: Region,
    factor: float,
    scale: Tensor | None,
    source: tuple[Any, ...],
) -> None:
    """Fill a rectangle of the weight."""
    shape, start = region.global_shape[:2], region.offsets[:2]
    if any(n > 1 and s == 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True)):
        raise RuntimeError(
            f"tensor has elements that share memory, strides {tensor.stride()}; fill a clone of it"
        )
    nothing = tensor.new_empty(0, shape[1])
    # Refuses what the fill would refuse, and draws nothing.
    key = (0, 0) if source[2] is None else None
    ops(tensor).orthogonal_(nothing, factor, scale, None, None, key, source[2], shape, (0, 0))
    centre = tensor.zero_()
    for extent, offset in zip(region.global_shape[2:], region.offsets[2:], strict=True):
        at = (extent - 1) // 2 - offset
        if not 0 <= at < centre.size(2):  # nothing to write, but the key is taken as everywhere
            centre, start = nothing, (0, 0)
            break
        centre = centre.select(2, at)
    ops(tensor).orthogonal_(centre, factor, scale, None, *source, shape, start)
