"""What `patch`, `keyed` and `deferred` have in common: with statement, decorator, many uses.

Owns which use ends where one object serves several threads, or itself inside. Must not know what a
use does.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Use = TypeVar("_Use")
_Self = TypeVar("_Self", bound="Scope")  # type: ignore[type-arg]


class Scope(Generic[_Use]):
    """An object that can be entered, and put over functions, any number of times."""

    _ends_in_any_thread = True

    def __init__(self) -> None:
        self._uses: list[tuple[int, _Use]] = []  # and the threads that began them
        self._lock = threading.Lock()

    def _begin(self) -> _Use:
        raise NotImplementedError

    def _end(self, use: _Use) -> None:
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        use = self._begin()
        with self._lock:
            self._uses.append((threading.get_ident(), use))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(self._last())

    def _last(self) -> _Use:
        """The last use of this thread; a generator may also end what it began in another."""
        with self._lock:
            for i in reversed(range(len(self._uses))):
                if self._uses[i][0] == threading.get_ident():
                    return self._uses.pop(i)[1]
            if self._uses and self._ends_in_any_thread:
                return self._uses.pop()[1]
        raise RuntimeError(
            f"{type(self).__name__}() was not entered in this thread; leave it where it was entered"
        )

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function`, with this scope around each call."""
        name = type(self).__name__
        if isinstance(function, type) or not callable(function):
            raise TypeError(
                f"{name}() decorates functions, got {function!r}; use it on the class's __init__"
            )
        lazy = (
            inspect.iscoroutinefunction,
            inspect.isgeneratorfunction,
            inspect.isasyncgenfunction,
        )
        if any(is_lazy(function) for is_lazy in lazy):
            raise TypeError(
                f"{name}() decorates functions that are done when they return, got {function!r}; "
                "use a with statement inside"
            )

        @functools.wraps(function)
        def scoped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self:
                return function(*args, **kwargs)

        return scoped
