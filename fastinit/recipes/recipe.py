"""Recipes: an ordered mapping from patterns to initializers, complete or refused.

Owns `Recipe`, how recipes stand behind one another, and the names of presets. Must not know how a
plan is made, nor what a preset says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
from torch import nn

from fastinit.recipes.dimensions import given
from fastinit.recipes.names import Found, Site, template_of
from fastinit.recipes.patterns import matcher
from fastinit.recipes.plan import Plan, plan
from fastinit.recipes.roles import RoleTable, added_roles, roles_of
from fastinit.recipes.rules import Rule, RuleBook, Rules, read_rules

Numbers: TypeAlias = float | Mapping[Any, float] | None

# By name: functions without obligatory arguments that return a recipe. `presets` fills it.
PRESETS: dict[str, Callable[..., Recipe]] = {}


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Recipe(RuleBook):
    """What to fill the parameters of a model with, by name, module class or role.

    The first rule that fits decides, and nothing else does. Names are those of the bare model,
    without the steps of wrappers. A parameter without a rule and a rule that matches nothing are
    errors where the recipe is used.

    Args:
        rules: an ordered mapping, or pairs, from pattern to initializer. A pattern is a glob over
            the dotted name (`*` within a part, `**` across, `{a,b}`), "re:..." (a regular
            expression for the whole name), a module class (for the parameters that such a module
            owns), a (class, parameter name) pair, a predicate (name, module, parameter) or a
            `Role`.
        base: a recipe, or a preset's name, whose rules stand behind these.
        roles: {pattern: role}, to add to what `fastinit.recipes.roles` tells, or to correct it.
        depth, width, head_dim: values of these variables, for the whole model or as {pattern:
            value}; by default they are read off the model.
        layers: a glob for the names of the lists whose blocks count for depth and layer, where a
            model has several.
        partial: whether rules that match nothing are no errors, as in recipes for many models.
        name: for messages.

    Raises: TypeError or ValueError, naming the rule or argument.

    Example:
        >>> from fastinit.initializers import Normal
        >>> from fastinit.recipes import Recipe, depth, gpt2, sqrt
        >>> recipe = Recipe({"**.c_proj.weight": Normal(0.01 / sqrt(depth))}, base=gpt2())
    """

    def __init__(
        self,
        rules: Rules,
        base: Recipe | str | None = None,
        *,
        roles: Mapping[Any, str] | None = None,
        depth: Numbers = None,
        width: Numbers = None,
        head_dim: Numbers = None,
        layers: str | None = None,
        partial: bool = False,
        name: str = "",
    ) -> None:
        own = read_rules(rules, partial)
        behind = resolve_recipe(base, "base") if base is not None else None
        if behind is not None:
            own += tuple(replace(rule, optional=True) for rule in behind.rules)
        if layers is not None and not isinstance(layers, str):
            raise TypeError(f"layers must be a glob, got {layers!r}; pass such as '**.layers'")
        values: dict[str, Any] = {
            "rules": own,
            "added": added_roles(roles) + (behind.added if behind is not None else ()),
            "layers": layers if layers is not None or behind is None else behind.layers,
            "name": name or (behind.name if behind is not None else ""),
        }
        for word, value in {"depth": depth, "width": width, "head_dim": head_dim}.items():
            told = given(word, value, lambda pattern: matcher(pattern, roles_of))
            inherited = getattr(behind, word) if told is None and behind is not None else None
            values[word] = told if told is not None else inherited
        for word, value in values.items():
            object.__setattr__(self, word, value)

    def match(self, name: str, module: nn.Module, parameter: torch.Tensor) -> Rule | None:
        """The rule for one parameter.

        Args:
            name: in the bare model.
            module: that owns it.
            parameter: the tensor.

        Returns: the first rule that fits, or None.
        """
        prefix, _, local = name.rpartition(".")
        site = Site(prefix, template_of(prefix), (module, None), ())
        found = Found(name, local, site, parameter, parameter.shape, False)
        role_of = RoleTable(self.added).role
        return next((rule for rule in self.rules if rule.matcher.matches(found, role_of)), None)

    def explain(self, module: nn.Module, *, strict: bool = False) -> Plan:
        """What the recipe would do to a model, without doing it; works on meta.

        Args:
            module: the model.
            strict: whether parameters without a rule, and rules that match nothing, are errors, as
                they are where the recipe is used; else the plan's warnings tell them.

        Returns: a plan: one record for each parameter; printed, a table.

        Raises: ValueError for what else makes the recipe unfit for the model; see
            `fastinit.recipes.plan`.

        Example:
            >>> import torch
            >>> from fastinit.initializers import Normal, Zeros
            >>> from fastinit.recipes import Recipe, fan_in, sqrt
            >>> recipe = Recipe({"weight": Normal(1 / sqrt(fan_in)), "bias": Zeros()})
            >>> print(recipe.explain(torch.nn.Linear(4, 3, device="meta")))
            name   | shape | law                            | rule
            weight | 3 x 4 | Normal(1 / sqrt(fan_in) = 0.5) | weight
            bias   | 3     | Zeros()                        | bias
        """
        return plan(module, self, strict=strict)

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        lines = [f"  {rule.text}: {rule.initializer!r}" for rule in self.rules]
        return "\n".join([f"<Recipe{name}", *lines, ">"])


def resolve_recipe(recipe: Recipe | str, argument: str = "recipe") -> Recipe:
    """The recipe that a recipe or a preset's name stands for.

    Args:
        recipe: either.
        argument: its name in messages.

    Raises:
        TypeError: neither.
        ValueError: no preset of that name; the nearest names are told.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise TypeError(
            f"{argument} must be a Recipe or a preset's name, got {recipe!r} "
            f"({type(recipe).__name__}); a mapping becomes one by fastinit.recipes.Recipe(mapping)"
        )
    if recipe not in PRESETS:
        near = get_close_matches(recipe.lower(), PRESETS, n=3, cutoff=0.3) or list(PRESETS)
        raise ValueError(
            f"{argument} must be a preset's name, got {recipe!r}; nearest: {', '.join(near)}; "
            f"there are {', '.join(PRESETS)}"
        )
    return PRESETS[recipe]()
