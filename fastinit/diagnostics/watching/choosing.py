"""Which modules of a network are watched.

Owns the kinds of patterns that `include` takes. Must not know what is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from torch import nn

from fastinit.recipes.patterns import glob

Pattern: TypeAlias = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Patterns: TypeAlias = Pattern | list[Pattern] | tuple[Pattern, ...] | None

_PASSING = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)


def chosen(module: nn.Module, include: Patterns) -> Iterator[tuple[str, nn.Module]]:
    """The modules to watch, each once, and their names; that of the root is its class's."""
    blocks = {
        id(block)
        for part in module.modules()
        if isinstance(part, nn.ModuleList)
        for block in part.children()
    }
    patterns = include if isinstance(include, (list, tuple)) else [include]
    fits = [_fitting(pattern) for pattern in patterns] if include is not None else None
    for name, part in module.named_modules():
        if fits is not None:
            wanted = any(fit(name, part) for fit in fits)
        else:
            leaf = next(part.children(), None) is None and not isinstance(part, _PASSING)
            wanted = leaf or id(part) in blocks
        if wanted and not isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            yield name or type(module).__name__, part


def _fitting(pattern: object) -> Callable[[str, nn.Module], bool]:
    if isinstance(pattern, str):
        expression = re.compile(pattern[3:]) if pattern.startswith("re:") else glob(pattern)
        return lambda name, _: expression.fullmatch(name) is not None
    if isinstance(pattern, type) and issubclass(pattern, nn.Module):
        return lambda _, part: isinstance(part, pattern)
    if callable(pattern) and not isinstance(pattern, type):
        return lambda name, part: bool(pattern(name, part))
    raise TypeError(
        "include must be a glob, 're:...', a module class, a predicate (name, module) or a list "
        f"of these, got {pattern!r}"
    )
