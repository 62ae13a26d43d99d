"""What all initializers share: arguments, text, dictionaries, and the step to plain numbers.

Owns `Initializer`. Must not know any law, nor what a fan is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from fastinit._fill.keys import KeyLike, keys_of_slices
from fastinit._fill.laws import Law
from fastinit._fill.regions import Region
from fastinit.initializers.expressions import Expression, parse

Shape: TypeAlias = Sequence[int]

_Self = TypeVar("_Self", bound="Initializer")


class Numbers(NamedTuple):
    """A law's numbers for a report: None where the law has none.

    std is that of the law before a truncation; low and high bound the values.
    """

    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


class Part(NamedTuple):
    """A slice of a packed parameter: its name, its place on the axis and its own initializer."""

    name: str
    axis: int
    start: int
    shape: tuple[int, ...]
    initializer: Initializer

    @property
    def stop(self) -> int:
        """Where it ends on the axis."""
        return self.start + self.shape[self.axis]


# By class name: what `from_dict` can make.
_classes: dict[str, type[Initializer]] = {}


@dataclass(frozen=True, slots=True)
class Initializer:
    """A law that fills tensors: a value that compares, hashes, prints and goes to JSON.

    Call it on a tensor: `initializer(tensor, key=key)`.
    """

    # Fields that are numbers, so that an expression will do.
    _numeric: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        _classes[cls.__name__] = cls  # a slotted class is made twice; the second one stays

    def __post_init__(self) -> None:
        for name in self._numeric:
            value = getattr(self, name)
            if value is not None and not isinstance(value, Expression):
                object.__setattr__(self, name, self._number(name, value))
        self._check()

    def _number(self, name: str, value: object) -> float:
        remedy = "pass a float or an expression such as 0.02 / sqrt(2 * depth)"
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(
                f"{name} must be a number or an expression, got {value!r} "
                f"({type(value).__name__}); {remedy}"
            )
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {value!r}; {remedy}")
        return number

    def _check(self) -> None:
        """Refuse plain numbers that no law has; called again once expressions are known."""

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    def __call__(
        self,
        tensor: Tensor,
        *,
        key: KeyLike | None = None,
        generator: torch.Generator | None = None,
        region: Region | None = None,
    ) -> Tensor:
        """Fill the tensor, as the functions of `fastinit.init` do, and return it.

        Args:
            tensor, key, generator, region: see `fastinit.init`.

        Raises:
            ValueError: a number is an expression of depth, layer, width or head_dim, which a tensor
                does not tell; others as the function that fills.
        """
        keys = keys_of_slices(key, tensor, region)
        if keys is not None:
            with torch.no_grad():
                for one, held in zip(keys, tensor, strict=True):
                    self(held, key=one, generator=generator)
            return tensor
        shape = tensor.shape if region is None else region.global_shape
        self.resolve(shape)._fill(tensor, generator, key, region)
        return tensor

    def _fill(
        self,
        tensor: Tensor,
        generator: torch.Generator | None,
        key: KeyLike | None,
        region: Region | None,
    ) -> object:
        raise NotImplementedError

    @property
    def expressions(self) -> dict[str, Expression]:
        """Those of its numbers that are expressions, by the argument's name."""
        return {
            name: value
            for name in self._numeric
            if isinstance(value := getattr(self, name), Expression)
        }

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables that its numbers depend on."""
        return frozenset().union(*(value.variables for value in self.expressions.values()))

    def resolve(
        self: _Self,
        shape: Shape,
        *,
        depth: float | None = None,
        layer: float | None = None,
        width: float | None = None,
        head_dim: float | None = None,
        weight: Shape | None = None,
    ) -> _Self:
        """The same initializer with plain numbers.

        Args:
            shape: of the (global) tensor; fan_in and fan_out come from it.
            depth, layer, width, head_dim: values of these variables.
            weight: the shape of the weight beside a bias, which has no fans of its own.

        Raises:
            ValueError: an expression needs a value that is not given, or has none.
        """
        found = self.expressions
        if not found:
            return self
        values = {
            name: float(value)
            for name, value in {
                "depth": depth,
                "layer": layer,
                "width": width,
                "head_dim": head_dim,
                **self._fans(shape, weight),
            }.items()
            if value is not None
        }
        return dataclasses.replace(
            self, **{name: value.evaluate(values) for name, value in found.items()}
        )

    def _fans(self, shape: Shape, weight: Shape | None) -> dict[str, float]:
        return {}

    def law(self, shape: Shape, complex: bool = False) -> Law | None:
        """The plain numbers of one fill of a table of tensors; None if no table can hold it.

        Args:
            shape: of the (global) tensor.
            complex: whether its dtype is.
        """
        return self._law(shape, complex)

    def _law(self, shape: Shape, complex: bool) -> Law | None:
        return None

    def numbers(self, shape: Shape, complex: bool = False) -> Numbers:
        """What a report says of it; arguments as for `law`."""
        return self._numbers(shape, complex)

    def _numbers(self, shape: Shape, complex: bool) -> Numbers:
        return Numbers()

    def pieces(self, shape: Shape) -> tuple[Part, ...]:
        """The parts of a packed parameter, each with its own initializer; none if it is whole."""
        return self._pieces(shape)

    def _pieces(self, shape: Shape) -> tuple[Part, ...]:
        return ()

    def _arguments(self) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
        """The fields that differ from their defaults, and their values."""
        for field in sorted(dataclasses.fields(self), key=lambda field: bool(field.kw_only)):
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING or value != field.default:
                yield field, value

    def __repr__(self) -> str:
        return self.describe({})

    def describe(self, values: Mapping[str, str]) -> str:
        """The code that makes it, with values behind some arguments: `std=1 / sqrt(fan_in) = 0.5`.

        Args:
            values: by the argument's name.
        """
        positional = True
        words = []
        for field, value in self._arguments():
            positional = positional and field.default is dataclasses.MISSING
            text = self._field_repr(field.name, value)
            text += f" = {values[field.name]}" if field.name in values else ""
            words.append(text if positional else f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(words)})"

    def _field_repr(self, name: str, value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) and _short(value) else repr(value)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data from which `from_dict` makes an equal initializer."""
        return {
            "law": type(self).__name__,
            **{f.name: self._field_data(f.name, value) for f, value in self._arguments()},
        }

    def _field_data(self, name: str, value: Any) -> Any:
        return str(value) if isinstance(value, Expression) else value

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Initializer:
        """The initializer that `to_dict` described.

        Raises:
            ValueError: no initializer of that name, or arguments it does not take.
        """
        arguments = dict(data)
        name = arguments.pop("law", None)
        cls = _classes.get(name) if isinstance(name, str) else None
        if cls is None or cls.__name__.startswith("_"):
            raise ValueError(f"law must be one of {sorted(_classes)}, got {name!r}")
        try:
            return cls(**{word: cls._read(word, value) for word, value in arguments.items()})
        except TypeError as error:
            raise ValueError(f"{dict(data)!r} describes no {name}: {error}") from None

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name in cls._numeric and isinstance(value, str):
            return parse(value)
        return tuple(value) if isinstance(value, list) else value


def _short(value: float) -> bool:
    """Whether %g says the whole value, shorter than repr or the same."""
    return float(f"{value:g}") == value
