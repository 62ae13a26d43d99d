"""What each operator means for initializations that wait.

Owns the dispatch mode, and for every operator the answer: to wait as well, to overwrite some, to
need only the shape, or, in all other cases, to need the values. Which of them matter and how they
run is `pending`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch.utils._python_dispatch import TorchDispatchMode

from fastinit._fill import laws
from fastinit._fill.keys import can_draw_key, key_from_generator
from fastinit._intercept import edits, fills
from fastinit._intercept import pending as waiting
from fastinit._intercept.pending import Call, Pending
from fastinit._intercept.routes import has_own_dispatch

Handler: TypeAlias = Callable[[Pending, Any, tuple[Any, ...], dict[str, Any]], Any]

aten = torch.ops.aten

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


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator of this thread before it runs."""

    supports_higher_order_operators = True

    def __init__(self, pending: Pending) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pending = pending

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper would import the compiler, and costs time; see below the class."""
        return False

    def __enter__(self) -> Mode:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._pending.depth = torch._C._len_torch_dispatch_stack()
        return self

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


# A compiled function that reads a tensor has its values made, and the compiler would trace how.
_SKIP = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, eval_frame._FrameAction.SKIP)
eval_frame.set_code_exec_strategy(Mode.__torch_dispatch__.__code__, _SKIP)


@functools.cache
def _handler(func: Any) -> Handler:
    if not isinstance(func, torch._ops.OpOverload):
        return _anything
    if func.namespace == "fastinit" and func._opname in laws.OPERATORS:
        return _random_fill
    if func in (torch.ops.fastinit.sparse_.default, torch.ops.fastinit.orthogonal_.default):
        return _lone_fill
    if func in (aten.zero_.default, aten.fill_.Scalar):
        return _constant_fill
    if func in _EDITS:
        return _edit
    if not _takes_tensors(func):
        return _unrelated
    if func.overloadpacket in _OVERWRITES:
        return _overwrite
    if func.overloadpacket in _SHAPE_ONLY:
        return _unrelated
    # Under inference_mode composites arrive whole, and those that may be a view may copy as well.
    return _unrelated if func.is_view and not func._can_decompose() else _use


def _takes_tensors(func: Any) -> bool:
    return any("Tensor" in str(argument.type) for argument in func._schema.arguments)


def _unrelated(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _anything(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator that may hold tensors in its body."""
    pending.flush_all()
    return func(*args, **kwargs)


def _use(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if pending:
        pending.observe(func, args)
        pending.flush(_tensors(args))
        pending.flush(_tensors(kwargs.values()))
    return func(*args, **kwargs)


def _overwrite(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not pending:
        return func(*args, **kwargs)
    target = args[0]
    if target.layout is not torch.strided or target.is_nested:  # no one place in one storage
        return _use(pending, func, args, kwargs)
    pending.flush(_tensors(args[1:]))
    pending.flush(_tensors(kwargs.values()))
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
    target, value = args[0], args[1] if len(args) > 1 else 0.0
    if kwargs or not fills.wait_constant(pending, target, value, bump=False):
        return _overwrite(pending, func, args, kwargs)
    return target


def _random_fill(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs or not fills.wait(pending, func._opname, args[0], args[1:]):
        return _overwrite(pending, func, args, kwargs)
    return None


def _lone_fill(pending: Pending, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A random fill that runs by itself, with three arguments before the stream."""
    args = args + (None,) * (9 - len(args))
    target, arguments, (generator, key, key_tensor, *region) = args[0], args[1:4], args[4:]
    draws_here = key is not None or key_tensor is not None
    draws_here = draws_here or can_draw_key(generator, target.device)
    on_device = any(isinstance(value, Tensor) for value in arguments)
    if kwargs or on_device or not draws_here or not pending.admits(target):
        return _overwrite(pending, func, args, kwargs)
    keys = None if key_tensor is None else fills.own_keys(pending, key_tensor)
    if key_tensor is not None and keys is None:
        return _overwrite(pending, func, args, kwargs)
    fills.validate(func._opname, target, args[1:])
    words = key
    if key is None and keys is None:
        words = key_from_generator(generator, target.device)
    pending.add_run(target, Call(func, (*arguments, None, words, keys, *region)))
    waiting.bump_version(target)
    return None


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments of an operator, in lists too."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)
