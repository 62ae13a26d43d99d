"""Regions: which rectangle of a larger tensor a tensor holds.

Owns `Region` and the checks it can make without a tensor; whether it fits one is checked where it
is filled. Must not know keys or distributions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral


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


@dataclass(frozen=True, slots=True)
class Region:
    """The place of a tensor inside a larger, global one, of which it is a shard.

    Formula: element (i, j, ...) of the tensor is element (offsets[0] + i, offsets[1] + j, ...)
    of the global tensor; fans come from `global_shape`.

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


def nothing_to_fill(region: Region | None) -> bool:
    """Whether the global tensor of a tensor without elements has none either.

    An empty shard of a tensor that has some is filled like any other: it has fans to check, and
    there is nothing to warn of.
    """
    return region is None or (isinstance(region, Region) and 0 in region.global_shape)
