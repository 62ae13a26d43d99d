"""Models of other packages, and many small layers: constructed as they are, patched and deferred.

Owns the models, which are made without weights or a download. A case is left out where its package
is missing. Before it is timed, the parameters are held against stock's by their spread, and what is
deferred against what is patched.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

import fastinit
from benchmarks.goals import Goal, at_least
from benchmarks.laws import require
from benchmarks.timing import Contender, Metrics

Build: TypeAlias = Callable[[], nn.Module]

BASELINE = "stock constructor"
SCOPES: dict[str, Callable[[], Any]] = {
    BASELINE: nullcontext,
    "patched": lambda: fastinit.patch(seed=0),
    "deferred": lambda: fastinit.deferred(seed=0),
}
_LEAST = 1000  # elements whose spread is compared


@dataclass(frozen=True)
class ConstructionCase:
    """One model, by what makes it."""

    name: str
    build: Build
    goals: tuple[Goal, ...] = ()
    threads: int = 2
    baseline: str = BASELINE

    @cached_property
    def elements(self) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build().parameters())

    @property
    def bytes(self) -> int:
        return 4 * self.elements

    def contenders(self) -> list[Contender]:
        def contender(name: str) -> Contender:
            return Contender(
                name, lambda: self._built(name), lambda: self._check(name), self.threads
            )

        return [contender(name) for name in SCOPES]

    def _built(self, name: str) -> nn.Module:
        with SCOPES[name]():
            return self.build()

    @torch.no_grad()
    def _check(self, name: str) -> Metrics:
        expected = dict(self._built(BASELINE).named_parameters())
        patched = dict(self._built("patched").named_parameters())
        for word, parameter in self._built(name).named_parameters():
            if parameter.numel() >= _LEAST:
                spread, right = float(parameter.std()), float(expected[word].std())
                require(abs(spread - right) <= 0.15 * right, f"{word}: std {spread}, not {right}")
            if name == "deferred":
                same = torch.allclose(parameter, patched[word], rtol=1e-5, atol=1e-8)
                require(same, f"{word}: patched and deferred differ")
        return {}


def _layers(count: int) -> Build:
    return lambda: nn.Sequential(*(nn.Linear(64, 64) for _ in range(count)))


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (
        Exception
    ) as error:  # some break on import where their compiled part is for another torch
        raise ModuleNotFoundError(f"{name} does not import: {error}") from error


def _timm(name: str) -> Build:
    def build() -> nn.Module:
        model: nn.Module = _package("timm").create_model(name)
        return model

    return build


def _transformers(model: str, config: str, **options: Any) -> Build:
    def build() -> nn.Module:
        package = _package("transformers")
        made: nn.Module = getattr(package, model)(getattr(package, config)(**options))
        return made

    return build


def construction_cases(quick: bool) -> list[ConstructionCase]:
    """All cases; `quick` takes fewer layers and thinner models."""
    layers = 100 if quick else 3000
    few = {"num_hidden_layers": 1} if quick else {}
    truncating = (at_least(8.0, BASELINE, "patched"), at_least(12.0, BASELINE, "deferred"))
    near_patch = (at_least(1 / 1.3, "patched", "deferred"),)
    return [
        ConstructionCase(
            f"{layers} Linear(64, 64)", _layers(layers), (at_least(1.0, BASELINE, "deferred"),)
        ),
        ConstructionCase("timm resnet50", _timm("resnet18" if quick else "resnet50"), near_patch),
        ConstructionCase(
            "timm efficientnet_b3",
            _timm("efficientnet_b0" if quick else "efficientnet_b3"),
            near_patch,
        ),
        ConstructionCase(
            "timm vit_base",
            _timm("vit_tiny_patch16_224" if quick else "vit_base_patch16_224"),
            truncating,
        ),
        ConstructionCase(
            "timm swin_base",
            _timm("swin_tiny_patch4_window7_224" if quick else "swin_base_patch4_window7_224"),
            truncating,
        ),
        ConstructionCase(
            "timm convnext_base", _timm("convnext_atto" if quick else "convnext_base"), truncating
        ),
        ConstructionCase("transformers bert", _transformers("BertModel", "BertConfig", **few)),
        ConstructionCase(
            "transformers gpt2",
            _transformers("GPT2LMHeadModel", "GPT2Config", **({"n_layer": 1} if quick else {})),
        ),
        ConstructionCase(
            "transformers t5",
            _transformers(
                "T5ForConditionalGeneration", "T5Config", **({"num_layers": 1} if quick else {})
            ),
        ),
    ]
