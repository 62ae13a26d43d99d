"""Changes to torch that many may ask for: made for the first, undone after the last.

Owns the count of who asks, and attributes that cover others for a while. What is covered, and with
what, is told by who changes it; must not know any initializer.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import torch
import torch.utils._device

Function: TypeAlias = Callable[..., Any]
Cover: TypeAlias = tuple[Any, str, Callable[[Function], Function]]  # owner, name, maker from stock

_MISSING = object()
_lock = threading.RLock()


class Change:
    """A change to torch, in force while anyone uses it."""

    def __init__(self) -> None:
        self.users = 0

    def acquire(self) -> None:
        with _lock:
            if self.users == 0:
                self.make()
            self.users += 1

    def release(self) -> None:
        with _lock:
            self.users -= 1
            if self.users == 0:
                self.undo()

    def make(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        raise NotImplementedError


class CoveredMembers(Change):
    """Attributes over methods of Tensor and functions of torch that have no code to swap."""

    def __init__(self, covers: Sequence[Cover], *, inert: bool = False) -> None:
        """`inert`: the stand-ins do what stock does by themselves while no change is in force."""
        super().__init__()
        self._covers = covers
        self._inert = inert

    def make(self) -> None:
        _fill_caches_of_torch()
        self._modules = set(sys.modules)
        self._compiler_knew = _compiler_knows_torch()
        self._covered: list[tuple[Any, str, object, Function]] = []
        self._stock_of: dict[int, Function] = {}
        for owner, name, make in self._covers:
            stock = getattr(owner, name)
            cover = self._while_in_force(make(stock), stock)
            self._covered.append((owner, name, vars(owner).get(name, _MISSING), cover))
            self._stock_of[id(cover)] = stock
            builtin = _builtins_of_scripts().get(id(stock))
            if builtin is not None:
                _builtins_of_scripts()[id(cover)] = builtin
            setattr(owner, name, cover)

    def _while_in_force(self, stand_in: Function, stock: Function) -> Function:
        """`stand_in`, which turns into `stock` for those who hold it beyond the change."""
        if self._inert:
            return stand_in

        @functools.wraps(stand_in)
        def cover(*arguments: Any, **named: Any) -> Any:
            return (stand_in if self.users else stock)(*arguments, **named)

        return cover

    def undo(self) -> None:
        for owner, name, own, cover in self._covered:
            _builtins_of_scripts().pop(id(cover), None)
            if vars(owner).get(name) is not cover:
                continue  # somebody else's by now, and theirs to restore
            if own is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        for name in sys.modules.keys() - self._modules:
            self._uncover(sys.modules.get(name))
        if _compiler_knows_torch() and not self._compiler_knew:
            sys.modules["torch._dynamo.trace_rules"].clear_lru_cache()

    def _uncover(self, module: ModuleType | None) -> None:
        """Give a module that was imported meanwhile what it would have got without the change."""
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in self._stock_of:
                setattr(module, name, self._stock_of[id(value)])


def _fill_caches_of_torch() -> None:
    """Have torch remember its functions by identity before any is covered."""
    torch.utils._device._device_constructors()
    torch.overrides.get_ignored_functions()
    torch.overrides.is_tensor_method_or_property(torch.Tensor.normal_)  # asks for all the others


def _builtins_of_scripts() -> dict[int, str]:
    """What torch.jit.script takes for an operator, by identity."""
    table: dict[int, str] = torch.jit._builtins._get_builtin_table()  # type: ignore[no-untyped-call]
    return table


def _compiler_knows_torch() -> bool:
    """Whether torch.compile has already looked up torch's functions by identity."""
    rules = sys.modules.get("torch._dynamo.trace_rules")
    cached = getattr(getattr(rules, "get_torch_obj_rule_map", None), "cache_info", None)
    return cached is not None and cached().currsize > 0
