"""Deferred initialization: `deferred`, and how it notices that a value is wanted.

Owns what each operation on tensors means for initializations that wait: to wait as well, to
overwrite some, to need only the shape, or, in all other cases, to need the values. Which of them
matter and how they run is `pending`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from fastinit._fill import laws, orthogonal
from fastinit._fill.keys import Key, can_draw_key, key_from_generator
from fastinit._intercept import edits
from fastinit._intercept import pending as waiting
from fastinit._intercept.changes import CoveredMembers
from fastinit._intercept.keyed import keyed
from fastinit._intercept.patch import patch
from fastinit._intercept.pending import Call, Pending
from fastinit._intercept.routes import has_own_dispatch
from fastinit._intercept.scopes import Scope

Handler: TypeAlias = Callable[[Pending, Any, tuple[Any, ...], dict[str, Any]], Any]

aten = torch.ops.aten
_empty = torch.empty  # also while a library has its own in torch

# These look at the shape of their argument only. So do views.
_SHAPE_ONLY = {
    aten.empty_like,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.rand_like,
    aten.randn_like,
    aten.new_empty,
    aten.new_empty_strided,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.is_same_size,
}
# These write every element of their first argument and read none.
_OVERWRITES = {
    aten.copy_,
    aten.fill_,
    aten.zero_,
    aten.normal_,
    aten.uniform_,
    aten.log_normal_,
    aten.exponential_,
    aten.cauchy_,
    aten.geometric_,
    aten.random_,
}


# These edit their first argument, element by element.
_EDITS = {
    aten.mul_.Tensor: edits.mul,
    aten.add_.Tensor: edits.add,
    aten.clamp_.default: edits.clamp,
}


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator of this thread before it runs."""

    supports_higher_order_operators = True

    def __init__(self, pending: Pending) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pending = pending

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for kind in types:
            if has_own_dispatch(kind):
                if not kind.__module__.startswith("torch._subclasses"):
                    return NotImplemented  # its own ways first; what it does comes back here
                if kind.__name__ != "FakeTensor":  # which holds no values
                    self._pending.flush_all()
                return func(*args, **kwargs)
        if self._pending.busy:
            return func(*args, **kwargs)
        return _handler(func)(self._pending, func, args, kwargs)


@functools.cache
def _handler(func: Any) -> Handler:
    if not isinstance(func, torch._ops.OpOverload):
        return _anything
    if func.namespace == "fastinit" and func._opname in laws.OPERATORS:
        return _random_fill
    if func is torch.ops.fastinit.sparse_.default:
        return _sparse_fill
    if func in (aten.zero_.default, aten.fill_.Scalar):
        return _constant_fill
    if func in _EDITS:
        return _edit
    if func.overloadpacket in _OVERWRITES:
        return _overwrite
    if func.overloadpacket in _SHAPE_ONLY:
        return _unrelated
    # Under inference_mode composites arrive whole, and those that may be a view may copy as well.
    return _unrelated if func.is_view and not func._can_decompose() else _use


def _unrelated(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _anything(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator that may hold tensors in its body."""
    pending.flush_all()
    return func(*args, **kwargs)


def _use(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if pending:
        pending.flush(_tensors((args, kwargs)))
    return func(*args, **kwargs)


def _overwrite(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not pending:
        return func(*args, **kwargs)
    target = args[0]
    if target.layout is not torch.strided or target.is_nested:  # no one place in one storage
        return _use(pending, func, args, kwargs)
    pending.flush(_tensors((args[1:], kwargs)))
    if not pending.survives_write(target):
        pending.flush([target])
    result = func(*args, **kwargs)
    pending.overwritten(target)  # not before: it may have been refused
    return result


def _edit(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    if pending and not kwargs and target.layout is torch.strided and not target.is_nested:
        edit, numbers = _EDITS[func], args[1:]
        if pending.edit(target, lambda law: edit(law, *numbers)):
            return target
    return _use(pending, func, args, kwargs)


def _constant_fill(
    pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    target, value = args[0], args[1:]  # nothing for zero_
    if kwargs or not target.dtype.is_floating_point or not pending.accepts(target):
        return _overwrite(pending, func, args, kwargs)
    func(_empty(2, dtype=target.dtype), *value)  # refuses a value out of range
    pending.add_run(target, Call(func, value))
    return target


def _random_fill(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    law_of, count = laws.OPERATORS[func._opname]
    args = args + (None,) * (count + 5 - len(args))
    target, arguments, (generator, key, key_tensor, *region) = args[0], args[1:count], args[count:]
    draws_here = key is not None or can_draw_key(generator, target.device)
    on_device = key_tensor is not None or any(isinstance(value, Tensor) for value in arguments)
    if kwargs or on_device or not draws_here or not pending.accepts(target):
        return _overwrite(pending, func, args, kwargs)
    _validate(func, args)
    law = law_of(target, *arguments, region=None if region[0] is None else tuple(region))
    pending.add_fill(target, law, key or key_from_generator(generator, target.device))
    waiting.bump_version(target)
    return None


def _sparse_fill(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = args + (None,) * (9 - len(args))
    target, arguments, (generator, key, key_tensor, *region) = args[0], args[1:4], args[4:]
    draws_here = key is not None or can_draw_key(generator, target.device)
    on_device = key_tensor is not None or arguments[2] is not None
    if kwargs or on_device or not draws_here or not pending.accepts(target):
        return _overwrite(pending, func, args, kwargs)
    _validate(func, args)
    words = key or key_from_generator(generator, target.device)
    pending.add_run(target, Call(func, (*arguments, None, words, None, *region)))
    waiting.bump_version(target)
    return None


def _postpone(tensor: Tensor, make: Callable[[], Callable[[Tensor], None]]) -> bool:
    """Record what `make` gives, if this tensor's initialization may wait."""
    pending = waiting.current()
    if pending is None or not pending.accepts(tensor):
        return False
    pending.add_run(tensor, make())
    waiting.bump_version(tensor)
    return True


orthogonal.postpone = _postpone


def _validate(func: Any, args: tuple[Any, ...]) -> None:
    """Refuse what the fill would refuse; it checks a meta tensor like any other."""
    target = args[0]
    with torch._C._DisableTorchDispatch():  # nothing is drawn: modes need not see it
        meta = torch.empty_strided(target.shape, target.stride(), dtype=target.dtype, device="meta")
        func(meta, *args[1:])


def _tensors(arguments: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor))


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


_covered_methods = CoveredMembers(
    [(torch.Tensor, "__repr__", _showing)]
    + [
        (torch.Tensor, name, _exposing)
        for name in ("data_ptr", "const_data_ptr", "numpy", "tolist", "untyped_storage")
        if hasattr(torch.Tensor, name)
    ]
    + [(torch.Tensor, "__dlpack__", _exposing)]
    + [(owner, "to_dlpack", _exposing) for owner in (torch, torch.utils.dlpack)]
)


@contextmanager
def recording(pending: Pending) -> Iterator[None]:
    """Under the patch, have the initializations of this thread wait in `pending`, and leave there
    what waits at the end. What else is deferred, or watched by dispatch modes, has no part in it.
    """
    outer = waiting.current()
    with _disable_current_modes(), patch(), ExitStack() as stack:
        _covered_methods.acquire()
        stack.callback(_covered_methods.release)
        waiting.set_current(pending)
        stack.callback(waiting.set_current, outer)
        stack.enter_context(_Mode(pending))
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
            _covered_methods.acquire()
            stack.callback(_covered_methods.release)
            pending = waiting.current()
            if pending is None:
                pending = Pending()
                waiting.set_current(pending)
                stack.callback(waiting.set_current, None)
                stack.callback(pending.flush_all)
                stack.enter_context(_Mode(pending))
            else:  # one order for all that waits in this thread
                stack.callback(pending.flush_all)
            return stack.pop_all()

    def _end(self, use: ExitStack) -> None:
        use.close()
