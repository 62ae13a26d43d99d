"""Boxes: rectangles of a tensor, and which part of one lies in a piece of that tensor.

Owns the step from a view's strides to indices of the tensor it looks at, and the cutting of pieces.
Must not know what is written there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from torch import Tensor

from fastinit._fill.regions import Region

# A tensor that holds a rectangle of a global one; None where it holds all of it.
Piece: TypeAlias = tuple[Tensor, Region | None]


class Box(NamedTuple):
    """A rectangle of a tensor, of as many dimensions."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]


def box_of(
    shape: Sequence[int], size: Sequence[int], stride: Sequence[int], offset: int
) -> Box | None:
    """The box that a view of a contiguous tensor of this shape shows in its order.

    Args:
        shape: of the tensor.
        size, stride, offset: of the view, in elements.

    Returns:
        The box, or None if the view shows anything else: other steps, another order.
    """
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    extents = [1] * len(shape)
    used = []
    for extent, step in zip(size, stride, strict=True):
        if extent == 1:
            continue
        dims = [d for d, s in enumerate(strides) if s == step and shape[d] > 1]
        if not dims or extents[dims[0]] != 1:
            return None
        extents[dims[0]] = extent
        used.append(dims[0])
    if any(first >= second for first, second in pairwise(used)):
        return None
    offsets = []
    for dim, step in enumerate(strides):
        start = offset // step % shape[dim] if shape[dim] else 0
        if start + extents[dim] > shape[dim]:
            return None
        offsets.append(start)
    return Box(tuple(offsets), tuple(extents))


def cut(piece: Piece, box: Box | None) -> Piece | None:
    """What of the box lies in the piece, as a piece of the box; None if nothing does."""
    if box is None:
        return piece
    tensor, region = piece
    starts = (0,) * tensor.ndim if region is None else region.offsets
    slices, offsets = [], []
    for dim, (start, extent) in enumerate(zip(starts, tensor.shape, strict=True)):
        low = max(start, box.offsets[dim])
        high = min(start + extent, box.offsets[dim] + box.shape[dim])
        if low >= high:
            return None
        slices.append(slice(low - start, high - start))
        offsets.append(low - box.offsets[dim])
    part = tensor[tuple(slices)]
    whole = not any(offsets) and tuple(part.shape) == box.shape
    return part, None if whole else Region(box.shape, tuple(offsets))
