"""Regions: which rectangle of a larger tensor a tensor holds, or which run of its elements.

Owns `Region` and the checks it can make without a tensor; whether it fits one is checked where it
is filled. Must not know keys or distributions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TypeAlias

from torch import Tensor

Rectangle: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # its shape, its place


def _extents(name: str, values: Iterable[int]) -> tuple[int, ...]:
    remedy = "pass one int of at least 0 for every dimension"
    try:
        extents = tuple(values)
    except TypeError:
        raise TypeError(
            f"{name} must be a sequence of ints, got {values!r} ({type(values).__name__}); {remedy}"
        ) from None
    for extent in extents:
        if isinstance(extent, bool) or not isinstance(extent, (int, Integral)):
            raise TypeError(
                f"{name} must hold ints, got {extent!r} ({type(extent).__name__}); {remedy}"
            )
        if extent < 0:
            raise ValueError(f"{name} must not be negative, got {extents}; {remedy}")
    return tuple(int(extent) for extent in extents)


@dataclass(frozen=True, slots=True, repr=False)
class Region:
    """The place of a tensor inside a larger, global one, of which it is a shard.

    Formula: element (i, j, ...) of the tensor is element (offsets[0] + i, offsets[1] + j, ...)
    of the global tensor; fans come from `global_shape`. For pieces of a flattened tensor there is
    `Region.flat`.

    Args:
        global_shape: the extents of the whole tensor, one int per dimension.
        offsets: where the tensor's first element lies in it, one int per dimension.

    Raises:
        TypeError: not sequences of ints.
        ValueError: a negative entry, different lengths, or an offset beyond its extent.

    Reproducibility: filling the regions of a tensor one by one, anywhere and in any order, gives
    the bits of filling the whole tensor with the same key.

    Example:
        >>> import torch, fastinit
        >>> whole = fastinit.kaiming_normal_(torch.empty(8, 4), key=1)
        >>> rows = fastinit.Region((8, 4), (6, 0))
        >>> shard = fastinit.kaiming_normal_(torch.empty(2, 4), key=1, region=rows)
        >>> torch.equal(shard, whole[6:])
        True
    """

    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = _extents("global_shape", self.global_shape)
        offsets = _extents("offsets", self.offsets)
        if len(shape) != len(offsets):
            raise ValueError(
                f"offsets must have one entry per dimension of global_shape, got {len(offsets)} "
                f"for {len(shape)}; pass offsets of length {len(shape)}"
            )
        if any(offset > extent for offset, extent in zip(offsets, shape, strict=True)):
            raise ValueError(
                f"offsets must lie inside global_shape, got offsets {offsets} in {shape}; "
                "no tensor fits there"
            )
        object.__setattr__(self, "global_shape", shape)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def flat(cls, global_shape: Iterable[int], start: int) -> Region:
        """The place of a tensor of one dimension in the flattened global tensor.

        Formula: element i of the tensor is element start + i of the global one, counted in
        row-major order; fans, bounds and masks are still those of `global_shape`.

        Args:
            global_shape: the extents of the whole tensor before it was flattened.
            start: which element of the flattened tensor is the first.

        Returns:
            The region; `Region(global_shape, (start,))` if there is one dimension.

        Raises:
            TypeError: global_shape is no sequence of ints, or start is no int.
            ValueError: a negative number, or a start beyond the last element.

        Example:
            >>> import torch, fastinit
            >>> whole = fastinit.kaiming_normal_(torch.empty(8, 4), key=1)
            >>> piece = torch.empty(10)
            >>> _ = fastinit.kaiming_normal_(piece, key=1, region=fastinit.Region.flat((8, 4), 5))
            >>> torch.equal(piece, whole.flatten()[5:15])
            True
        """
        shape = _extents("global_shape", global_shape)
        if isinstance(start, bool) or not isinstance(start, Integral):
            raise TypeError(
                f"start must be an int, got {start!r} ({type(start).__name__}); pass the number "
                "of the tensor's first element in the flattened global tensor"
            )
        if not 0 <= start <= math.prod(shape):
            raise ValueError(
                f"start must lie among the {math.prod(shape)} elements of global_shape {shape}, "
                f"got {start}; no tensor fits there"
            )
        if len(shape) == 1:
            return cls(shape, (start,))
        region = object.__new__(cls)  # whose offsets are no longer one a dimension
        object.__setattr__(region, "global_shape", shape)
        object.__setattr__(region, "offsets", (int(start),))
        return region

    @property
    def is_flat(self) -> bool:
        """Whether it is a run of elements and no rectangle."""
        return len(self.offsets) != len(self.global_shape)

    def __repr__(self) -> str:
        if self.is_flat:
            return f"Region.flat({self.global_shape}, {self.offsets[0]})"
        return f"Region(global_shape={self.global_shape}, offsets={self.offsets})"


def _rectangles(shape: Sequence[int], start: int, stop: int) -> Iterator[Rectangle]:
    """The fewest rectangles whose elements, one after the other, are start to stop of a tensor."""
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if first > last:  # a part of one row
        for inner, place in _rectangles(shape[1:], start - last * row, stop - last * row):
            yield (1, *inner), (last, *place)
        return
    if start < first * row:
        for inner, place in _rectangles(shape[1:], start - (first - 1) * row, row):
            yield (1, *inner), (first - 1, *place)
    if first < last:
        yield (last - first, *shape[1:]), (first, *(0 for _ in shape[1:]))
    if last * row < stop:
        for inner, place in _rectangles(shape[1:], 0, stop - last * row):
            yield (1, *inner), (last, *place)


def rectangles(tensor: Tensor, region: Region) -> list[tuple[Tensor, Region]]:
    """The tensor as rectangles of the global one, for those who do not know flat regions.

    Returns: views of the tensor and where they belong; of a flat one at most two a dimension, and
    none if it has no elements.

    Raises:
        ValueError: a flat region, but the tensor is not of one dimension or does not fit.
    """
    if not region.is_flat:
        return [(tensor, region)]
    shape, (start,) = region.global_shape, region.offsets
    if tensor.ndim != 1 or start + tensor.numel() > math.prod(shape):
        raise ValueError(
            f"region must hold a tensor of shape {tuple(tensor.shape)}, got {region}; a flat one "
            f"takes 1 dimension and has {math.prod(shape) - start} elements left"
        )
    found, passed = [], 0
    if tensor.numel() > 0:
        for extents, offsets in _rectangles(shape, start, start + tensor.numel()):
            count = math.prod(extents)
            part = tensor.narrow(0, passed, count).view(extents)
            found.append((part, Region(shape, offsets)))
            passed += count
    return found


def nothing_to_fill(region: Region | None) -> bool:
    """Whether the global tensor of a tensor without elements has none either.

    An empty shard of a tensor that has some is filled like any other: it has fans to check, and
    there is nothing to warn of.
    """
    return region is None or (isinstance(region, Region) and 0 in region.global_shape)
