"""Initializers without randomness, and those that fill nothing: constants, patterns, markers.

Owns what their arguments mean. Must not know fans or keys: those it takes are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastinit import init
from fastinit._fill.keys import KeyLike
from fastinit._fill.regions import Region, rectangles
from fastinit.init import _fill_dirac, _fill_eye
from fastinit.initializers.base import Initializer, Numbers, Shape
from fastinit.initializers.expressions import Number
from fastinit.initializers.layout import LaidOut


@dataclass(frozen=True, slots=True, repr=False)
class Constant(LaidOut):
    """One value everywhere.

    Args:
        value: a number or an expression.
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for what is no finite number.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Constant
        >>> w = Constant(0.3)(torch.empty(3, 5))
    """

    value: Number

    _numeric: ClassVar[tuple[str, ...]] = ("value",)

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        return init.constant_(tensor, float(self.value))

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        value = float(self.value)
        return Numbers(value, 0.0, value, value)


class _Value(Initializer):
    """A constant that has a name."""

    __slots__ = ()
    value: ClassVar[float]

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        return init.constant_(tensor, self.value)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        return Numbers(self.value, 0.0, self.value, self.value)


@dataclass(frozen=True, slots=True, repr=False)
class Zeros(_Value):
    """0 everywhere.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Zeros
        >>> w = Zeros()(torch.empty(3, 5))
    """

    value: ClassVar[float] = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Ones(_Value):
    """1 everywhere.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Ones
        >>> w = Ones()(torch.empty(3, 5))
    """

    value: ClassVar[float] = 1.0


@dataclass(frozen=True, slots=True, repr=False)
class Eye(Initializer):
    """The identity matrix, as `fastinit.eye_`; of a region, the part that lies there.

    Raises: ValueError, when called, for other than 2 dimensions.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Eye
        >>> w = Eye()(torch.empty(3, 5))
    """

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        if region is None:
            return init.eye_(tensor)
        with torch.no_grad():
            for held, place in rectangles(tensor, region):
                _check_region(held, place, (2,))
                _fill_eye(held, *place.offsets)
        return tensor


@dataclass(frozen=True, slots=True, repr=False)
class Dirac(Initializer):
    """A convolution that passes its input on, as `fastinit.dirac_`.

    Args:
        groups: of the convolution; divides the number of out channels.

    Raises: ValueError, when called, for another number of dimensions than 3 to 5.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Dirac
        >>> w = Dirac(groups=3)(torch.empty(3, 24, 5, 5))
    """

    groups: int = 1

    def _check(self) -> None:
        if not isinstance(self.groups, int) or isinstance(self.groups, bool):
            raise TypeError(f"groups must be an int, got {self.groups!r}; pass the layer's count")
        self._require("groups", self.groups >= 1, "at least 1")

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        if region is None:
            return init.dirac_(tensor, self.groups)
        out_channels, *_ = region.global_shape or (0,)
        if out_channels % self.groups:
            raise ValueError(f"groups must divide {out_channels} out channels, got {self.groups}")
        with torch.no_grad():
            for held, place in rectangles(tensor, region):
                _check_region(held, place, (3, 4, 5))
                _fill_dirac(held, place, out_channels // self.groups)
        return tensor


@dataclass(frozen=True, slots=True, repr=False)
class Keep(Initializer):
    """Leave the tensor as it is: in a recipe, the word for a parameter that has its values.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Keep
        >>> w = Keep()(torch.zeros(3, 5))
    """

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        return None


@dataclass(frozen=True, slots=True, repr=False)
class Native(Initializer):
    """In a recipe: what the module's own code does, as `fastinit.recipes.native` has it.

    Raises: TypeError when called, as a tensor does not tell its module.
    """

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        raise TypeError(
            "Native() stands for the code of a module, which a tensor does not have; use it in a "
            "recipe for fastinit.init_ or fastinit.materialize_"
        )


def _check_region(tensor: Tensor, region: Region, ndims: tuple[int, ...]) -> None:
    if tensor.ndim not in ndims:
        raise ValueError(f"tensor must have {ndims} dimensions, got shape {tuple(tensor.shape)}")
    shape, offsets = region.global_shape, region.offsets
    held = [offset + extent for offset, extent in zip(offsets, tensor.shape, strict=False)]
    if len(shape) != tensor.ndim or any(a > b for a, b in zip(held, shape, strict=True)):
        raise ValueError(
            f"region must hold a tensor of shape {tuple(tensor.shape)}, got {region}; pass the "
            "global shape and the offsets of this tensor in it"
        )
