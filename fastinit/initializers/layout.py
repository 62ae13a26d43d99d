"""Initializers that look at the axes of a weight: fans, and the parts of a packed parameter.

Owns `LaidOut`. Must not know any law, nor count a fan: the core does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastinit._fill.extension import native
from fastinit._fill.fans import Axes, FanArguments, fan_arguments
from fastinit._fill.keys import Key, KeyLike, key_from_generator, keys_of_slices, missing_key
from fastinit._fill.placements import is_dtensor, pieces
from fastinit._fill.regions import Region, rectangles
from fastinit.initializers.base import Initializer, Part, Shape
from fastinit.initializers.expressions import Expression, Number, parse

Parts: TypeAlias = tuple[int, tuple[tuple[str, Number], ...]]


@dataclass(frozen=True, slots=True, repr=False)
class LaidOut(Initializer):
    """An initializer that looks at the axes of a weight.

    Args:
        in_axis, out_axis: the axes, an int or several, that a layer sums over and that it
            produces. None means those of nn.Linear and nn.Conv, the second and the first of the
            axes that batch_axis leaves.
        batch_axis: axes that only index independent weights, such as the experts of an MoE layer.
        groups: of a grouped convolution, of which one group's channels make the fan.
        transposed: whether the weight is kept as (in, out), so that its fans are exchanged. None
            means that a recipe tells by the module's type (Conv1D of transformers is); without a
            module it means False.
        parts: of a packed parameter, `{axis: {name: extent, ...}}`: each part is a weight of its
            own, with its own fans and its own key, that of the parameter it stands for. An
            extent may be an expression of fan_in and fan_out.
    """

    in_axis: Axes | None = dataclasses.field(default=None, kw_only=True)
    out_axis: Axes | None = dataclasses.field(default=None, kw_only=True)
    batch_axis: Axes = dataclasses.field(default=(), kw_only=True)
    groups: int = dataclasses.field(default=1, kw_only=True)
    transposed: bool | None = dataclasses.field(default=None, kw_only=True)
    parts: Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        Initializer.__post_init__(self)
        for name in ("in_axis", "out_axis", "batch_axis"):
            if isinstance(axes := getattr(self, name), list):
                object.__setattr__(self, name, tuple(axes))
        if type(self.groups) is not int:
            raise TypeError(f"groups must be an int, got {self.groups!r}; pass the layer's count")
        self._axes((1,) * 8)  # refuses what are no axes
        if self.transposed not in (None, False, True):
            raise TypeError(f"transposed must be a bool or None, got {self.transposed!r}")
        if self.parts is not None:
            object.__setattr__(self, "parts", _parts(self.parts))

    def _axes(self, shape: Shape) -> FanArguments:
        """The axes and groups as the core takes them, for a tensor of this shape."""
        inside, outside = self.in_axis, self.out_axis
        if self.batch_axis != () and (inside is None or outside is None):
            batch = fan_arguments(1, 0, self.batch_axis, self.groups)[2] or ()
            taken = {axis % len(shape) for axis in batch} if shape else set()
            left = [axis for axis in range(len(shape)) if axis not in taken]
            inside = left[1] if inside is None and len(left) > 1 else inside
            outside = left[0] if outside is None and left else outside
        return fan_arguments(
            1 if inside is None else inside,
            0 if outside is None else outside,
            self.batch_axis,
            self.groups,
        )

    def _mode(self, mode: str) -> str:
        """The fan that the core has to take for `mode`, as it does not know `transposed`."""
        if not self.transposed:
            return mode
        return {"fan_in": "fan_out", "fan_out": "fan_in"}.get(mode, mode)

    def _fans(self, shape: Shape, weight: Shape | None) -> dict[str, float]:
        if not self.variables & {"fan_in", "fan_out"}:
            return {}
        if len(shape) < 2:
            if weight is not None and len(weight) >= 2:
                return self._fans_of(weight)
            return {"fan_out": shape[0]} if shape else {}
        return self._fans_of(shape)

    def _fans_of(self, shape: Shape) -> dict[str, float]:
        return _fans(tuple(shape), self._axes(shape), bool(self.transposed))

    def _pieces(self, shape: Shape) -> tuple[Part, ...]:
        if self.parts is None:
            return ()
        axis, extents = self.parts
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"parts must name an axis of the shape {tuple(shape)}, got {axis}")
        axis %= len(shape)
        sizes = [self._extent(name, extent, shape) for name, extent in extents]
        if sum(sizes) != shape[axis]:
            told = " + ".join(f"{name} {n}" for (name, _), n in zip(extents, sizes, strict=True))
            raise ValueError(
                f"parts must fill axis {axis} of the shape {tuple(shape)}, got {told} = "
                f"{sum(sizes)}; give extents that sum to {shape[axis]}"
            )
        whole = dataclasses.replace(self, parts=None)
        found, start = [], 0
        for (name, _), size in zip(extents, sizes, strict=True):
            part = (*shape[:axis], size, *shape[axis + 1 :])
            found.append(Part(name, axis, start, tuple(part), whole))
            start += size
        return tuple(found)

    def _extent(self, name: str, extent: Number, shape: Shape) -> int:
        if not isinstance(extent, Expression):
            return int(extent)
        fans = self._fans_of(shape) if len(shape) > 1 else {}
        value = extent.evaluate({"fan_out": shape[0], **fans})
        if value != int(value):
            raise ValueError(f"parts must have whole extents, got {name}: {extent} = {value:g}")
        return int(value)

    def __call__(
        self,
        tensor: Tensor,
        *,
        key: KeyLike | None = None,
        generator: torch.Generator | None = None,
        region: Region | None = None,
    ) -> Tensor:
        """Fill the tensor; see `Initializer`. Part `name` is filled under `key.fold_in(name)`."""
        if self.parts is None or keys_of_slices(key, tensor, region) is not None:
            return Initializer.__call__(self, tensor, key=key, generator=generator, region=region)
        self.pieces(tensor.shape if region is None else region.global_shape)  # refused, if wrong
        if tensor.is_meta:
            return tensor
        root = _root_key(tensor, key, generator, region)
        if is_dtensor(tensor):
            places = pieces(tensor)
        else:
            places = rectangles(tensor, region or Region(tensor.shape, (0,) * tensor.ndim))
        with torch.no_grad():
            for held, place in places:
                self._fill_parts(held, root, place)
        return tensor

    def _fill_parts(self, tensor: Tensor, key: Key, region: Region) -> None:
        for part in self.pieces(region.global_shape):
            offset = region.offsets[part.axis]
            first = max(part.start, offset)
            last = min(part.stop, offset + tensor.size(part.axis))
            if first >= last:
                continue
            held = tensor.narrow(part.axis, first - offset, last - first)
            offsets = list(region.offsets)
            offsets[part.axis] = first - part.start
            part.initializer(
                held, key=key.fold_in(part.name), region=Region(part.shape, tuple(offsets))
            )

    def _field_repr(self, name: str, value: Any) -> str:
        if name == "parts":
            return repr(_parts_data(value, plain=False))
        return Initializer._field_repr(self, name, value)

    def _field_data(self, name: str, value: Any) -> Any:
        if name == "parts":
            return _parts_data(value, plain=True)
        return Initializer._field_data(self, name, value)


@functools.lru_cache(maxsize=4096)
def _fans(shape: tuple[int, ...], axes: FanArguments, exchanged: bool) -> dict[str, float]:
    first, second = native.fans(shape, *axes)
    if exchanged:
        first, second = second, first
    return {"fan_in": float(first), "fan_out": float(second)}


def _parts(given: object) -> Parts:
    """The parts as a value that hashes, from `{axis: {name: extent}}` or from such a value."""
    remedy = "pass {axis: {name: extent, ...}}"
    if isinstance(given, tuple):
        given = {given[0]: dict(given[1])}
    if not isinstance(given, Mapping) or len(given) != 1:
        raise TypeError(f"parts must name one axis, got {given!r}; {remedy}")
    ((axis, extents),) = given.items()
    if isinstance(axis, str) and axis.lstrip("-").isdigit():
        axis = int(axis)  # the way JSON keeps it
    if not isinstance(axis, int) or not isinstance(extents, Mapping) or not extents:
        raise TypeError(f"parts must name an axis and its parts, got {given!r}; {remedy}")
    found = []
    for name, extent in extents.items():
        if isinstance(extent, str):
            extent = parse(extent)
        whole = isinstance(extent, int) and not isinstance(extent, bool) and extent >= 0
        if not isinstance(name, str) or not (whole or isinstance(extent, Expression)):
            raise TypeError(f"parts must map names to ints, got {name!r}: {extent!r}; {remedy}")
        found.append((name, extent))
    return axis, tuple(found)


def _parts_data(parts: Parts, plain: bool) -> dict[Any, dict[str, Any]]:
    axis, extents = parts
    inner = {
        name: str(extent) if plain and isinstance(extent, Expression) else extent
        for name, extent in extents
    }
    return {str(axis) if plain else axis: inner}


def _root_key(
    tensor: Tensor,
    key: KeyLike | None,
    generator: torch.Generator | None,
    region: Region | None,
) -> Key:
    """The key whose children the parts take: the given one, or one draw from the generator."""
    if key is not None and generator is not None:
        raise ValueError(f"key and generator exclude each other, got key={key!r} and a generator")
    if key is None and generator is None:
        key = missing_key(tensor, region)
    if key is None:
        if is_dtensor(tensor) or tensor.is_meta:
            raise ValueError(f"parts of a {type(tensor).__name__} need a key; pass key=")
        return Key(*key_from_generator(generator, tensor.device))
    if isinstance(key, Tensor):
        return Key.from_tensor(key)
    return key if isinstance(key, Key) else Key(key)  # type: ignore[arg-type]  # one key
