"""compare: schemes by name, on the bundled digits and a plain network.

Owns what a name of a scheme means on the command line. Must not print.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from fastinit import init
from fastinit.diagnostics.comparison import Comparison, compare
from fastinit.diagnostics.digits import load_digits
from fastinit.recipes.recipe import PRESETS

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
SCHEMES = ("default", "kaiming_normal_", "xavier_normal_", "orthogonal_")
_GAINED = ("kaiming_normal_", "kaiming_uniform_")
_PLAIN = ("xavier_normal_", "xavier_uniform_", "orthogonal_", "lecun_normal_", "zeros_")


def preset_names() -> tuple[str, ...]:
    """The names of all presets."""
    return tuple(PRESETS)


def scheme_names() -> tuple[str, ...]:
    """The names that `compare_digits` takes."""
    return ("default", *_GAINED, *_PLAIN, *preset_names())


def compare_digits(
    schemes: Sequence[str], *, depth: int, width: int, activation: str, epochs: int, seeds: int
) -> Comparison:
    """Train a plain network on handwritten digits from each scheme, by gradient descent.

    Args:
        schemes: names of `scheme_names()`.
        depth, width: hidden layers, and units in each.
        activation: a name of ACTIVATIONS.
        epochs, seeds: of `compare`.

    Returns: the comparison.
    """

    def make() -> nn.Module:
        sizes = [64, *[width] * depth]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))

    named = {name: _scheme(name, activation) for name in schemes}
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return compare(make, load_digits(), named, epochs=epochs, seeds=seeds, optimizer=optimizer)


def _scheme(name: str, activation: str) -> Any:
    if name == "default":
        return None
    if name in PRESETS:
        return name
    fill: Callable[..., Any] = getattr(init, name)
    if name in _GAINED:
        fill = partial(fill, nonlinearity=activation)

    def apply(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            fill(module.weight)
            init.zeros_(module.bias)

    return apply
