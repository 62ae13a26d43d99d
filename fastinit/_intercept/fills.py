"""Fills that wait: from the arguments of an operator to a record.

Owns the quick entrance, by which fastinit's own functions record without a way through torch's
dispatcher, and the laws that were found to be fine. A layer's constructor makes few other calls, so
that time spent here is what deferring costs. Must not know what else waits.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function_unary

from fastinit._fill import dtensor, laws
from fastinit._fill.extension import native
from fastinit._fill.keys import can_draw_key, key_from_generator, signed_words
from fastinit._fill.laws import Law
from fastinit._fill.placements import PLAIN_TYPES
from fastinit._intercept import fresh
from fastinit._intercept import pending as waiting
from fastinit._intercept.changes import Change
from fastinit._intercept.pending import Call, Pending

_MOST_LAWS = 4096

_empty = torch.empty  # also while a library has its own in torch
_fill = torch._C.TensorBase.fill_

_is_compiling = torch.compiler.is_dynamo_compiling
_depth = torch._C._len_torch_dispatch_stack
_level_of_functorch = torch._C._functorch.maybe_current_level


def wait(pending: Pending, name: str, tensor: Tensor, arguments: tuple[Any, ...]) -> bool:
    """Record a random fill, if it may wait.

    Args:
        pending: where to.
        name: of the operator.
        tensor, arguments: its arguments; the last may be missing.

    Raises: what the operator would.
    """
    make, count = laws.OPERATORS[name]
    numbers, source = arguments[: count - 1], arguments[count - 1 :]
    if len(source) != 5:
        source = (*source, None, None, None, None, None)[:5]
    generator, words, key_tensor, shape, offsets = source
    if key_tensor is not None:
        return _wait_with_keys(pending, name, tensor, arguments, count + 1)
    if words is not None and len(words) != 2:
        return False  # which is refused
    region = None
    if shape is not None:
        region = (shape, offsets)
        if not len(shape) == len(offsets) == tensor.ndim:
            return False
    law, known = None, (name, tensor.dtype, tensor.shape if make in _BY_SHAPE else None, numbers)
    if region is None:
        law = _laws.get(known)
        if law is not None and 0.0 in numbers and make not in _BY_SHAPE:
            law = make(tensor, *numbers, region=None)  # a zero has a sign that the key hides
    if law is None or words is None:
        if not pending.admits(tensor) or not (
            words is not None or can_draw_key(generator, tensor.device)
        ):
            return False
        if law is None:
            if any(isinstance(number, Tensor) for number in numbers):
                return False  # which is on the device
            validate(name, tensor, arguments)
            law = make(tensor, *numbers, region=region)
            if region is None and law.std != 0.0:
                if len(_laws) >= _MOST_LAWS:
                    _laws.clear()
                _laws[known] = law
        if words is None:
            words = key_from_generator(generator, tensor.device)
    return pending.add_fill(tensor, law, words)


def _wait_with_keys(
    pending: Pending, name: str, tensor: Tensor, arguments: tuple[Any, ...], place: int
) -> bool:
    """Record a fill whose key, or table of a key for each slice, is a tensor among the arguments;
    it runs by itself, and by what that tensor holds now.
    """
    rest = arguments[:place] + arguments[place + 1 :]
    if any(isinstance(argument, Tensor) for argument in rest) or not pending.admits(tensor):
        return False
    keys = own_keys(pending, arguments[place])
    if keys is None:
        return False
    validate(name, tensor, arguments)
    operator = getattr(torch.ops.fastinit, name).default
    call = Call(operator, (*arguments[:place], keys, *arguments[place + 1 :]))
    if not pending.add_run(tensor, call):
        return False
    waiting.bump_version(tensor)
    return True


def own_keys(pending: Pending, keys: Tensor) -> Tensor | None:
    """A copy of a key tensor that nobody else can edit; None of one that is elsewhere."""
    if type(keys) not in PLAIN_TYPES or keys.device.type != "cpu":
        return None
    pending.flush([keys])
    with torch._C._DisableTorchDispatch():
        return keys.detach().clone()


# By operator, dtype, shape where it counts, and numbers; none of these is refused.
_laws: dict[tuple[Any, ...], Law] = {}
_BY_SHAPE = {laws.variance_scaling}


def again(name: str, tensor: Tensor, arguments: tuple[Any, ...]) -> bool:
    """Record a fill by a function of torch.nn.init that has done so before, with these arguments
    and for a tensor of this dtype and shape: then all that it asks for is known.
    """
    pending = None if _is_compiling() else waiting.current()
    if (
        pending is None
        or type(tensor) not in PLAIN_TYPES
        or has_torch_function_unary(tensor)
        or _depth() != pending.depth
        or _level_of_functorch() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    try:
        law = _calls.get((name, tensor.dtype, tensor.shape, arguments, *map(type, arguments)))
    except TypeError:  # no such argument has a hash
        return False
    if law is None or (0.0 in arguments and _holds_minus_zero(arguments)):
        return False
    if not pending.admits(tensor):
        return False
    words = signed_words(tensor) or key_from_generator(None, tensor.device)
    pending.add_fill(tensor, law, words)
    if name in _NOTED:
        fresh.note(tensor, law.low, law.high, words)
    return True


def remember(name: str, tensor: Tensor, arguments: tuple[Any, ...]) -> None:
    """Note what came of a call that `again` did not know."""
    pending = None if _is_compiling() else waiting.current()
    if (
        pending is None
        or type(tensor) not in PLAIN_TYPES
        or not all(type(argument) in _PLAIN_ARGUMENTS for argument in arguments)
        or _holds_minus_zero(arguments)
    ):
        return
    law = pending.last_law(tensor)
    if law is None or law.region is not None:
        return
    if not law.low - 2 * law.std <= law.mean <= law.high + 2 * law.std:
        return  # trunc_normal_ warns of such bounds at each call
    if len(_calls) >= _MOST_LAWS:
        _calls.clear()
    _calls[(name, tensor.dtype, tensor.shape, arguments, *map(type, arguments))] = law


# By function, dtype, shape, arguments and their types, as True is no number to all of them.
_calls: dict[tuple[Any, ...], Law] = {}
_PLAIN_ARGUMENTS = frozenset({int, float, bool, str, type(None)})
_NOTED = frozenset({"uniform_", "_no_grad_uniform_"})


def _holds_minus_zero(arguments: tuple[Any, ...]) -> bool:
    """Whether a zero has the sign that equality hides."""
    return any(
        type(argument) is float and argument == 0.0 and math.copysign(1.0, argument) < 0.0
        for argument in arguments
    )


def wait_constant(pending: Pending, tensor: Tensor, value: object, *, bump: bool) -> bool:
    """Record that all elements become `value`, if that may wait.

    Raises: what `fill_` would.
    """
    dtype = tensor.dtype
    if not dtype.is_floating_point or not isinstance(value, float | int):
        return False
    if (dtype, value) not in _constants:
        if not pending.admits(tensor):
            return False
        with torch._C._DisableTorchDispatch():
            _fill(_empty(2, dtype=dtype), value)  # refuses a value out of range
        if value == value and float(value) != value:  # a long int
            return False
        if len(_constants) >= _MOST_LAWS:
            _constants.clear()
        _constants.add((dtype, value))
    return pending.add_constant(tensor, value, bump=bump)


_constants: set[tuple[torch.dtype, float]] = set()  # none of these is refused


def validate(name: str, tensor: Tensor, arguments: tuple[Any, ...]) -> None:
    """Refuse what the fill would refuse; it checks a meta tensor like any other."""
    with torch._C._DisableTorchDispatch():  # nothing is drawn: modes need not see it
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        getattr(torch.ops.fastinit, name)(meta, *arguments)


def _wait_or_run(name: str, tensor: Tensor, *arguments: Any) -> None:
    pending = waiting.current()
    if (
        pending is None
        or type(tensor) not in PLAIN_TYPES
        or not wait(pending, name, tensor, arguments)
    ):
        getattr(native, name)(tensor, *arguments)  # past the mode, which sees to the rest


class _Waiting:
    """The operators where random fills may wait."""

    def __init__(self) -> None:
        for name in laws.OPERATORS:
            setattr(self, name, partial(_wait_or_run, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(native, name)


_waiting = _Waiting()


def nothing_between() -> bool:
    """Whether initializations wait here and now, and no other mode is to see an operator first."""
    pending = waiting.current()
    return pending is not None and _depth() == pending.depth and _level_of_functorch() is None


class _Entrance(Change):
    """The quick entrance, open to all threads; it is for those in which anything waits."""

    def make(self) -> None:
        dtensor.entrance = lambda: _waiting if nothing_between() else native

    def undo(self) -> None:
        dtensor.entrance = None


entrance = _Entrance()
