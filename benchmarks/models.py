"""A whole model: transformers' LlamaForCausalLM, constructed as it is, patched and deferred.

The ways themselves and the test of the result are those of `examples/demo.py`, which is loaded when
a case runs; transformers is needed only then.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.goals import Goal, at_least
from benchmarks.laws import require
from benchmarks.timing import Contender, Metrics

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
BASELINE = "stock constructor"


@dataclass(frozen=True)
class Size:
    """Arguments of the demo's `make_config`."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    tied: bool = True


LARGE = Size(2048, 8, 8192, 128256)  # 749 million parameters
TINY = Size(256, 2, 1024, 2000)


# From the demo and its configuration to a model.
BUILDERS: dict[str, Callable[[ModuleType, Any], object]] = {
    BASELINE: lambda demo, config: demo.build_stock(config),
    "patched": lambda demo, config: demo.build_patched(config),
    "deferred": lambda demo, config: demo.build_deferred(config),
}


@dataclass(frozen=True)
class ModelCase:
    size: Size = LARGE
    goals: tuple[Goal, ...] = (
        at_least(8.0, BASELINE, "patched"),
        at_least(14.0, BASELINE, "deferred"),
    )
    threads: int = 2
    baseline: str = field(default=BASELINE)
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        size = self.size
        dtype = "" if self.dtype == torch.float32 else f" {str(self.dtype).split('.')[1]}"
        return (
            f"LlamaForCausalLM{dtype} {size.hidden} x {size.layers}, vocabulary {size.vocabulary}"
        )

    @cached_property
    def demo(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("fastinit_demo", DEMO)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @cached_property
    def config(self) -> Any:
        return self.demo.make_config(**asdict(self.size))

    @cached_property
    def elements(self) -> int:
        with torch.device("meta"):
            model = self.demo.LlamaForCausalLM(self.config)
        return sum(parameter.numel() for parameter in model.parameters())

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * self.elements

    def contenders(self) -> list[Contender]:
        builds = {name: partial(self._build, make) for name, make in BUILDERS.items()}
        return [
            Contender(name, build, partial(self._check, build), self.threads)
            for name, build in builds.items()
        ]

    def _build(self, make: Callable[[ModuleType, Any], object]) -> object:
        torch.set_default_dtype(self.dtype)
        try:
            return make(self.demo, self.config)
        finally:
            torch.set_default_dtype(torch.float32)

    def _check(self, build: Callable[[], Any]) -> Metrics:
        refused, _ = self.demo.refused_matrices(build().float())
        require(not refused, f"not normally distributed: {', '.join(refused)}")
        return {}
