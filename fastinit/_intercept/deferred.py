"""Deferred initialization: `deferred`, and `recording` for what else records.

Owns the public scope and the methods of Tensor that lead past torch's dispatcher to the memory.
What an operator means for initializations that wait is `operators`'s, which of them matter and how
they run `pending`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function_unary
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fill.keys import Key
from fastinit._fill.placements import PLAIN_TYPES
from fastinit._intercept import pending as waiting
from fastinit._intercept.changes import CoveredMembers
from fastinit._intercept.fills import entrance, nothing_between, wait_constant
from fastinit._intercept.keyed import keyed
from fastinit._intercept.operators import Mode
from fastinit._intercept.patch import patch
from fastinit._intercept.pending import Pending
from fastinit._intercept.scopes import Scope

_past_modes = torch._C._disabled_torch_dispatch_impl
_count_functions = torch._C._len_torch_function_stack
_is_compiling = torch.compiler.is_dynamo_compiling


def _exposing(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in for a method that lets others at the memory of its tensor, or reads it itself,
    where no dispatch mode can see it.
    """

    @functools.wraps(stock)
    def stand_in(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        pending = waiting.current()
        if pending is not None and isinstance(self, Tensor) and self.layout is torch.strided:
            pending.expose(self)
        return stock(self, *args, **kwargs)

    return stand_in


def _showing(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in for the method that formats a tensor with all dispatch modes out of the way."""

    @functools.wraps(stock)
    def stand_in(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        pending = waiting.current()
        if pending is not None:
            pending.flush([self])
        return stock(self, *args, **kwargs)

    return stand_in


def _others_look() -> bool:
    """Whether a function mode other than `torch.device`'s is to be called, whose code may read."""
    return _count_functions() > 0 and any(
        type(torch._C._get_function_stack_at(place)) is not DeviceContext
        for place in range(_count_functions())
    )


def _making(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in for a function that makes a tensor of sizes, which is nothing to the mode."""

    @functools.wraps(stock)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if _is_compiling() or _others_look() or "out" in kwargs or not nothing_between():
            return stock(*args, **kwargs)
        return _past_modes(stock, (), args, kwargs)

    return stand_in


def _holding(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in for torch.tensor, which makes a tensor of a number without the mode."""

    @functools.wraps(stock)
    def stand_in(data: Any, **kwargs: Any) -> Any:
        if _is_compiling() or type(data) not in _NUMBERS or _others_look() or not nothing_between():
            return stock(data, **kwargs)
        return _past_modes(stock, (), (data,), kwargs)

    return stand_in


def _writing(stock: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The stand-in for Tensor.zero_ or Tensor.fill_, of no or one number: it records, or runs,
    without the mode.
    """

    @functools.wraps(stock)
    def stand_in(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if (
            _is_compiling()
            or kwargs
            or len(args) != count
            or type(self) not in PLAIN_TYPES
            or (count and type(args[0]) not in _NUMBERS)
            or has_torch_function_unary(self)
            or not nothing_between()
            or (self.requires_grad and torch.is_grad_enabled())
            or forward_ad._current_level >= 0
        ):
            return stock(self, *args, **kwargs)
        pending = waiting.current()
        assert pending is not None
        if wait_constant(pending, self, args[0] if count else 0.0, bump=True):
            return self
        if self.layout is torch.strided and not self.is_nested and pending.survives_write(self):
            with torch._C._DisableTorchDispatch():
                stock(self, *args)
            pending.overwritten(self)
            return self
        return stock(self, *args)

    return stand_in


_NUMBERS = frozenset({bool, int, float})
_covered_members = CoveredMembers(
    [(torch.Tensor, "__repr__", _showing)]
    + [
        (torch.Tensor, name, _exposing)
        for name in ("data_ptr", "const_data_ptr", "numpy", "tolist", "untyped_storage")
        if hasattr(torch.Tensor, name)
    ]
    + [(torch.Tensor, "__dlpack__", _exposing)]
    + [(torch, name, _making) for name in ("empty", "zeros", "ones")]
    + [(torch, "tensor", _holding)]
    + [
        (torch.Tensor, name, functools.partial(_writing, count=count))
        for name, count in (("zero_", 0), ("fill_", 1))
    ]
    + [(owner, "to_dlpack", _exposing) for owner in (torch, torch.utils.dlpack)],
    inert=True,
)


def _acquire(stack: ExitStack) -> None:
    for change in (_covered_members, entrance):
        change.acquire()
        stack.callback(change.release)


@contextmanager
def recording(pending: Pending) -> Iterator[None]:
    """Under the patch, have the initializations of this thread wait in `pending`, and leave there
    what waits at the end. What else is deferred, or watched by dispatch modes, has no part in it.
    """
    outer = waiting.current()
    with _disable_current_modes(), patch(), ExitStack() as stack:
        _acquire(stack)
        waiting.set_current(pending)
        stack.callback(waiting.set_current, outer)
        stack.enter_context(Mode(pending))
        yield


class deferred(Scope[ExitStack]):  # noqa: N801  (used like a function)
    """Record the initializations inside instead of running them; at the end run those that matter.

    Everything `patch` reaches is recorded, fastinit's own functions, and `zero_` and `fill_`. An
    initialization that a later one overwrites, or whose tensor is gone by the end, never runs; the
    others run together at the end, one call for each device. Whatever needs the values before, be
    it to read them, edit them, copy them or take their address, first has that tensor's written:
    but for the time it takes, nothing tells a tensor that waits from one that is filled.

    Args:
        seed: an integer for `keyed(seed)` along with it; None leaves the draws to torch's
            generators, each in its turn.

    Raises:
        TypeError: seed is not an integer.

    Reproducibility: the values are those without `deferred`, under `patch(seed=seed)`: keys are
    taken when an initialization is recorded. Products, sums and clamps by numbers become part of
    the law of what `erfinv_` made of a uniform draw, and agree with `patch` to rounding.

    It holds for the thread that enters it. Other threads, and C++ extensions that go past torch's
    dispatcher, must not look at the tensors before the end. On CUDA only what would run in the
    default stream waits, and so nothing while a graph is captured.

    Example:
        >>> import torch, fastinit
        >>> with fastinit.deferred(seed=0):
        ...     layer = torch.nn.Linear(5, 3)
        ...     w = torch.nn.init.normal_(layer.weight)  # the only one of the two to be drawn
        >>> torch.equal(w, fastinit.normal_(torch.empty(3, 5), key=fastinit.Key(0).fold_in(2)))
        True
    """

    _ends_in_any_thread = False  # its mode is on the stack of the one that entered

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self._seed = None if seed is None else Key(seed).seed

    def _begin(self) -> ExitStack:
        with ExitStack() as stack:
            stack.enter_context(patch())
            if self._seed is not None:
                stack.enter_context(keyed(self._seed))
            _acquire(stack)
            pending = waiting.current()
            if pending is None:
                pending = Pending()
                waiting.set_current(pending)
                stack.callback(waiting.set_current, None)
                stack.callback(pending.flush_all)
                stack.enter_context(Mode(pending))
            else:  # one order for all that waits in this thread
                stack.callback(pending.flush_all)
            return stack.pop_all()

    def _end(self, use: ExitStack) -> None:
        use.close()
