"""Puts fastinit behind the initializers of torch for a while: `patch` and `unpatch`.

Owns what is changed in torch, that it is changed once however many ask for it, and that all of it
is undone. A function of torch.nn.init stays the object it is and gets other code, so that whoever
holds it is reached; a method or factory written in C is covered by an attribute. What stands in is
`_routes`'s; must not know how a tensor is filled.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType, SimpleNamespace, TracebackType
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.init
import torch.utils._device

from fastinit import _routes, init
from fastinit._keys import Key, close_scope, open_scope

_P = ParamSpec("_P")
_R = TypeVar("_R")

_STOCK = vars(torch.nn.init)
_STAND_INS = "_fastinit"  # the one name added to torch.nn.init; the swapped code looks it up
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "uniform_": init.uniform_,
    "normal_": init.normal_,
    "trunc_normal_": init.trunc_normal_,
    "xavier_uniform_": init.xavier_uniform_,
    "xavier_normal_": init.xavier_normal_,
    "kaiming_uniform_": init.kaiming_uniform_,
    "kaiming_normal_": init.kaiming_normal_,
    "orthogonal_": init.orthogonal_,
    "sparse_": init.sparse_,
    # Private, but imported by client code.
    "_no_grad_uniform_": init.uniform_,
    "_no_grad_normal_": init.normal_,
    "_no_grad_trunc_normal_": init.trunc_normal_,
}
_MISSING = object()


class _Change:
    """A change to torch that several may ask for: made for the first, undone after the last."""

    def __init__(self) -> None:
        self.users = 0

    def acquire(self) -> None:
        if self.users == 0:
            self.make()
        self.users += 1

    def release(self) -> None:
        self.users -= 1
        if self.users == 0:
            self.undo()

    def make(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        raise NotImplementedError


class _SwappedCode(_Change):
    """Other code in the function objects of torch.nn.init."""

    def __init__(self) -> None:
        super().__init__()
        self._swaps: list[tuple[FunctionType, CodeType, CodeType]] = []

    def make(self) -> None:
        if not self._swaps:
            self._prepare()
        _STOCK[_STAND_INS] = self._stand_ins
        for function, _, code in self._swaps:
            function.__code__ = code

    def undo(self) -> None:
        for function, original, _ in self._swaps:
            function.__code__ = original
        del _STOCK[_STAND_INS]

    def _prepare(self) -> None:
        self._stand_ins = SimpleNamespace()
        for name, ours in _FUNCTIONS.items():
            function = _function_of_stock(name)
            if function is not None:
                delegates = "handle_torch_function" in function.__code__.co_names
                stand_in = _routes.init_function(ours, _copy(function), delegates)
                setattr(self._stand_ins, name, stand_in)
                self._swaps.append((function, function.__code__, _jump(function)))


def _function_of_stock(name: str) -> FunctionType | None:
    """torch.nn.init's own function, whatever stands under its name at the moment."""

    def is_it(candidate: object) -> bool:
        return (
            isinstance(candidate, FunctionType)
            and candidate.__globals__ is _STOCK
            and candidate.__qualname__ == name
        )

    candidates = [_STOCK.get(name), *gc.get_referrers(_STOCK)] if name in _STOCK else []
    return next(filter(is_it, candidates), None)


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


def _jump(function: FunctionType) -> CodeType:
    """Code with the arguments of `function` that hands them to its stand-in.

    It gives itself out for the original's, for the sake of who looks for its source.
    """
    code = function.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    source = f"def {code.co_name}({names}): return {_STAND_INS}.{code.co_name}({names})"
    made: dict[str, Any] = {}
    exec(source, made)  # noqa: S102
    jump: CodeType = made[code.co_name].__code__
    return jump.replace(co_filename=code.co_filename, co_firstlineno=code.co_firstlineno)


class _CoveredMembers(_Change):
    """Attributes over methods of Tensor and factories of torch, which have no code to swap."""

    _COVERS: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (torch.Tensor, "normal_", _routes.tensor_normal),
        (torch.Tensor, "uniform_", _routes.tensor_uniform),
        (torch, "randn", functools.partial(_routes.factory, init.normal_)),
        (torch, "rand", functools.partial(_routes.factory, init.uniform_)),
        (torch, "randn_like", functools.partial(_routes.like_factory, init.normal_)),
        (torch, "rand_like", functools.partial(_routes.like_factory, init.uniform_)),
    )

    def make(self) -> None:
        _fill_caches_of_torch()
        self._covered = [
            (owner, name, vars(owner).get(name, _MISSING), getattr(owner, name))
            for owner, name, _ in self._COVERS
        ]
        self._modules = set(sys.modules)
        self._compiler_knew = _compiler_knows_torch()
        self._stock_of: dict[int, object] = {}
        for owner, name, make in self._COVERS:
            stock = getattr(owner, name)
            cover = self._while_in_force(make(stock), stock)
            self._stock_of[id(cover)] = stock
            setattr(owner, name, cover)

    def _while_in_force(
        self, stand_in: Callable[..., Any], stock: Callable[..., Any]
    ) -> Callable[..., Any]:
        """`stand_in`, which turns into `stock` for those who hold it beyond the patch."""

        @functools.wraps(stand_in)
        def cover(*arguments: Any, **named: Any) -> Any:
            return (stand_in if self.users else stock)(*arguments, **named)

        return cover

    def undo(self) -> None:
        for owner, name, own, _ in self._covered:
            if own is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        for name in sys.modules.keys() - self._modules:
            self._uncover(sys.modules.get(name))
        if _compiler_knows_torch() and not self._compiler_knew:
            sys.modules["torch._dynamo.trace_rules"].clear_lru_cache()

    def _uncover(self, module: ModuleType | None) -> None:
        """Give a module imported under the patch what it would have got without."""
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in self._stock_of:
                setattr(module, name, self._stock_of[id(value)])


def _fill_caches_of_torch() -> None:
    """Have torch remember its functions by identity before any is covered."""
    torch.utils._device._device_constructors()
    torch.overrides.get_ignored_functions()


def _compiler_knows_torch() -> bool:
    """Whether torch.compile has already looked up torch's functions by identity."""
    rules = sys.modules.get("torch._dynamo.trace_rules")
    cached = getattr(getattr(rules, "get_torch_obj_rule_map", None), "cache_info", None)
    return cached is not None and cached().currsize > 0


_lock = threading.RLock()
_swapped_code = _SwappedCode()
_covered_members = _CoveredMembers()


class _Application:
    """One patch in force, from its making until `undo`."""

    def __init__(self, seed: int | None, tensor_methods: bool) -> None:
        self._changes = [_swapped_code] + ([_covered_members] if tensor_methods else [])
        with _lock:
            for change in self._changes:
                change.acquire()
        self._scope = None if seed is None else open_scope(seed)

    def undo(self) -> None:
        if self._scope is not None:
            close_scope(self._scope)
        with _lock:
            for change in reversed(self._changes):
                change.release()


class patch:  # noqa: N801  (used like a function)
    """Have fastinit do the random initialization of code that calls torch's.

    Reached are the functions of `torch.nn.init`, wherever a reference to them was kept, and with
    `tensor_methods` also `Tensor.normal_`, `Tensor.uniform_`, `torch.randn`, `torch.rand` and
    their `_like` forms, where they are called through Tensor and torch. What fastinit does not
    take goes to stock: integer and sparse tensors, other devices, types with a `__torch_function__`
    or `__torch_dispatch__` of their own, and methods that autograd would record or refuse.

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
        self._options = (None if seed is None else Key(seed).seed, tensor_methods)
        self._thread = threading.get_ident()
        self._entered = threading.local()  # one object may serve several threads
        self._plain: _Application | None = _Application(*self._options)
        with _lock:
            _plain_calls.append(self)

    def __enter__(self) -> patch:
        application = self._take_back()
        if application is not None and self._thread != threading.get_ident():
            application.undo()
            application = None
        stack = self._entered.__dict__.setdefault("applications", [])
        stack.append(application or _Application(*self._options))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered.applications.pop().undo()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function`, under this patch at each call."""
        application = self._take_back()
        if application is not None:
            application.undo()
        if isinstance(function, type) or not callable(function):
            raise TypeError(
                f"patch() decorates functions, got {function!r}; use it on the class's __init__"
            )

        @functools.wraps(function)
        def patched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            application = _Application(*self._options)
            try:
                return function(*args, **kwargs)
            finally:
                application.undo()

        return patched

    def _take_back(self) -> _Application | None:
        """What the call itself applied, if it has neither been entered nor undone since."""
        with _lock:
            application, self._plain = self._plain, None
            if application is not None:
                _plain_calls.remove(self)
            return application


_plain_calls: list[patch] = []


def unpatch() -> None:
    """Undo the last plain call of `patch` that is in force; do nothing if there is none.

    Example:
        >>> import fastinit
        >>> handle = fastinit.patch()
        >>> fastinit.unpatch()
    """
    with _lock:
        application = _plain_calls[-1]._take_back() if _plain_calls else None
    if application is not None:
        application.undo()
