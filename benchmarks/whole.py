"""Whole models: from meta to the CPU, and many small layers in place.

Owns the two cases and their contenders. What comes out is held against the law before it is timed,
what fastinit makes also bit for bit against fills of single tensors under the keys of their names.
A model from meta is one of transformers, which is needed only when the case runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from benchmarks.goals import Goal, at_least
from benchmarks.laws import require, subsample
from benchmarks.timing import Contender, Metrics
from fastinit.initializers import Normal
from fastinit.recipes import Recipe

RAW = "raw fill"
LOOP = "loop of normal_"
STD = 0.02


@dataclass(frozen=True)
class MetaCase:
    """A Llama from meta: `materialize_` beside what people write, and a fill of as many bytes."""

    hidden: int = 2048
    layers: int = 16
    intermediate: int = 8192
    vocabulary: int = 128256  # with these, Llama 3.2 1B
    goals: tuple[Goal, ...] = (
        at_least(1 / 1.3, RAW, "materialize_, llama"),
        at_least(1 / 1.3, RAW, "materialize_, native"),
    )
    threads: int = 2
    baseline: str = RAW

    @property
    def name(self) -> str:
        return f"Llama from meta {self.hidden} x {self.layers}, vocabulary {self.vocabulary}"

    @cached_property
    def _package(self) -> Any:
        import transformers

        return transformers

    @cached_property
    def _config(self) -> Any:
        return self._package.LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 64,
            num_key_value_heads=self.hidden // 256,
            vocab_size=self.vocabulary,
            tie_word_embeddings=True,
        )

    @cached_property
    def _model(self) -> nn.Module:
        with torch.device("meta"):
            made: nn.Module = self._package.LlamaForCausalLM(self._config)
        return made

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: parameter.shape for name, parameter in self._model.named_parameters()}

    @cached_property
    def elements(self) -> int:
        return sum(shape.numel() for shape in self._shapes.values())

    @property
    def bytes(self) -> int:
        return 4 * self.elements

    def contenders(self) -> list[Contender]:
        ways: dict[str, Callable[[], dict[str, Tensor]]] = {
            RAW: self._raw,
            "to_empty and a loop": self._stock,
            "transformers' constructor": self._constructor,
            "materialize_, llama": lambda: self._materialized("llama"),
            "materialize_, native": lambda: self._materialized("native"),
        }
        return [
            Contender(name, way, lambda name=name, way=way: self._check(name, way), self.threads)
            for name, way in ways.items()
        ]

    def _raw(self) -> dict[str, Tensor]:
        key, made = fastinit.Key(0), {}
        for name, shape in self._shapes.items():
            made[name] = torch.empty(shape)
            if len(shape) > 1:
                fastinit.normal_(made[name], std=STD, key=key.fold_in(name))
            else:
                made[name].fill_(1.0)
        return made

    def _stock(self) -> dict[str, Tensor]:
        """What people write: allocate, go over the modules, compute the buffers."""
        model: Any = copy.deepcopy(self._model).to_empty(device="cpu")
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=STD)
                elif "RMSNorm" in type(module).__name__:
                    nn.init.ones_(module.weight)
        model.lm_head.weight = model.model.embed_tokens.weight
        model.model.rotary_emb = type(model.model.rotary_emb)(self._config)
        return dict(model.named_parameters())

    def _constructor(self) -> dict[str, Tensor]:
        return dict(self._package.LlamaForCausalLM(self._config).named_parameters())

    def _materialized(self, recipe: str) -> dict[str, Tensor]:
        model = copy.deepcopy(self._model)
        fastinit.materialize_(model, "cpu", recipe, seed=0)
        return dict(model.named_parameters())

    def _check(self, name: str, way: Callable[[], dict[str, Tensor]]) -> Metrics:
        made = way()
        require(made.keys() == self._shapes.keys(), "other parameters")
        for word, tensor in made.items():
            _require_law(word, tensor.detach())
            if name not in ("to_empty and a loop", "transformers' constructor"):
                _require_bits(word, tensor.detach())
        return {}


@dataclass(frozen=True)
class LayersCase:
    """Many small layers, filled in place: what a call costs beside the fills."""

    count: int = 8000
    goals: tuple[Goal, ...] = (at_least(1.0, LOOP, "init_"),)
    threads: int = 2
    baseline: str = LOOP

    @property
    def name(self) -> str:
        return f"{self.count} Linear(32, 32) in place"

    @cached_property
    def _model(self) -> nn.Module:
        return nn.Sequential(*(nn.Linear(32, 32) for _ in range(self.count)))

    @property
    def elements(self) -> int:
        return self.count * (32 * 32 + 32)

    @property
    def bytes(self) -> int:
        return 4 * self.elements

    def contenders(self) -> list[Contender]:
        recipe = Recipe({"**": Normal(STD)})

        def loop() -> nn.Module:
            for parameter in self._model.parameters():
                nn.init.normal_(parameter, std=STD)
            return self._model

        def ours() -> nn.Module:
            fastinit.init_(self._model, recipe, seed=0)
            return self._model

        def check(name: str, way: Callable[[], nn.Module]) -> Metrics:
            with torch.no_grad():
                for parameter in self._model.parameters():
                    parameter.fill_(torch.nan)
            for word, parameter in way().named_parameters():
                _require_law(word, parameter.detach())
                if name != LOOP:
                    _require_bits(word, parameter.detach())
            return {}

        ways = {LOOP: loop, "init_": ours}
        return [
            Contender(name, way, lambda name=name, way=way: check(name, way), self.threads)
            for name, way in ways.items()
        ]


def _require_law(name: str, tensor: Tensor) -> None:
    """Normal values, or ones where a model from meta has a norm."""
    if "norm" in name:
        require(bool((tensor == 1).all()), f"{name}: not 1")
        return
    some = subsample(tensor, 1 << 14).double()
    errors = 6 * STD / some.numel() ** 0.5
    require(abs(float(some.mean())) < errors, f"{name}: mean {some.mean()}")
    require(abs(float(some.std()) - STD) < errors, f"{name}: std {some.std()}, not {STD}")


def _require_bits(name: str, tensor: Tensor) -> None:
    if "norm" in name:
        return
    first = tensor.reshape(-1)[:4096]
    key = fastinit.Key(0).fold_in(name)
    region = fastinit.Region.flat(tuple(tensor.shape), 0)
    expected = fastinit.normal_(torch.empty_like(first), std=STD, key=key, region=region)
    require(torch.equal(first, expected), f"{name}: not the values of its key")
