"""Wanted: how large the output of each layer should be, by what a caller says and by roles.

Owns the default targets, which slices a packed projection has, and why a layer is left alone. Must
not know data, nor how a scale is found.

Source: one for all layers is LSUV's (Mishkin & Matas, "All you need is a good init", 2016). In a
transformer the branches that are added to the residual stream get 1 / sqrt(2 depth), so that all of
them together add 1 (Radford et al., "Language models are unsupervised multitask learners", 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from fastinit.diagnostics.calibration.layers import Layer
from fastinit.initializers import Keep, Normal
from fastinit.initializers.expressions import Expression, depth, sqrt
from fastinit.recipes.names import nearest
from fastinit.recipes.patterns import Role, matcher
from fastinit.recipes.plan import Plan
from fastinit.recipes.recipe import Numbers, Recipe
from fastinit.recipes.roles import GROUPS, roles_of

# A std, an expression for one, None to leave a layer alone, or for each slice of a packed
# projection how many outputs it has and a std or None.
Target: TypeAlias = float | Expression | Sequence[tuple[int, float | None]] | None
Targets: TypeAlias = Mapping[Any, Target]

_LEFT = {
    "query": "sets the softmax",
    "key": "sets the softmax",
    "router": "sets where tokens go",
    "head": "sets the first loss",
    "embedding": "embedding",
    "position": "embedding",
    "relative_position": "embedding",
    "token": "embedding",
}
_OUT = Role("residual_out")
# Packed projections whose slices are not one behind the other, but interleaved by head.
_INTERLEAVED = frozenset({"query_key_value", "linear_qkv", "wqkv"})
_INTERLEAVED_OWNERS = frozenset({"CodeGenAttention"})
_KEY_VALUE = frozenset({"kv", "kv_proj", "to_kv"})
_GATE_UP = frozenset({"gate_up_proj", "w12"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a layer should put out.

    Args:
        sizes: the number of outputs of each slice.
        targets: the std of each, None where it is left alone.
        role: that its weight plays; None if unknown.
        asked: whether the caller said so, so that it holds whatever follows the layer.
        note: why slices are left alone.
    """

    sizes: tuple[int, ...]
    targets: tuple[float | None, ...]
    role: str | None
    asked: bool = False
    note: str = ""


class Wishes:
    """The targets of a model's layers.

    Args:
        module: the model.
        targets: what the caller says, by pattern.
        numbers: values for the depth, as `Recipe` takes them.

    Raises:
        TypeError, ValueError: a target or pattern of no known kind; a pattern that matches nothing;
            a depth that is ambiguous.
    """

    def __init__(self, module: nn.Module, targets: Targets | None, numbers: Numbers) -> None:
        if targets is not None and not isinstance(targets, Mapping):
            raise TypeError(
                f"targets must map patterns to standard deviations, got {targets!r}; pass such as "
                "{'**.fc1.weight': 1.0, '**.fc2.weight': None}"
            )
        asked = {
            matcher(pattern, roles_of).text: _checked(pattern, target)
            for pattern, target in (targets or {}).items()
        }
        rules = [(pattern, _law(target)) for pattern, target in (targets or {}).items()]
        told = Recipe([("**", Keep())], partial=True).explain(module)
        self.by_role = any(record.role in _ATTENTION for record in told)
        ours = [(_OUT, Normal(1 / sqrt(2 * depth)))] if self.by_role else []
        base = Recipe([*ours, ("**", Keep())], partial=True)
        plan: Plan = Recipe(rules, base=base, depth=numbers).explain(module, strict=True)
        self._records = {id(record.parameter): record for record in plan}
        self._asked = asked

    def of(self, layer: Layer) -> Wanted:
        """What is wanted of a layer.

        Raises:
            ValueError: slices that are not those of the layer.
        """
        record = self._records[id(layer.weight)]
        role = record.role if self.by_role else None
        if record.rule in self._asked:
            return _as_asked(layer, role, self._asked[record.rule], record.std)
        if not layer.weight.requires_grad:
            return Wanted((layer.channels,), (None,), role, note="frozen")
        if role in _LEFT:
            return Wanted((layer.channels,), (None,), role, note=_LEFT[role])
        if role == "qkv":
            return _packed(layer)
        target = record.std if role in GROUPS["residual_out"] and self.by_role else 1.0
        slices = layer.groups
        if layer.name.split(".")[-2:-1] and layer.name.split(".")[-2] in _GATE_UP:
            slices = 2
        return Wanted((layer.channels // slices,) * slices, (target,) * slices, role)

    def of_another(self, parameter: Tensor, why: str) -> tuple[str | None, str]:
        """The role of a parameter that no layer has, and why it is left alone."""
        record = self._records.get(id(parameter))
        role = record.role if record is not None and self.by_role else None
        return role, _LEFT.get(role or "", why)


_ATTENTION = frozenset({*GROUPS["attention_in"], "attention_out"})


def _checked(pattern: Any, target: Target) -> Target:
    parts = list(target) if isinstance(target, (list, tuple)) else [(1, target)]
    for part in parts:
        if not isinstance(part, (list, tuple)) or len(part) != 2 or not _is_size(part[0]):
            raise TypeError(
                f"targets[{pattern!r}] must give (outputs, std) for each slice, got {part!r}"
            )
        std = part[1]
        if std is None or isinstance(std, Expression):
            continue
        if isinstance(std, bool) or not isinstance(std, (int, float)):
            raise TypeError(
                f"targets[{pattern!r}] must be a number, an expression or None, got {std!r}"
            )
        if not (math.isfinite(std) and std > 0):
            raise ValueError(f"targets[{pattern!r}] must be above 0 and finite, got {std!r}")
    return target


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _law(target: Target) -> Any:
    """The target as a law, so that the numbers of its expressions are found as those of laws."""
    if target is None or isinstance(target, (list, tuple)):
        return Keep()
    return Normal(target)  # type: ignore[arg-type]


def _as_asked(layer: Layer, role: str | None, target: Target, std: float | None) -> Wanted:
    if target is None:
        return Wanted((layer.channels,), (None,), role, True, "as asked")
    if isinstance(target, (list, tuple)):
        sizes, targets = zip(*target, strict=True)
        if sum(sizes) != layer.channels or layer.groups > 1:
            raise ValueError(
                f"targets give {layer.name} slices of {' + '.join(map(str, sizes))} outputs, but "
                f"it has {layer.channels} in {layer.groups} group(s)"
            )
        return Wanted(sizes, targets, role, True, "in part as asked" if None in targets else "")
    slices = layer.groups
    return Wanted((layer.channels // slices,) * slices, (std,) * slices, role, True)


def _packed(layer: Layer) -> Wanted:
    """Of packed projections the values alone have a target; the slices have to be known for it."""
    step = layer.name.split(".")[-2] if "." in layer.name else ""
    owner = layer.site.link[1]
    mixed = owner is not None and type(owner[0]).__name__ in _INTERLEAVED_OWNERS
    sizes: tuple[int, ...] = ()
    if step in _KEY_VALUE and layer.channels % 2 == 0:
        sizes = (layer.channels // 2,) * 2
    elif step not in _INTERLEAVED and not mixed:
        sizes = _thirds(layer)
    if not sizes:
        note = "packed, order unknown"
        return Wanted((layer.channels,), (None,), "qkv", note=note)
    left = (None,) * (len(sizes) - 1)
    return Wanted(sizes, (*left, 1.0), "qkv", note=_LEFT["query"])


def _thirds(layer: Layer) -> tuple[int, ...]:
    """The sizes of q, k and v one behind the other; with fewer heads for k and v by the config."""
    config = nearest(layer.site.link, "config")
    heads = int(getattr(config, "num_attention_heads", None) or 0)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    if shared != heads:
        size = layer.channels // (heads + 2 * shared)
        told = getattr(config, "head_dim", None) or size
        sizes = (heads * size, shared * size, shared * size)
        return sizes if told == size and sum(sizes) == layer.channels else ()
    return (layer.channels // 3,) * 3 if layer.channels % 3 == 0 else ()
