"""Uniform draws that nobody has touched since, and what `erfinv_` makes of them.

Owns the notes of such draws, and the step to the normal distribution. Private copies of
`trunc_normal_` draw uniformly on (2l - 1, 2u - 1) and invert the error function in place: in exact
arithmetic that is a normal of standard deviation sqrt(1/2), truncated to the quantiles l and u, but
in a narrow dtype the draw is too coarse for its tails. Must not know what stands in for `erfinv_`.

Source: Devroye, "Non-Uniform Random Variate Generation" (1986), section II.2 (inversion).
"""

from __future__ import annotations

import math
import threading
import weakref
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit import init
from fastinit._fill.dtensor import shared_source
from fastinit._fill.keys import Key, can_draw_key, key_from_generator, missing_key
from fastinit._fill.placements import is_dtensor
from fastinit._intercept import pending as waiting

_STD = math.sqrt(0.5)  # of erfinv(u), u uniform on (-1, 1)

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # with an erfinv_
_FARTHEST = 38.0  # in std: nothing beyond has a probability that a float64 can hold
_standard = NormalDist()
_lock = threading.Lock()
_is_compiling = torch.compiler.is_dynamo_compiling


class _Note(NamedTuple):
    """A draw: a tensor with the version counter that it moved, its place, bounds and key."""

    counter: weakref.ref[Tensor]
    version: int
    place: tuple[object, ...]
    low: float
    high: float
    key: Key


_notes: dict[int, _Note] = {}  # by the address of the storage, the oldest first
_MOST_NOTES = 64  # what inverts a draw does so before it draws much else


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """As `init.uniform_`, and noted if `erfinv_` may follow."""
    if _is_compiling() or not _invertible(a, b):
        return init.uniform_(tensor, a, b, generator)
    with torch._C.DisableTorchFunction():
        noted = tensor.dtype in _DTYPES and tensor.numel() > 0 and not tensor.is_inference()
        key = _draw_key(tensor, generator) if noted else None
    if key is None:
        return init.uniform_(tensor, a, b, generator)
    init.uniform_(tensor, a, b, key=key)
    with torch._C.DisableTorchFunction():
        address = _address(tensor)
        counter = weakref.ref(_root(tensor))
        place = _place(tensor)
        with _lock:
            _notes.pop(address, None)
            if len(_notes) >= _MOST_NOTES:
                del _notes[next(iter(_notes))]
            _notes[address] = _Note(counter, tensor._version, place, float(a), float(b), key)
    return tensor


def invert_(tensor: Tensor) -> bool:
    """Fill `tensor` with the truncated normal that `erfinv_` of it stands for.

    False if it holds anything but a uniform draw that was noted, all of it and nothing else, or
    was edited since, as far as version counters tell; nothing is then done.
    """
    with torch._C.DisableTorchFunction():
        note = _notes.get(_address(tensor))
        if note is None or tensor.is_inference() or not _is_fresh(tensor, note):
            return False
    low, high = _quantile(note.low), _quantile(note.high)
    init.trunc_normal_(tensor, 0.0, _STD, low, high, key=note.key)
    pending = waiting.current()
    if pending is not None:
        pending.allow_edits(_local(tensor))
    return True


def _is_fresh(tensor: Tensor, note: _Note) -> bool:
    counted = note.counter()
    if counted is None or tensor._version != note.version or _place(tensor) != note.place:
        return False
    if counted is not _root(tensor):
        # Aliases may have one counter or, like `.data`, each its own; the edit to come moves it
        # anyway.
        torch.autograd.graph.increment_version(tensor)
        return counted._version == tensor._version
    return True


def _invertible(a: object, b: object) -> bool:
    """Whether erfinv is defined between these bounds."""
    return isinstance(a, int | float) and isinstance(b, int | float) and -1 <= a < b <= 1


def _draw_key(tensor: Tensor, generator: torch.Generator | None) -> Key | None:
    """The key that a fill of `tensor` would take; None where only the fill itself can take it."""
    if tensor.is_meta:
        return None
    chosen = missing_key(tensor, None) if generator is None else None
    if chosen is not None:
        assert isinstance(chosen, Key)
        return chosen
    if is_dtensor(tensor):
        with shared_source(tensor, generator) as (_, words, _):
            return None if words is None else Key(*words)
    if not can_draw_key(generator, tensor.device) or _is_capturing(tensor):
        return None
    return Key(*key_from_generator(generator, tensor.device))


def _is_capturing(tensor: Tensor) -> bool:
    """Whether the generator's state is on the device, for a graph to read at each replay."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _root(tensor: Tensor) -> Tensor:
    """The tensor whose version counter this one has, if it is a view."""
    base = tensor._base
    return tensor if base is None else base


def _local(tensor: Any) -> Tensor:
    """What holds the memory."""
    local: Tensor = tensor._local_tensor if is_dtensor(tensor) else tensor
    return local


def _address(tensor: Tensor) -> int:
    address: int = torch._C.TensorBase.untyped_storage(_local(tensor))._cdata
    return address


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), _local(tensor).storage_offset()


def _quantile(bound: float) -> float:
    """erfinv(bound): the number below which the normal has probability (1 + bound) / 2."""
    far = 1.0 - abs(bound)  # exact
    z = _FARTHEST if far == 0.0 else -_standard.inv_cdf(far / 2.0) if far < 1.0 else 0.0
    return math.copysign(_STD * z, bound)
