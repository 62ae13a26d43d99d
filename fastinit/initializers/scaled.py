"""Laws scaled by fans: Kaiming's, Xavier's and the common form of both.

Owns what their arguments mean; fans, gains and values come from `fastinit.init`. Must not compute a
fan: the numbers of a law are the core's, so that a table of fills has the bits of single ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastinit import init
from fastinit._fill import laws
from fastinit._fill.fans import gain_arguments, kaiming_mode
from fastinit._fill.gains import Function
from fastinit._fill.keys import KeyLike
from fastinit._fill.laws import Law
from fastinit._fill.regions import Region
from fastinit._fill.variance_scaling import part_factor
from fastinit.initializers.base import Numbers, Shape
from fastinit.initializers.expressions import Number
from fastinit.initializers.layout import LaidOut

_NORMAL, _UNIFORM, _TRUNCATED = "normal", "uniform", "truncated_normal"
_REAL, _COMPLEX = torch.empty(0), torch.empty(0, dtype=torch.complex64)


class _Scaled(LaidOut):
    """What these laws share: numbers from the core, for the fans of a shape."""

    __slots__ = ()
    distribution: str

    def _scaling(self, complex: bool) -> tuple[float, str, str, float]:
        """(gain, mode, nonlinearity, its parameter), as the core takes them."""
        raise NotImplementedError

    def _check_distribution(self, *allowed: str) -> None:
        if self.distribution not in allowed:
            raise ValueError(
                f"distribution must be one of {list(allowed)}, got {self.distribution!r}"
            )

    def _axis_arguments(self, tensor: Tensor) -> dict[str, Any]:
        inside, outside, batch, groups = self._axes(tensor.shape)
        if inside is None:  # nn.init's
            return {}
        return {"in_axis": inside, "out_axis": outside, "batch_axis": batch, "groups": groups}

    def _law(self, shape: Shape, complex: bool) -> Law | None:
        gain, mode, nonlinearity, parameter = self._scaling(complex)
        law = laws.variance_scaling(
            _COMPLEX if complex else _REAL,
            self.distribution,
            gain,
            None,
            self._mode(mode),
            nonlinearity,
            parameter,
            *self._axes(shape),
            region=(shape, ()),
        )
        return law._replace(region=None)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        law = self._law(shape, complex)
        assert law is not None
        if self.distribution == _NORMAL:
            return Numbers(0.0, law.std)
        std = law.high / math.sqrt(3) if self.distribution == _UNIFORM else law.std
        return Numbers(0.0, std, law.low, law.high)


@dataclass(frozen=True, slots=True, repr=False)
class Kaiming(_Scaled):
    """Kaiming (He): the variance of signals, or of gradients, stays through a nonlinearity.

    Formula: variance gain^2 / fan, as `fastinit.kaiming_normal_` and `fastinit.kaiming_uniform_`.

    Source: He et al., "Delving deep into rectifiers" (2015).

    Args:
        a: the negative slope, for leaky_relu; a number or an expression.
        mode: "fan_in" or "fan_out".
        nonlinearity: what follows the layer; a name `calculate_gain` knows, or an elementwise
            callable, which goes to no JSON.
        distribution: "normal" or "uniform".
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for what the function would refuse.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Kaiming
        >>> w = Kaiming(nonlinearity="relu", mode="fan_out")(torch.empty(3, 5), key=0)
    """

    a: Number = 0.0
    mode: str = "fan_in"
    nonlinearity: str | Function = "leaky_relu"
    distribution: str = _NORMAL

    _numeric: ClassVar[tuple[str, ...]] = ("a",)

    def _check(self) -> None:
        self._check_distribution(_NORMAL, _UNIFORM)
        object.__setattr__(self, "mode", kaiming_mode(self.mode))
        if isinstance(self.a, float):
            name = gain_arguments(self.nonlinearity, self.a)[1]
            init.calculate_gain(name, self.a)  # which refuses names that no function has

    def _scaling(self, complex: bool) -> tuple[float, str, str, float]:
        gain, nonlinearity, slope = gain_arguments(self.nonlinearity, self.a)
        return gain, self.mode, nonlinearity, slope

    def _field_data(self, name: str, value: Any) -> Any:
        if name == "nonlinearity" and not isinstance(value, str):
            raise ValueError(
                f"nonlinearity is {value!r}, which JSON cannot hold; write VarianceScaling("
                f"{init.calculate_gain(value) ** 2!r}, {self.mode!r}, {self.distribution!r})"
            )
        return LaidOut._field_data(self, name, value)

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        fill = init.kaiming_normal_ if self.distribution == _NORMAL else init.kaiming_uniform_
        return fill(
            tensor,
            self.a,  # type: ignore[arg-type]  # resolved
            self._mode(self.mode),
            self.nonlinearity,
            generator,
            key=key,
            region=region,
            **self._axis_arguments(tensor),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Xavier(_Scaled):
    """Xavier (Glorot): a compromise between the variance of signals and of gradients.

    Formula: variance 2 gain^2 / (fan_in + fan_out), as `fastinit.xavier_normal_` and
    `fastinit.xavier_uniform_`.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks" (2010).

    Args:
        gain: a factor of the standard deviation; a number or an expression.
        distribution: "normal" or "uniform".
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for what the function would refuse.

    Example:
        >>> import torch
        >>> from fastinit.initializers import Xavier
        >>> w = Xavier(distribution="uniform")(torch.empty(3, 5), key=0)
    """

    gain: Number = 1.0
    distribution: str = _NORMAL

    _numeric: ClassVar[tuple[str, ...]] = ("gain",)

    def _check(self) -> None:
        self._check_distribution(_NORMAL, _UNIFORM)

    def _scaling(self, complex: bool) -> tuple[float, str, str, float]:
        return float(self.gain), "fan_avg", "linear", 0.0

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        fill = init.xavier_normal_ if self.distribution == _NORMAL else init.xavier_uniform_
        return fill(
            tensor,
            float(self.gain),
            generator,
            key=key,
            region=region,
            **self._axis_arguments(tensor),
        )


@dataclass(frozen=True, slots=True, repr=False)
class VarianceScaling(_Scaled):
    """Variance scale / fan, as Keras and JAX define it; LeCun's law by default.

    Formula: as `fastinit.variance_scaling_`; "truncated_normal" is cut at 2 of its own standard
    deviations and widened to make up for it.

    Source: `tf.keras.initializers.VarianceScaling`, `jax.nn.initializers.variance_scaling`.

    Args:
        scale: variance times fan, above 0; a number or an expression.
        mode: "fan_in", "fan_out" or "fan_avg".
        distribution: "truncated_normal", "normal" or "uniform".
        in_axis, out_axis, batch_axis, groups, transposed, parts: see `LaidOut`.

    Raises: TypeError or ValueError for what the function would refuse.

    Example:
        >>> import torch
        >>> from fastinit.initializers import VarianceScaling
        >>> he_normal = VarianceScaling(2.0)  # as Keras and JAX know it
        >>> w = he_normal(torch.empty(3, 5), key=0)
    """

    scale: Number = 1.0
    mode: str = "fan_in"
    distribution: str = _TRUNCATED

    _numeric: ClassVar[tuple[str, ...]] = ("scale",)

    def _check(self) -> None:
        self._check_distribution(_TRUNCATED, _NORMAL, _UNIFORM)
        modes = ["fan_in", "fan_out", "fan_avg"]
        if self.mode not in modes:
            raise ValueError(f"mode must be one of {modes}, got {self.mode!r}")
        if isinstance(self.scale, float):
            self._require("scale", self.scale > 0, "above 0")

    def _scaling(self, complex: bool) -> tuple[float, str, str, float]:
        gain = math.sqrt(float(self.scale)) * part_factor(self.distribution, complex)
        return gain, self.mode, "linear", 0.0

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        return init.variance_scaling_(
            tensor,
            float(self.scale),
            self._mode(self.mode),
            self.distribution,
            generator,
            key=key,
            region=region,
            **self._axis_arguments(tensor),
        )
