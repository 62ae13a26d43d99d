"""Resolving: the numbers of a law for one parameter, found once for all that are alike.

Owns what a module's type says of a weight's layout, the parts of packed parameters and the keys
they stand for. Must not know names of models, nor match rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils import parametrize

from fastinit._fill.extension import DTYPES
from fastinit.initializers import Initializer, Keep, Native
from fastinit.initializers.base import Part
from fastinit.initializers.layout import LaidOut
from fastinit.recipes.dimensions import Dimensions
from fastinit.recipes.matching import Match
from fastinit.recipes.names import Found, written_type
from fastinit.recipes.patterns import Role
from fastinit.recipes.record import Settled
from fastinit.recipes.roles import GROUPS, TRANSPOSED_TYPES, TRANSPOSED_WEIGHTS
from fastinit.recipes.rules import Rule

_DIMENSIONS = frozenset({"depth", "layer", "width", "head_dim"})
_OWN_TENSORS = ("weight", "bias")  # behind the name of a module; other names are their own


class _Needs(NamedTuple):
    """What the numbers of a rule's initializer depend on, besides a shape."""

    dimensions: frozenset[str]
    fans: bool


class Resolver:
    """Finds the numbers of laws, each once.

    Args:
        rules: of the recipe.
        dimensions: of the model.
    """

    def __init__(self, rules: Sequence[Rule], dimensions: Dimensions) -> None:
        self.rules = rules
        self._dimensions = dimensions
        self._needs = [_needs(rule.initializer) for rule in rules]
        self._settled: dict[tuple[Any, ...], tuple[Settled, ...]] = {}

    def settle(self, match: Match, found: Found) -> tuple[Settled, ...]:
        """The laws of a parameter: one, or one for each of its parts.

        Raises:
            ValueError: a value that an expression needs is not known; a law that the shape or the
                dtype does not have.
        """
        at = match.rule
        assert at is not None
        needs = self._needs[at]
        module = found.site.link[0]
        values = self._dimensions.values(found, needs.dimensions) if needs.dimensions else {}
        weight = _sibling(found) if needs.fans and len(found.shape) < 2 else None
        padding = module.__dict__.get("padding_idx") if found.local == "weight" else None
        key = (match, found.kind, type(module), weight, padding, *values.values())
        settled = self._settled.get(key)
        if settled is None:
            try:
                settled = self._settle(at, match.role, found, values, weight, padding)
            except (ValueError, TypeError) as error:
                raise type(error)(
                    f"{found.name}, {tuple(found.shape)}, rule {self.rules[at].text!r}: {error}"
                ) from None
            self._settled[key] = settled
        return settled

    def _settle(
        self,
        at: int,
        role: str | None,
        found: Found,
        values: dict[str, float],
        weight: tuple[int, ...] | None,
        padding: int | None,
    ) -> tuple[Settled, ...]:
        rule, shape = self.rules[at], tuple(found.shape)
        initializer = _laid_out(rule, role, found)
        _refuse_dtype(initializer, found)
        parts = initializer.pieces(shape)
        is_complex = found.parameter.dtype.is_complex
        text = f"role {role}" if isinstance(rule.pattern, Role) else rule.text

        def numbers(one: Initializer, shape: tuple[int, ...], part: Part | None) -> Settled:
            resolved = one.resolve(shape, weight=weight, **values)
            law = resolved.law(shape, is_complex)
            if law is None and not isinstance(one, (Keep, Native)):  # it may refuse the shape
                resolved(torch.empty(shape, dtype=found.parameter.dtype, device="meta"), key=0)
            _, std, low, high = resolved.numbers(shape, is_complex)
            row = padding if part is None and not isinstance(one, (Keep, Native)) else None
            note = f"part {part.name}" if part is not None else ""
            note = f"row {row} is padding: 0" if row is not None else note
            return Settled(rule.initializer, resolved, law, std, low, high, text, part, note, row)

        if not parts:
            return (numbers(initializer, shape, None),)
        return tuple(numbers(part.initializer, part.shape, part) for part in parts)


def _needs(initializer: Initializer) -> _Needs:
    names = initializer.variables
    return _Needs(names & _DIMENSIONS, bool(names - _DIMENSIONS))


def _laid_out(rule: Rule, role: str | None, found: Found) -> Initializer:
    """The initializer with the layout that the module's type and the role tell.

    Conv1D keeps (in, out). A rule that speaks of roles knows experts by their first axis.
    """
    initializer = rule.initializer
    if not isinstance(initializer, LaidOut):
        return initializer
    changed: dict[str, Any] = {}
    kind = written_type(type(found.site.link[0])).__name__
    exchanged = kind in TRANSPOSED_TYPES or (kind, found.local) in TRANSPOSED_WEIGHTS
    if initializer.transposed is None and exchanged:
        changed["transposed"] = True
    packed = role in GROUPS["experts"] and len(found.shape) == 3
    if packed and isinstance(rule.pattern, Role) and initializer.batch_axis == ():
        changed["batch_axis"] = 0
    return dataclasses.replace(initializer, **changed) if changed else initializer


def _sibling(found: Found) -> tuple[int, ...] | None:
    """The shape of the weight that a bias belongs to."""
    module = found.site.link[0]
    for name in (found.local.replace("bias", "weight"), found.local.removesuffix("_bias")):
        if name != found.local:
            weight = module._parameters.get(name)
            if weight is not None:
                return tuple(weight.shape)
            if parametrize.is_parametrized(module, name):
                return tuple(getattr(module, name).shape)
    return None


def _refuse_dtype(initializer: Initializer, found: Found) -> None:
    filled = not isinstance(initializer, (Keep, Native)) and not hasattr(initializer, "value")
    if filled and found.parameter.dtype not in DTYPES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES))
        raise TypeError(
            f"no law fills {found.parameter.dtype}; it takes one of {known}, or a rule with Keep()"
        )


def part_key(name: str, part: str) -> str:
    """The name of the parameter that a part stands for.

    The part's name takes the place of the module's: part wq of attention.wqkv.weight stands for
    attention.wq.weight; of a parameter with a name of its own, as experts.gate_up_proj, that of
    the parameter: experts.gate_proj.
    """
    steps = name.split(".")
    at = -2 if len(steps) > 1 and steps[-1] in _OWN_TENSORS else -1
    steps[at] = part
    return ".".join(steps)
