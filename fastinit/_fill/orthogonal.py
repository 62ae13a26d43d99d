"""Orthogonal matrices: normal values from the stream, factorised by torch.linalg.

Owns `orthogonal_`, the one initializer whose elements depend on one another. Must not know how the
normal values are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from fastinit._fill.dtensor import ops, shared_source
from fastinit._fill.extension import delegate
from fastinit._fill.fans import scaled
from fastinit._fill.keys import (
    KeyLike,
    can_draw_key,
    key_from_generator,
    keys_of_slices,
    stream,
)
from fastinit._fill.placements import PLAIN_TYPES, bump_version, is_dtensor, pieces, untraced
from fastinit._fill.regions import Region, nothing_to_fill, rectangles

_empty = torch.empty  # also while a library has its own in torch

# Remembers a fill of a tensor for later, where it may wait; `_intercept` sets it.
postpone: Callable[[Tensor, Callable[[], Callable[[Tensor], None]]], bool] | None = None


def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: KeyLike | None = None,
    region: Region | None = None,
) -> Tensor:
    """Fill the tensor with a (semi-)orthogonal matrix, uniform among all of its shape.

    Formula: gain Q diag(sign(diag R)), with Q R the factors of a standard normal matrix; the rows
    or the columns, whichever are fewer, are orthonormal. Dimensions beyond the first are one.

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks" (2014); the signs from Mezzadri, "How to generate random matrices from the
    classical compact groups" (2007), section 5.

    Args:
        tensor, generator, key, region: see `fastinit.init`; at least 2 dimensions. With a region,
            the whole global matrix is factorised to cut the region out of it.
        gain: a factor, as a float or a 0-dim tensor on the tensor's device.

    Returns: the tensor.

    Raises: ValueError for fewer than 2 dimensions; others as in `fastinit.init`.

    Reproducibility: the normal matrix is the same bit for bit; the factorisation is LAPACK's or
        cuSOLVER's, so the last bits may differ between devices, libraries and numbers of threads.
        Where these are alike, sharding changes nothing. Narrow dtypes are the float32 matrix,
        rounded.

    Example:
        >>> import torch, fastinit
        >>> w = fastinit.orthogonal_(torch.empty(3, 5), key=0)
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-5)
        True
    """
    if has_torch_function_unary(tensor):
        return delegate(orthogonal_, tensor, gain=gain, generator=generator, key=key, region=region)
    keys = keys_of_slices(key, tensor, region)
    if keys is not None:
        with torch.no_grad():
            for one, held in zip(keys, tensor, strict=True):
                orthogonal_(held, gain, generator, key=one)
        return tensor
    flat = isinstance(region, Region) and region.is_flat
    shape = region.global_shape if flat and region is not None else tensor.shape
    if len(shape) < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.is_meta or (tensor.numel() == 0 and nothing_to_fill(region)):
        return tensor
    factor, scale = scaled("gain", gain, tensor)
    source = stream(tensor, generator, key, region)
    with torch.no_grad():
        if is_dtensor(tensor):
            _fill_sharded(tensor, factor, scale, source)
            return tensor
        _check(tensor, scale, region)
        if not _deferred(tensor, factor, scale, region, source[:3]):
            _fill_one(tensor, factor, scale, region, source[:3])
    return tensor


@untraced
def _fill_sharded(
    tensor: Tensor, factor: float, scale: Tensor | None, source: tuple[Any, ...]
) -> None:
    with shared_source(tensor, *source) as shared:
        parts = pieces(tensor)
        _check(parts[0][0], scale, parts[0][1])
        _fill_parts(parts, tensor.shape, factor, scale, shared)
    bump_version(tensor)


def _deferred(
    tensor: Tensor,
    factor: float,
    scale: Tensor | None,
    region: Region | None,
    source: tuple[Any, ...],
) -> bool:
    """Have `deferred`, if it is in force, remember the call; False where it has to run now."""
    if postpone is None or torch.compiler.is_dynamo_compiling() or type(tensor) not in PLAIN_TYPES:
        return False
    generator, words, key_tensor = (*source, None, None)[:3]
    draws_here = words is not None or can_draw_key(generator, tensor.device)
    if scale is not None or key_tensor is not None or not draws_here:
        return False

    def make() -> Callable[[Tensor], None]:
        own = words or key_from_generator(generator, tensor.device)
        return partial(
            _fill_one, factor=factor, scale=None, region=region, source=(None, own, None)
        )

    return postpone(tensor, make)


def _fill_one(
    tensor: Tensor,
    factor: float,
    scale: Tensor | None,
    region: Region | None,
    source: tuple[Any, ...],
) -> None:
    if region is None:
        return _fill_parts([(tensor, region)], tensor.shape, factor, scale, source)
    parts = rectangles(tensor, region) or [(tensor, region)]
    _fill_parts(parts, torch.Size(region.global_shape), factor, scale, source)


def _fill_parts(
    parts: Sequence[tuple[Tensor, Region | None]],
    shape: torch.Size,
    factor: float,
    scale: Tensor | None,
    source: tuple[Any, ...],
) -> None:
    """Cut the tensors, rectangles of one of this shape, out of one matrix."""
    first, region = parts[0]
    if region is not None and not any(part.numel() for part, _ in parts):
        # Nobody needs the matrix; the key is taken as everywhere else.
        ops(first).normal_(first, 0.0, 1.0, None, *source, region.global_shape, region.offsets)
        return
    matrix = _orthogonal_matrix(parts[0][0], shape, source)
    matrix.mul_(factor if scale is None else scale)
    for tensor, region in parts:
        part = matrix
        if region is not None:
            for dim, (offset, extent) in enumerate(zip(region.offsets, tensor.shape, strict=True)):
                part = part.narrow(dim, offset, extent)
        tensor.copy_(part)


def _check(tensor: Tensor, scale: Tensor | None, region: Region | None) -> None:
    """Refuse before the draw what a fill would: the operators check what they need not fill."""
    empty = tensor.new_empty(0)
    ops(empty).normal_(empty, 0.0, 1.0, scale)
    if region is not None:
        meta = torch.empty_like(tensor, device="meta")
        ops(meta).normal_(meta, 0.0, 1.0, None, *stream(meta, None, 0, region))


def _orthogonal_matrix(like: Tensor, shape: torch.Size, source: tuple[Any, ...]) -> Tensor:
    """A new tensor of this shape, orthogonal as a matrix of shape[0] rows.

    In float32 where LAPACK knows nothing of the dtype of `like`.
    """
    wide = (torch.float32, torch.float64, torch.complex64, torch.complex128)
    dtype = like.dtype if like.dtype in wide else torch.float32
    rows, columns = shape[0], shape[1:].numel()
    # Column-major, as LAPACK wants it; linalg.qr would also copy R and reorder both factors.
    if rows < columns:
        normal = _empty(rows, columns, dtype=dtype, device=like.device)
    else:
        normal = _empty(columns, rows, dtype=dtype, device=like.device).mT
    ops(normal).normal_(normal, 0.0, 1.0, None, *source)
    reflectors, scales = torch.geqrf(normal.mT if rows < columns else normal)
    q = torch.linalg.householder_product(reflectors, scales)
    q.mul_(reflectors.diagonal().sgn())
    matrix: Tensor = q.mT if rows < columns else q
    return matrix.reshape(shape)
