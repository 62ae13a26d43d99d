"""Laws with numbers of their own: uniform, normal, truncated, sparse and orthogonal.

Owns what their arguments mean; the values come from `fastinit.init`. Must not know fans but through
the expressions that `base` resolves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastinit import init
from fastinit._fill import laws
from fastinit._fill.keys import KeyLike
from fastinit._fill.laws import Law
from fastinit._fill.regions import Region
from fastinit.initializers.base import Initializer, Numbers, Shape
from fastinit.initializers.expressions import Number
from fastinit.initializers.layout import LaidOut

_ANY = torch.empty(0)  # what the makers of laws take, and of these numbers need not look at


@dataclass(frozen=True, slots=True, repr=False)
class Uniform(LaidOut):
    """Uniform on [low, high).

    Formula: low + (high - low) u, as `fastinit.uniform_`.

    Args:
        low, high: the bounds; numbers or expressions.
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for bounds that are no numbers or low > high.

    Example:
        >>> from fastinit.initializers import Uniform
        >>> from fastinit.recipes import fan_in, sqrt
        >>> Uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))
        Uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))
    """

    low: Number
    high: Number

    _numeric: ClassVar[tuple[str, ...]] = ("low", "high")

    def _check(self) -> None:
        if isinstance(self.low, float) and isinstance(self.high, float):
            self._require("high", self.low <= self.high, f"at least low = {self.low:g}")

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        low, high = _known(self.low), _known(self.high)
        return init.uniform_(tensor, low, high, generator, key=key, region=region)

    def _law(self, shape: Shape, complex: bool) -> Law | None:
        return laws.uniform(_ANY, _known(self.low), _known(self.high), region=None)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        low, high = _known(self.low), _known(self.high)
        return Numbers((low + high) / 2, (high - low) / math.sqrt(12), low, high)


@dataclass(frozen=True, slots=True, repr=False)
class Normal(LaidOut):
    """Normal with a mean and a standard deviation.

    Formula: mean + std z, as `fastinit.normal_`.

    Args:
        std: standard deviation, at least 0; a number or an expression.
        mean: a number or an expression.
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for what is no number, or a negative std.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Normal
        >>> w = Normal(0.02)(torch.empty(3, 5), key=0)
    """

    std: Number
    mean: Number = 0.0

    _numeric: ClassVar[tuple[str, ...]] = ("std", "mean")

    def _check(self) -> None:
        if isinstance(self.std, float):
            self._require("std", self.std >= 0, "at least 0")

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        mean, std = _known(self.mean), _known(self.std)
        return init.normal_(tensor, mean, std, generator, key=key, region=region)

    def _law(self, shape: Shape, complex: bool) -> Law | None:
        return laws.normal(_ANY, _known(self.mean), _known(self.std), None, region=None)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        return Numbers(_known(self.mean), _known(self.std))


@dataclass(frozen=True, slots=True, repr=False)
class TruncNormal(LaidOut):
    """Normal, cut off at a multiple of its standard deviation.

    Formula: mean + std z with |z| <= cut, as `fastinit.trunc_normal_`. With corrected=True std is
    the standard deviation that is left after the cut, as for Keras and JAX.

    Args:
        std: standard deviation, above 0; a number or an expression.
        cut: where the law ends, in units of the standard deviation before the cut; above 0.
        mean: a number or an expression.
        corrected: whether std is widened to make up for the cut: by 1 / 0.8796 for a cut of 2.
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for what is no number, or a std or cut that is not above 0.

    Example:
        >>> import torch
        >>> from fastinit.initializers import TruncNormal
        >>> w = TruncNormal(0.02, cut=3)(torch.empty(3, 5), key=0)
    """

    std: Number
    cut: Number = 2.0
    mean: Number = 0.0
    corrected: bool = False

    _numeric: ClassVar[tuple[str, ...]] = ("std", "cut", "mean")

    def _check(self) -> None:
        for name in ("std", "cut"):
            if isinstance(value := getattr(self, name), float):
                self._require(name, value > 0, "above 0")
        if not isinstance(self.corrected, bool):
            raise TypeError(f"corrected must be a bool, got {self.corrected!r}")

    def _bounds(self) -> tuple[float, float, float, float]:
        mean, std, cut = _known(self.mean), _known(self.std), _known(self.cut)
        if self.corrected:
            std /= truncated_std(cut)
        return mean, std, mean - cut * std, mean + cut * std

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        return init.trunc_normal_(tensor, *self._bounds(), generator, key=key, region=region)

    def _law(self, shape: Shape, complex: bool) -> Law | None:
        mean, std, low, high = self._bounds()
        return laws.trunc_normal(_ANY, mean, std, low, high, None, region=None)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        return Numbers(*self._bounds())


def truncated_std(cut: float) -> float:
    """The standard deviation of a standard normal variable within [-cut, cut].

    Source: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", volume 1 (1994),
    section 13.10.1.
    """
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


@dataclass(frozen=True, slots=True, repr=False)
class Sparse(Initializer):
    """Normal values, of which each column of a matrix loses a share to zero.

    Formula: as `fastinit.sparse_`.

    Args:
        sparsity: the share of zeros in each column, from 0 to 1; a number or an expression.
        std: standard deviation of the values kept, at least 0; a number or an expression.

    Raises: TypeError or ValueError for numbers out of range.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Sparse
        >>> w = Sparse(0.9)(torch.empty(10, 5), key=0)
    """

    sparsity: Number
    std: Number = 0.01

    _numeric: ClassVar[tuple[str, ...]] = ("sparsity", "std")

    def _check(self) -> None:
        if isinstance(self.sparsity, float):
            self._require("sparsity", 0 <= self.sparsity <= 1, "from 0 to 1")
        if isinstance(self.std, float):
            self._require("std", self.std >= 0, "at least 0")

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        sparsity, std = _known(self.sparsity), _known(self.std)
        return init.sparse_(tensor, sparsity, std, generator, key=key, region=region)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        return Numbers(0.0, _known(self.std))


@dataclass(frozen=True, slots=True, repr=False)
class Orthogonal(LaidOut):
    """A (semi-)orthogonal matrix, uniform among all of its shape.

    Formula: as `fastinit.orthogonal_`; an element has the standard deviation
    gain / sqrt(max(rows, columns)).

    Args:
        gain: a factor; a number or an expression.
        batch_axis, parts: see `LaidOut`; one matrix for each index, or for each part.
        in_axis, out_axis, groups, transposed: play no part but in expressions of fans.

    Raises: TypeError or ValueError for what is no number.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Orthogonal
        >>> w = Orthogonal()(torch.empty(3, 5), key=0)
    """

    gain: Number = 1.0

    _numeric: ClassVar[tuple[str, ...]] = ("gain",)

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        batch = {} if self.batch_axis == () else {"batch_axis": self.batch_axis}
        return init.orthogonal_(
            tensor, _known(self.gain), generator, key=key, region=region, **batch
        )

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        batch = self.batch_axis if isinstance(self.batch_axis, tuple) else (self.batch_axis,)
        dropped = {axis % len(shape) for axis in batch}
        rows, *others = [n for axis, n in enumerate(shape) if axis not in dropped] or [1]
        gain = abs(_known(self.gain))
        return Numbers(0.0, gain / math.sqrt(max(rows, math.prod(others), 1)), -gain, gain)


def _known(value: Number) -> float:
    """A number that `resolve` has left nothing to do for."""
    if isinstance(value, float):
        return value
    raise ValueError(f"{value} is not known here; call resolve(shape, ...) first")
