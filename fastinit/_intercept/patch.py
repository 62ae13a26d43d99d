"""Puts fastinit behind the initializers of torch for a while: `patch` and `unpatch`.

Owns what is changed in torch, that it is changed once however many ask for it, and that all of it
is undone. A function of torch.nn.init stays the object it is and gets other code, so that whoever
holds it is reached; a method or factory written in C is covered by an attribute. What stands in is
`routes`'s; must not know how a tensor is filled.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from types import CodeType, FunctionType
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.init

from fastinit import init
from fastinit._fill.keys import Key, close_scope, open_scope
from fastinit._intercept import fresh, routes
from fastinit._intercept.changes import Change, CoveredMembers
from fastinit._intercept.scopes import Scope

_P = ParamSpec("_P")
_R = TypeVar("_R")

_STOCK = vars(torch.nn.init)
_stand_ins: dict[str, Callable[..., Any]] = {}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "uniform_": fresh.uniform_,
    "normal_": init.normal_,
    "trunc_normal_": init.trunc_normal_,
    "xavier_uniform_": init.xavier_uniform_,
    "xavier_normal_": init.xavier_normal_,
    "kaiming_uniform_": init.kaiming_uniform_,
    "kaiming_normal_": init.kaiming_normal_,
    "orthogonal_": init.orthogonal_,
    "sparse_": init.sparse_,
    # Private, but imported by client code.
    "_no_grad_uniform_": fresh.uniform_,
    "_no_grad_normal_": init.normal_,
    "_no_grad_trunc_normal_": init.trunc_normal_,
    # Not random, but so that code asking for the gain of a nonlinearity torch does not know runs.
    "calculate_gain": init.calculate_gain,
}


class _SwappedCode(Change):
    """Other code in the function objects of torch.nn.init."""

    def __init__(self) -> None:
        super().__init__()
        self._swaps: list[tuple[FunctionType, CodeType, CodeType]] = []

    def make(self) -> None:
        if not self._swaps:
            self._swaps = [
                (function, function.__code__, _jump(function, ours))
                for name, ours in _FUNCTIONS.items()
                if (function := _function_of_stock(name)) is not None
            ]
        for function, _, code in self._swaps:
            function.__code__ = code

    def undo(self) -> None:
        for function, original, _ in self._swaps:
            function.__code__ = original


def _function_of_stock(name: str) -> FunctionType | None:
    """torch.nn.init's own function, whatever stands under its name at the moment."""
    if name not in _STOCK:  # another torch
        return None
    for candidate in chain([_STOCK[name]], _referrers_of_stock()):
        if (
            isinstance(candidate, FunctionType)
            and candidate.__globals__ is _STOCK
            and candidate.__qualname__ == name
        ):
            return candidate
    return None


def _referrers_of_stock() -> Iterator[object]:
    yield from gc.get_referrers(_STOCK)  # looked for only when needed, as it takes its time


def _copy(function: FunctionType) -> FunctionType:
    """A function that goes on as before when `function` has other code."""
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _jump(function: FunctionType, ours: Callable[..., Any]) -> CodeType:
    """Code with the arguments of `function` that hands them to its stand-in.

    It finds the stand-in by an import: a name added to torch.nn.init would be gone too early for a
    thread that is inside when the patch ends, and torch.compile knows no functions as constants.
    It gives itself out for the original's, for the sake of who looks for its source.
    """
    code = function.__code__
    name, arguments = code.co_name, ", ".join(code.co_varnames[: code.co_argcount])
    delegates = "handle_torch_function" in code.co_names
    fills = name != "calculate_gain"
    _stand_ins[name] = (
        routes.init_function(name, ours, _copy(function), delegates) if fills else ours
    )
    made: dict[str, Any] = {}
    exec(
        f"def {name}({arguments}):\n"
        f"    from {__name__} import _stand_ins\n"
        f"    return _stand_ins[{name!r}]({arguments})",
        made,
    )
    jump: CodeType = made[name].__code__
    return jump.replace(co_filename=code.co_filename, co_firstlineno=code.co_firstlineno)


_lock = threading.RLock()  # of the plain calls
_swapped_code = _SwappedCode()
_covered_members = CoveredMembers(
    (
        (torch.Tensor, "normal_", routes.tensor_normal),
        (torch.Tensor, "uniform_", routes.tensor_uniform),
        (torch.Tensor, "erfinv_", routes.tensor_erfinv),
        (torch, "randn", functools.partial(routes.factory, init.normal_)),
        (torch, "rand", functools.partial(routes.factory, fresh.uniform_)),
        (torch, "normal", routes.normal_factory),
        (torch, "randn_like", functools.partial(routes.like_factory, init.normal_)),
        (torch, "rand_like", functools.partial(routes.like_factory, fresh.uniform_)),
    )
)


class _Application:
    """One patch in force, from its making until `undo`."""

    def __init__(self, seed: int | None, tensor_methods: bool) -> None:
        self._changes: list[Change] = [_swapped_code]
        if tensor_methods:
            self._changes.append(_covered_members)
        for change in self._changes:
            change.acquire()
        self._scope = None if seed is None else open_scope(seed)

    def undo(self) -> None:
        if self._scope is not None:
            close_scope(self._scope)
        for change in reversed(self._changes):
            change.release()


class patch(Scope[_Application]):  # noqa: N801  (used like a function)
    """Have fastinit do the random initialization of code that calls torch's.

    Reached are the functions of `torch.nn.init`, wherever a reference to them was kept, and with
    `tensor_methods` also `Tensor.normal_`, `Tensor.uniform_`, `torch.randn`, `torch.rand`, their
    `_like` forms and `torch.normal` of two numbers, where they are called through Tensor and torch;
    and `Tensor.erfinv_`, which makes a fresh uniform draw of fastinit's a truncated normal.
    What fastinit does not take goes to stock: integer and sparse tensors, other devices, types with
    a `__torch_function__` or `__torch_dispatch__` of their own, methods that autograd would record
    or refuse, and all that is drawn inside `vmap` and `grad`; also, with a warning, CUDA tensors in
    a build without CUDA.

    Use it in a with statement, as a decorator, or as a plain call that `unpatch` undoes. Patches
    nest; after the last, torch is as it was.

    Args:
        seed: an integer for `keyed(seed)` along with the patch; None leaves the draws to torch's
            generators.
        tensor_methods: whether to cover the methods and factories too.

    Raises:
        TypeError: seed is not an integer.

    Reproducibility: as in `fastinit.init`; `torch.manual_seed` and `generator=` keep their meaning,
    but the values are fastinit's. The patch holds for all threads, its seed for the context that
    applies it (see `keyed`).

    Example:
        >>> import torch, fastinit
        >>> with fastinit.patch(seed=0):
        ...     layer = torch.nn.Linear(5, 3)
        >>> key = fastinit.Key(0).fold_in(0)
        >>> w = fastinit.kaiming_uniform_(torch.empty(3, 5), a=5**0.5, key=key)
        >>> torch.equal(layer.weight, w)
        True
    """

    def __init__(self, *, seed: int | None = None, tensor_methods: bool = True) -> None:
        super().__init__()
        self._options = (None if seed is None else Key(seed).seed, tensor_methods)
        self._plain: _Application | None = _Application(*self._options)
        with _lock:
            _plain_calls.append(self)

    def _begin(self) -> _Application:
        application = _Application(*self._options)  # for the context at hand, whoever called
        self._end_plain()
        return application

    def _end(self, use: _Application) -> None:
        use.undo()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function`, under this patch at each call."""
        self._end_plain()
        return super().__call__(function)

    def _end_plain(self) -> None:
        """Undo what the call itself applied, if it has neither been entered nor undone since."""
        with _lock:
            application, self._plain = self._plain, None
            if application is not None:
                _plain_calls.remove(self)
                application.undo()


_plain_calls: list[patch] = []


def unpatch() -> None:
    """Undo the last plain call of `patch` that is in force; do nothing if there is none.

    Example:
        >>> import fastinit
        >>> handle = fastinit.patch()
        >>> fastinit.unpatch()
    """
    with _lock:
        if _plain_calls:
            _plain_calls[-1]._end_plain()
