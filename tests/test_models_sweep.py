"""A sample of the sweep: `native` against the constructors of models that people use.

`make sweep` holds it against all of them; docs/models_sweep.md has the result. Two-sample
Kolmogorov-Smirnov, Holm over the parameters of a model, alpha 1e-4 a model, fixed seeds; the twins
change the law of one parameter by a tenth of its std, one constant, one buffer.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from _clients import timm, torchvision
from _models import on_meta, torch_layers
from _small import Maker, of_timm, of_torchvision, of_transformers, torchvision_families
from _small import transformers_types as types
from sweep import Outcome, compare, judge
from torch import nn

import fastinit

TRANSFORMERS = [
    "bert",
    "gpt2",
    "gpt_oss",
    "llama",
    "mamba2",
    "mixtral",
    "sam",
    "t5",
    "vit_mae",
    "wav2vec2",
    "xclip",
]
TIMM = ["cait", "convit", "levit", "vision_transformer"]
TORCHVISION = ["convnext", "googlenet"]


def found(make: Maker) -> Outcome:
    outcome = Outcome("", "")
    compare(make, outcome)
    return outcome


def assert_sound(outcome: Outcome, verdict: str = "same") -> None:
    assert (outcome.verdict, outcome.what if verdict == "same" else "") == (verdict, "")
    assert outcome.drawn > 0


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers(kind: str) -> None:
    assert_sound(found(of_transformers(kind, types()[kind])))


@pytest.mark.parametrize("family", TIMM)
def test_timm(family: str) -> None:
    timm()
    # Its layer scales are an argument that a function of timm knows and no module keeps.
    assert_sound(found(of_timm(family)[1]), "named" if family == "cait" else "same")


@pytest.mark.parametrize("family", TORCHVISION)
def test_torchvision(family: str) -> None:
    torchvision()
    outcome = found(of_torchvision(torchvision_families()[family])[1])
    assert_sound(outcome, "named" if family == "convnext" else "same")  # as above


def test_every_layer_of_torch_is_swept() -> None:
    kinds = {
        name
        for name, kind in vars(nn).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and not name.startswith("Lazy")
        and not name.endswith("Base")
        and any(hasattr(kind, method) for method in ("reset_parameters", "_reset_parameters"))
    }
    assert kinds - torch_layers().keys() == set()


def another(change: Callable[[nn.Module], None]) -> Outcome:
    """A model of our own and one that a constructor makes and `change` changes."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.Linear(128, 128))

    torch.manual_seed(0)
    stock, made, outcome = make(), on_meta(make), Outcome("", "")
    fastinit.materialize_(made, "cpu", seed=1)
    with torch.no_grad():
        change(stock)
    judge(stock, made, {}, outcome)
    return outcome


def test_other_laws_and_values_are_noticed() -> None:
    assert_sound(another(lambda stock: None))
    changes: dict[str, Callable[[nn.Module], object]] = {
        "0.weight": lambda stock: stock[0].weight.mul_(1.1),
        "1.weight": lambda stock: stock[1].weight.fill_(0.99),
        "1.running_var": lambda stock: stock[1].running_var.fill_(2.0),
        "2.bias": lambda stock: stock[2].bias.zero_(),
    }
    for name, change in changes.items():
        outcome = another(change)
        assert (outcome.verdict, outcome.what) == ("differs", name)
