"""Rules that hold a model against a recipe: what its laws say, and whether its values follow them.

Must not run the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from fastinit._fill.laws import Law
from fastinit.diagnostics.checks.finding import Finding
from fastinit.initializers.random import truncated_std
from fastinit.recipes.recipe import resolve_recipe

_FEW = 1024  # values, below which a std says little
_LEAST_OFF = 0.02  # relative; a gain that is wrong is off by more
_SIGMAS = 6.0  # of the sampling error of a std


def findings(module: nn.Module, recipe: Any) -> Iterator[Finding]:
    """What the recipe's own remarks say, and parameters that do not follow it.

    The remarks are the mistakes of real code that `fastinit.recipes.remarks` lists.
    """
    plan = resolve_recipe(recipe).explain(module)
    for warning in plan.warnings:
        yield Finding("warning", "", warning, "change the recipe; recipe.explain(module) shows it")
    off = []
    for record in plan:
        n = math.prod(record.shape)
        if record.law is None or record.part is not None or record.parametrized or n < _FEW:
            continue
        expected = std_of(record.law)
        values = record.parameter.detach().double()
        std = float(values.std(correction=0))
        allowed = max(_LEAST_OFF, _SIGMAS / math.sqrt(2 * n))
        if expected > 0 and not abs(std / expected - 1) <= allowed:
            off.append((record.name, std, expected))
    if off:
        name, std, expected = off[0]
        yield Finding(
            "error", name, f"the std of {len(off)} parameters is not that of the recipe: {name} "
            f"has {std:.4g}, where {expected:.4g} is due",
            "the initialization was skipped, scaled or written over afterwards: "
            "fastinit.init_(module, recipe, seed=...)",
        )  # fmt: skip


def std_of(law: Law) -> float:
    """The standard deviation of what a law draws, after a cut if there is one."""
    if law.distribution == 0:
        return (law.high - law.low) / math.sqrt(12)
    if law.distribution == 1 or law.std == 0:
        return law.std
    return law.std * truncated_std(min(law.high - law.mean, law.mean - law.low) / law.std)
