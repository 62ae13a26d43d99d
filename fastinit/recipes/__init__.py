"""Recipes: which law each parameter of a model gets, by name, class or role.

A `Recipe` is an ordered mapping from patterns to initializers; the first that fits decides. A
preset is a function that returns one, and its name is accepted wherever a recipe is. `explain` says
what would happen, without a fill. The variables and functions here make expressions for the numbers
of laws, such as `0.02 / sqrt(2 * depth)`.
"""

from fastinit.initializers.expressions import (
    Expression,
    depth,
    exp,
    fan_in,
    fan_out,
    head_dim,
    layer,
    log,
    parse,
    sqrt,
    width,
)
from fastinit.initializers.expressions import (
    max as max,
)
from fastinit.initializers.expressions import (
    min as min,
)
from fastinit.recipes.names import bare_name
from fastinit.recipes.patterns import Role
from fastinit.recipes.plan import Plan, plan
from fastinit.recipes.presets.language import (
    gpt2,
    llama,
    megatron,
    mitchell,
    neox,
    olmo,
    t5,
    torchtitan,
)
from fastinit.recipes.presets.scaling import deepnorm, mup, siren, spectral
from fastinit.recipes.presets.stock import native, torch
from fastinit.recipes.presets.vision import vit
from fastinit.recipes.recipe import PRESETS, Recipe, resolve_recipe
from fastinit.recipes.record import Record
from fastinit.recipes.rules import Rule

# Not in __all__, as they would hide others of that name: max, min, torch.
_ALL = (
    *(native, torch, gpt2, llama, torchtitan, megatron, olmo, mitchell, neox, t5, vit),
    *(mup, spectral, deepnorm, siren),
)
PRESETS.update({preset.__name__: preset for preset in _ALL})

__all__ = [
    "Expression",
    "Plan",
    "Recipe",
    "Record",
    "Role",
    "Rule",
    "bare_name",
    "deepnorm",
    "depth",
    "exp",
    "fan_in",
    "fan_out",
    "gpt2",
    "head_dim",
    "layer",
    "llama",
    "log",
    "megatron",
    "mitchell",
    "mup",
    "native",
    "neox",
    "olmo",
    "parse",
    "plan",
    "resolve_recipe",
    "siren",
    "spectral",
    "sqrt",
    "t5",
    "torchtitan",
    "vit",
    "width",
]
