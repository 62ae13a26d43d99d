"""What a user writes, for `mypy --strict` and an installed fastinit; `make lint` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import fastinit
from fastinit import initializers, recipes


def functions(weight: Tensor, generator: torch.Generator) -> None:
    assert_type(fastinit.kaiming_normal_(weight, nonlinearity="relu", key=42), Tensor)
    assert_type(fastinit.trunc_normal_(weight, std=0.02, generator=generator), Tensor)
    assert_type(fastinit.orthogonal_(weight, gain=2.0, key=fastinit.Key(1)), Tensor)
    assert_type(fastinit.calculate_gain("relu"), float)
    assert_type(fastinit.gain(torch.tanh), float)


def keys_and_regions(part: Tensor) -> Tensor:
    key = fastinit.Key(42).fold_in("layers.0.weight").fold_in(3)
    assert_type(key, fastinit.Key)
    first, second = key.split(2)
    assert_type(first, fastinit.Key)
    assert_type(second.to_tensor(), Tensor)
    rows = fastinit.Region(global_shape=(4096, 1024), offsets=(1024, 0))
    return fastinit.normal_(part, std=0.02, key=key, region=rows)


@fastinit.patch(seed=0)
def model(width: int) -> nn.Module:
    return nn.Linear(width, width)


def scopes() -> nn.Module:
    with fastinit.keyed(1), fastinit.patch():
        nn.init.normal_(torch.empty(3))
    with fastinit.deferred(seed=2):
        return model(4)


def whole_models(module: nn.Module) -> dict[str, Any]:
    law = initializers.TruncNormal(std=0.02 / recipes.sqrt(2 * recipes.depth))
    recipe = recipes.Recipe(
        {"**.bias": initializers.Zeros(), "head.weight": law}, base=recipes.gpt2()
    )
    initializers.Normal(0.02)(torch.empty(4, 4), key=1)
    print(recipe.explain(module))
    report = fastinit.init_(module, recipe, seed=42)
    manifest = report.manifest()
    differences: Sequence[str] = fastinit.verify(module, manifest)
    assert not differences
    names = [record.name for record in report]
    assert_type(fastinit.regenerate(manifest, names[0]), Tensor)
    return fastinit.build_info()
