"""Real packages whose models the patch must serve, and what counts what they draw."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class CountedDraws(TorchDispatchMode):
    """Counts the random operators that run, by name: torch's own in `stock`, ours in `ours`."""

    def __init__(self) -> None:
        super().__init__()
        self.stock: Counter[str] = Counter()
        self.ours: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.OpOverload):
            if func.namespace == "fastinit":
                self.ours[func._opname] += 1
            elif torch.Tag.nondeterministic_seeded in func.tags:
                self.stock[func._opname] += 1
        return func(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    """Notes the functions that a mode is shown, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def transformers() -> ModuleType:
    _declare_operators_of_torchvision()
    return pytest.importorskip("transformers")


def torchvision() -> ModuleType:
    _declare_operators_of_torchvision()
    return pytest.importorskip("torchvision", exc_type=Exception)


def timm() -> ModuleType:
    _declare_operators_of_torchvision()
    return pytest.importorskip("timm", exc_type=Exception)


def _declare_operators_of_torchvision() -> None:
    """Have it import even where its compiled part was built for another torch: that takes two
    operators declared, of which models that are only constructed run none.
    """
    for name in ("nms", "qnms"):
        with suppress(RuntimeError):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )


def state_of(*modules: str) -> dict[tuple[str, str], tuple[object, ...]]:
    """Every attribute of these modules and classes by identity, functions with all they hold.

    The objects themselves are part of it, so that no address can be used anew.
    """
    state: dict[tuple[str, str], tuple[object, ...]] = {}
    for path in modules:
        owner: Any = torch.Tensor if path == "torch.Tensor" else importlib.import_module(path)
        for name, value in list(vars(owner).items()):
            held: tuple[object, ...] = (value,)
            if isinstance(value, FunctionType):
                held += (value.__code__, value.__defaults__, value.__kwdefaults__)
                held += (*value.__dict__.items(), value.__closure__)
            state[path, name] = held
    return state


def changes(
    before: dict[tuple[str, str], tuple[object, ...]],
    after: dict[tuple[str, str], tuple[object, ...]],
) -> list[tuple[str, str]]:
    """The names whose value is not the same object, or is there only once."""

    def same(name: tuple[str, str]) -> bool:
        if name not in before or name not in after or len(before[name]) != len(after[name]):
            return False
        return all(
            a is b or (isinstance(a, tuple) and a == b)
            for a, b in zip(before[name], after[name], strict=True)
        )

    return [name for name in {**before, **after} if not same(name)]


@contextmanager
def unchanged(*modules: str) -> Iterator[None]:
    """Asserts that none of these modules and classes is changed inside."""
    before = state_of(*modules)
    yield
    assert changes(before, state_of(*modules)) == []
