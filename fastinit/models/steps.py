"""Steps: what is written to a tensor, one after the other, as data.

Owns the four things that a step can write, what a manifest says of them, and carrying them out on
whatever pieces of the tensors are at hand: all draws of a turn in one call for each device. Must
not know where the steps come from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fastinit._fill import laws
from fastinit._fill.keys import Key
from fastinit._fill.laws import Law, Words
from fastinit.initializers import Initializer
from fastinit.models.boxes import Box, Piece, cut

_LAWS = ("uniform", "normal", "trunc_normal")
_FEW = 512  # values that a manifest holds itself
_MASK64 = (1 << 64) - 1


class Draw(NamedTuple):
    """Values of a law in plain numbers."""

    law: Law
    words: Words


@dataclass(frozen=True, slots=True)
class Made:
    """What an initializer writes that no table of laws holds: orthogonal, sparse, eye, dirac."""

    initializer: Initializer
    words: Words | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """One number everywhere."""

    value: complex


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The values themselves, computed by a model's code."""

    tensor: Tensor


What: TypeAlias = Draw | Made | Constant | Value


class Step(NamedTuple):
    """One write to a tensor, to all of it or to a box."""

    what: What
    box: Box | None = None


Work: TypeAlias = tuple[Sequence[Step], Sequence[Piece]]


def key_of(words: Words | None) -> Key | None:
    """The key of such words."""
    return None if words is None else Key(*words)


def words_of(key: Key) -> Words:
    """The words of a key as the compiled operators take them, signed."""
    seed, offset = key.seed, key.offset
    return (
        seed - (1 << 64) if seed >> 63 else seed,
        offset - (1 << 64) if offset >> 63 else offset,
    )


_Draws: TypeAlias = defaultdict[torch.device, list[tuple[Tensor, Law, Words]]]


def carry_out(work: Iterable[Work]) -> None:
    """Write the steps of many tensors, which share no memory, each tensor's in their order."""
    left = list(work)
    turn = 0
    with torch.no_grad():
        while left:
            draws: _Draws = defaultdict(list)
            for steps, pieces in left:
                what, box = steps[turn]
                for piece in pieces:
                    part = piece if box is None else cut(piece, box)
                    if part is None:
                        continue
                    tensor, region = part
                    if isinstance(what, Draw) and region is None:  # the rule
                        draws[tensor.device].append((tensor, what.law, what.words))
                    else:
                        _write(what, tensor, region, draws)
            for batch in draws.values():
                laws.fill(batch)
            turn += 1
            left = [one for one in left if len(one[0]) > turn]


def _write(what: What, tensor: Tensor, region: Any, draws: _Draws) -> None:
    if isinstance(what, Draw):
        law = what.law._replace(region=(region.global_shape, region.offsets))
        draws[tensor.device].append((tensor, law, what.words))
    elif isinstance(what, Constant):
        value = what.value
        tensor.fill_(value if tensor.is_complex() else value.real)
    elif isinstance(what, Made):
        what.initializer(tensor, key=key_of(what.words), region=region)
    else:
        values = what.tensor
        if region is not None:
            where = zip(region.offsets, tensor.shape, strict=True)
            values = values[tuple(slice(start, start + extent) for start, extent in where)]
        tensor.copy_(values.reshape(tensor.shape))


# ------------------------------------------------------------------------------------- as JSON


def to_data(step: Step) -> dict[str, Any] | None:
    """What a manifest says of a step; None for values too many to be said."""
    said = _say(step.what)
    if said is not None and step.box is not None:
        said["box"] = [list(step.box.offsets), list(step.box.shape)]
    return said


def _say(what: What) -> dict[str, Any] | None:
    if isinstance(what, Constant):
        return {"constant": _number(what.value)}
    if isinstance(what, Made):
        key = None if what.words is None else [word & _MASK64 for word in what.words]
        return {"initializer": what.initializer.to_dict(), "key": key}
    if isinstance(what, Value):
        if what.tensor.numel() > _FEW:
            return None
        # By bits: JSON knows neither NaN nor which zero.
        data = what.tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        shape, dtype = list(what.tensor.shape), str(what.tensor.dtype).removeprefix("torch.")
        return {"value": bytes(data.tolist()).hex(), "shape": shape, "dtype": dtype}
    law = what.law
    numbers = {"mean": law.mean, "std": law.std, "low": law.low, "high": law.high}
    unused = {0: ("mean", "std"), 1: ("low", "high"), 2: ()}[law.distribution]
    return {
        "draw": _LAWS[law.distribution],
        **{name: value for name, value in numbers.items() if name not in unused},
        "key": [word & _MASK64 for word in what.words],
    }


def from_data(data: Mapping[str, Any]) -> Step:
    """The step that `to_data` described.

    Raises:
        ValueError: the data describes none.
    """
    box = data.get("box")
    return Step(_read(data), None if box is None else Box(tuple(box[0]), tuple(box[1])))


def _read(data: Mapping[str, Any]) -> What:
    words = None if data.get("key") is None else words_of(Key(*data["key"]))
    if "constant" in data:
        value = data["constant"]
        return Constant(complex(*value) if isinstance(value, list) else complex(value))
    if "initializer" in data:
        return Made(Initializer.from_dict(data["initializer"]), words)
    if "value" in data:
        dtype = getattr(torch, data["dtype"])
        held = bytearray.fromhex(data["value"])
        values = torch.frombuffer(held, dtype=dtype) if held else torch.empty(0, dtype=dtype)
        return Value(values.reshape(data["shape"]))
    if data.get("draw") in _LAWS and words is not None:
        law = Law(
            _LAWS.index(data["draw"]),
            data.get("mean", 0.0),
            data.get("std", 1.0),
            data.get("low", 0.0),
            data.get("high", 0.0),
            None,
        )
        return Draw(law, words)
    raise ValueError(f"manifest describes no step that this fastinit knows: {dict(data)!r}")


def _number(value: complex) -> Any:
    if value.imag:
        return [value.real, value.imag]
    # JSON has no infinities; Python's float() reads these words.
    return value.real if math.isfinite(value.real) else repr(value.real)
