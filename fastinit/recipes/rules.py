"""Rules: a pattern and the initializer for what it fits, ready to use.

Owns `Rule`, `RuleBook` and the reading of rules as a user writes them. Must not know models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fastinit.initializers import Initializer
from fastinit.recipes.dimensions import Given
from fastinit.recipes.patterns import Matcher, matcher
from fastinit.recipes.roles import roles_of

Rules: TypeAlias = Mapping[Any, Initializer] | Iterable[tuple[Any, Initializer]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a recipe says of the parameters that a pattern fits.

    Args:
        pattern: as the user gave it.
        initializer: what fills them.
        text: the pattern as a table shows it.
        optional: whether it is no error that it matches nothing: rules of a preset, which serves
            many models, and of a base.
        matcher: the pattern, compiled.
    """

    pattern: Any
    initializer: Initializer
    text: str
    optional: bool = False
    matcher: Matcher = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True, init=False)
class RuleBook:
    """What a recipe comes to: its rules in order, and what it says of roles and dimensions."""

    rules: tuple[Rule, ...]
    added: tuple[tuple[Matcher, str], ...]
    depth: Given
    width: Given
    head_dim: Given
    layers: str | None
    name: str


def read_rules(rules: Rules, optional: bool) -> tuple[Rule, ...]:
    """The rules of a mapping or of pairs, in their order.

    Raises:
        TypeError: neither a mapping nor pairs, a pattern of no known kind, no initializer.
    """
    if not isinstance(rules, Mapping) and isinstance(rules, (str, bytes)):
        raise TypeError(f"rules must be a mapping from patterns to initializers, got {rules!r}")
    try:
        pairs = [
            (pattern, initializer)
            for pattern, initializer in (rules.items() if isinstance(rules, Mapping) else rules)
        ]
    except (TypeError, ValueError):
        raise TypeError(
            f"rules must be a mapping from patterns to initializers, or pairs of these, got "
            f"{rules!r}"
        ) from None
    return tuple(_rule(pattern, initializer, optional) for pattern, initializer in pairs)


def _rule(pattern: Any, initializer: object, optional: bool) -> Rule:
    compiled = matcher(pattern, roles_of)
    if not isinstance(initializer, Initializer):
        raise TypeError(
            f"the rule for {compiled.text} must be an initializer, got {initializer!r} "
            f"({type(initializer).__name__}); pass one of fastinit.initializers, such as "
            "Normal(0.02), Zeros() or Keep()"
        )
    return Rule(pattern, initializer, compiled.text, optional, matcher=compiled)
