"""Random fills that wait: from the arguments of an operator to a record.

Owns the quick entrance, by which fastinit's own functions record without a way through torch's
dispatcher, and the laws that were found to be fine. A layer's constructor makes few other calls, so
that time spent here is what deferring costs. Must not know what else waits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastinit._fill import dtensor, laws
from fastinit._fill.extension import native
from fastinit._fill.keys import can_draw_key, key_from_generator
from fastinit._fill.laws import Law
from fastinit._fill.placements import PLAIN_TYPES
from fastinit._intercept import pending as waiting
from fastinit._intercept.changes import Change
from fastinit._intercept.pending import Pending

_MOST_LAWS = 4096

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
    count = laws.OPERATORS[name][1] - 1
    source = arguments[count:]
    if len(source) < 2:
        generator, words, region = source[0] if source else None, None, None
    else:
        generator, words, key_tensor, *region = (*source, None, None, None)[:5]
        if key_tensor is not None or (words is not None and len(words) != 2):
            return False  # a key on the device, or several
        if region[0] is None:
            region = None
        elif {len(part) for part in region} != {tensor.ndim}:
            return False
    storage = pending.admits(tensor)
    if storage is None or not (words is not None or can_draw_key(generator, tensor.device)):
        return False
    law = _law(name, tensor, arguments[:count], arguments, region)
    if law is None:
        return False
    if words is None:
        words = key_from_generator(generator, tensor.device)
    pending.add_fill(tensor, law, words, storage)
    waiting.bump_version(tensor)
    return True


# By operator, dtype, shape and numbers; none of these is refused.
_laws: dict[tuple[Any, ...], Law] = {}


def _law(
    name: str, tensor: Tensor, numbers: tuple[Any, ...], arguments: tuple[Any, ...], region: Any
) -> Law | None:
    """The law of a fill that would not be refused; None if a number of it is on the device."""
    make = laws.OPERATORS[name][0]
    key = (name, tensor.dtype, tensor.shape, numbers)
    if region is None:
        known = _laws.get(key)
        if known is not None:
            if name == "variance_scaling_" or 0.0 not in numbers:
                return known
            return make(tensor, *numbers, region=None)  # a zero has a sign that the key hides
    if any(isinstance(number, Tensor) for number in numbers):
        return None
    validate(name, tensor, arguments)
    law = make(tensor, *numbers, region=None if region is None else tuple(region))
    if region is None and law.std != 0.0:
        if len(_laws) >= _MOST_LAWS:
            _laws.clear()
        _laws[key] = law
    return law


def validate(name: str, tensor: Tensor, arguments: tuple[Any, ...]) -> None:
    """Refuse what the fill would refuse; it checks a meta tensor like any other."""
    with torch._C._DisableTorchDispatch():  # nothing is drawn: modes need not see it
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        getattr(torch.ops.fastinit, name)(meta, *arguments)


class _Waiting:
    """The operators where random fills may wait."""

    def __getattr__(self, name: str) -> Any:
        return getattr(native, name)

    def uniform_(self, tensor: Tensor, *arguments: Any) -> None:
        _wait_or_run("uniform_", tensor, arguments)

    def normal_(self, tensor: Tensor, *arguments: Any) -> None:
        _wait_or_run("normal_", tensor, arguments)

    def trunc_normal_(self, tensor: Tensor, *arguments: Any) -> None:
        _wait_or_run("trunc_normal_", tensor, arguments)

    def variance_scaling_(self, tensor: Tensor, *arguments: Any) -> None:
        _wait_or_run("variance_scaling_", tensor, arguments)


def _wait_or_run(name: str, tensor: Tensor, arguments: tuple[Any, ...]) -> None:
    pending = waiting.current()
    if pending is None or type(tensor) not in PLAIN_TYPES:
        waits = False
    else:
        waits = wait(pending, name, tensor, arguments)
    if not waits:
        getattr(native, name)(tensor, *arguments)  # past the mode, which sees to the rest


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
