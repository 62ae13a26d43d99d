"""Uniform draws that nobody has touched since, and what `erfinv_` makes of them.

Owns the notes of such draws, and the step to the normal distribution. Private copies of
`trunc_normal_` draw uniformly on (2l - 1, 2u - 1) and invert the error function in place: in exact
arithmetic that is a normal of standard deviation sqrt(1/2), truncated to the quantiles l and u, but
in a narrow dtype the draw is too coarse for its tails. Must not know what stands in for `erfinv_`.

Source: Devroye, "Non-Uniform Random Variate Generation" (1986), section II.2 (inversion).
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from fastinit import init
from fastinit._fill.dtensor import ops, shared_source
from fastinit._fill.extension import native
from fastinit._fill.keys import Key, can_draw_key, key_from_generator, stream
from fastinit._fill.laws import Words
from fastinit._fill.placements import is_dtensor
from fastinit._intercept import pending as waiting

_STD = math.sqrt(0.5)  # of erfinv(u), u uniform on (-1, 1)

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # with an erfinv_
_FARTHEST = 38.0  # in std: nothing beyond has a probability that a float64 can hold
_standard = NormalDist()
_is_compiling = torch.compiler.is_dynamo_compiling


class _Note(NamedTuple):
    """A draw: a tensor with the version counter that it moved, its place, bounds and key."""

    counter: weakref.ref[Tensor]
    version: int
    memory: list[int]
    low: float
    high: float
    words: Words


# The last draws: what inverts one does so before it draws much else.
_notes: deque[_Note] = deque(maxlen=64)


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """As `init.uniform_`, and noted if `erfinv_` may follow."""
    if _is_compiling() or not _invertible(a, b):
        return init.uniform_(tensor, a, b, generator)
    if has_torch_function_unary(tensor):
        with torch._C.DisableTorchFunction():
            words = _draw_words(tensor, generator)
        if words is None:
            return init.uniform_(tensor, a, b, generator)
        init.uniform_(tensor, a, b, key=Key(*words))
        with torch._C.DisableTorchFunction():
            _note(tensor, a, b, words)
        return tensor
    words = _draw_words(tensor, generator)
    if words is None:
        return init.uniform_(tensor, a, b, generator)
    ops(tensor).uniform_(tensor, float(a), float(b), None, words, None, None, None)
    _note(tensor, a, b, words)
    return tensor


def note(tensor: Tensor, low: float, high: float, words: Words) -> None:
    """Note a draw that was made elsewhere, if `erfinv_` may follow."""
    if tensor.dtype in _DTYPES and _invertible(low, high) and not tensor.is_inference():
        _note(tensor, low, high, words)


def _note(tensor: Tensor, a: float, b: float, words: Words) -> None:
    counter, version = weakref.ref(_root(tensor)), tensor._version
    memory = native.memory_of(_local(tensor))
    _notes.append(_Note(counter, version, memory, a, b, words))


def invert_(tensor: Tensor) -> bool:
    """Fill `tensor` with the truncated normal that `erfinv_` of it stands for.

    False if it holds anything but a uniform draw that was noted, all of it and nothing else, or
    was edited since, as far as version counters tell; nothing is then done.
    """
    with torch._C.DisableTorchFunction():
        note = _last_note(native.memory_of(_local(tensor)))
        if note is None or tensor.is_inference() or not _is_fresh(tensor, note):
            return False
    low, high = _quantile(note.low), _quantile(note.high)
    init.trunc_normal_(tensor, 0.0, _STD, low, high, key=Key(*note.words))
    pending = waiting.current()
    if pending is not None:
        pending.allow_edits(_local(tensor))
    return True


def _last_note(memory: list[int]) -> _Note | None:
    """The note of the last draw into the same storage, if it was into all of this memory."""
    for note in reversed(list(_notes)):
        if note.memory[0] == memory[0]:
            return note if note.memory == memory else None
    return None


def _is_fresh(tensor: Tensor, note: _Note) -> bool:
    counted = note.counter()
    if counted is None or tensor._version != note.version:
        return False
    if counted is not _root(tensor):
        # Aliases may have one counter or, like `.data`, each its own; the edit to come moves it
        # anyway.
        torch.autograd.graph.increment_version(tensor)
        return counted._version == tensor._version
    return True


def _invertible(a: object, b: object) -> bool:
    """Whether erfinv is defined between these bounds."""
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and -1 <= a < b <= 1


def _draw_words(tensor: Tensor, generator: torch.Generator | None) -> Words | None:
    """The signed words of the key that a fill of `tensor` would take; None where only the fill
    itself can take it, or where no `erfinv_` can follow.
    """
    if (
        tensor.dtype not in _DTYPES
        or tensor.is_meta
        or tensor.is_inference()
        or tensor.numel() == 0
        or (generator is not None and not isinstance(generator, torch.Generator))
    ):
        return None
    source = stream(tensor, generator, None, None)
    if len(source) > 1:
        return source[1]
    if is_dtensor(tensor):
        with shared_source(tensor, generator) as (_, words, _):
            return words
    if not can_draw_key(generator, tensor.device) or _is_capturing(tensor):
        return None
    return key_from_generator(generator, tensor.device)


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


def _quantile(bound: float) -> float:
    """erfinv(bound): the number below which the normal has probability (1 + bound) / 2."""
    far = 1.0 - abs(bound)  # exact
    z = _FARTHEST if far == 0.0 else -_standard.inv_cdf(far / 2.0) if far < 1.0 else 0.0
    return math.copysign(_STD * z, bound)
