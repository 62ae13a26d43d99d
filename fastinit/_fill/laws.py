"""The arguments of the compiled fills as plain numbers, and many fills in one call.

Owns the numbers in which `multi_fill_` takes a law; those of a fan-scaled one are the core's, so
that a fill in a batch has the bits of a fill by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from fastinit._fill.extension import native

Words: TypeAlias = tuple[int, int]
Region: TypeAlias = tuple[Sequence[int], Sequence[int]]

_UNIFORM, _NORMAL, _TRUNCATED = 0, 1, 2
_CODES = {"uniform": _UNIFORM, "normal": _NORMAL, "truncated_normal": _TRUNCATED}


class Law(NamedTuple):
    """A distribution in the numbers of `multi_fill_`, and the part of a tensor to fill."""

    distribution: int
    mean: float
    std: float
    low: float
    high: float
    region: Region | None


def uniform(tensor: Tensor, low: float, high: float, *, region: Region | None) -> Law:
    return Law(_UNIFORM, 0.0, 1.0, low, high, region)


def normal(tensor: Tensor, mean: float, std: float, scale: None, *, region: Region | None) -> Law:
    return Law(_NORMAL, mean, std, 0.0, 0.0, region)


def trunc_normal(
    tensor: Tensor,
    mean: float,
    std: float,
    low: float,
    high: float,
    scale: None,
    *,
    region: Region | None,
) -> Law:
    return Law(_TRUNCATED, mean, std, low, high, region)


def variance_scaling(
    tensor: Tensor,
    distribution: str,
    gain: float,
    scale: None,
    mode: str,
    nonlinearity: str,
    parameter: float,
    in_axis: Sequence[int] | None,
    out_axis: Sequence[int] | None,
    batch_axis: Sequence[int] | None,
    groups: int,
    *,
    region: Region | None,
) -> Law:
    shape = tensor.shape if region is None else region[0]
    axes = (in_axis, out_axis, batch_axis, groups)
    std, low, high = native.std_and_bounds(
        shape, distribution, tensor.is_complex(), gain, mode, nonlinearity, parameter, *axes
    )
    return Law(_CODES[distribution], 0.0, std, low, high, region)


# By the operator's name: what makes the law, and how many arguments come before the stream.
OPERATORS: dict[str, tuple[Callable[..., Law], int]] = {
    "uniform_": (uniform, 3),
    "normal_": (normal, 4),
    "trunc_normal_": (trunc_normal, 6),
    "variance_scaling_": (variance_scaling, 11),
}


def fill(batch: Sequence[tuple[Tensor, Law, Words]]) -> None:
    """Fill tensors of one device that share no memory, in one call."""
    tensors, laws, words = zip(*batch, strict=True)
    *numbers, regions = map(list, zip(*laws, strict=True))
    region: list[Any] = [None, None]
    if any(regions):
        rectangles = list(map(_rectangle, tensors, laws))
        region = [[n for part in rectangles for n in part[side]] for side in (0, 1)]
    native.multi_fill_(list(tensors), *numbers, list(chain.from_iterable(words)), *region)


def _rectangle(tensor: Tensor, law: Law) -> Region:
    """The region with an offset a dimension of the tensor; the shape may be another one's, as the
    fans are known.
    """
    if law.region is None:
        return tensor.shape, (0,) * tensor.ndim
    shape, offsets = law.region
    return law.region if len(shape) == len(offsets) else ((math.prod(shape),), offsets)
