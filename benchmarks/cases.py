"""What is measured, and what is to be reached: one line per case.

Owns the list of cases and their goals. A case builds its contenders only when it runs, so listing
them costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from benchmarks import contenders as who
from benchmarks import models
from benchmarks.constructions import construction_cases
from benchmarks.contenders import CEILING, OURS, STOCK, TORCH_KEYED, TensorCase
from benchmarks.goals import Goal, at_least, at_most
from benchmarks.laws import Normal, Orthogonal, SparseColumns, Truncated, Uniform
from benchmarks.many import ManyCase
from benchmarks.shards import ShardCase
from benchmarks.timing import Contender
from benchmarks.whole import LayersCase, MetaCase


class Case(Protocol):
    """Something that several contenders can do, with goals for the ratio of their times."""

    @property
    def name(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def baseline(self) -> str: ...
    @property
    def goals(self) -> tuple[Goal, ...]: ...
    @property
    def elements(self) -> int: ...
    @property
    def bytes(self) -> int: ...

    def contenders(self) -> list[Contender]: ...


@dataclass(frozen=True)
class ScalingCase:
    """fastinit against itself with fewer threads."""

    case: TensorCase
    goals: tuple[Goal, ...] = (at_least(1.9, "1 thread", "2 threads"),)
    threads: int = 2
    baseline: str = "1 thread"

    @property
    def name(self) -> str:
        return f"thread scaling of {self.case.name}"

    @property
    def elements(self) -> int:
        return self.case.elements

    @property
    def bytes(self) -> int:
        return self.case.bytes

    def contenders(self) -> list[Contender]:
        names = {1: "1 thread", 2: "2 threads"}
        [contender] = who.fill_contenders(self.case, 1, (OURS,))
        return [replace(contender, name=names[n], threads=n) for n in names]


def _kaiming(columns: int) -> float:
    return math.sqrt(2.0 / columns)


def _speed(bound: float) -> Goal:
    return at_least(bound, STOCK, OURS)


def orthogonal_shapes(square: int) -> list[tuple[int, int]]:
    """Beside a square matrix: those of a quarter, half and twice the size, and a wide one."""
    quarter, half, twice = square // 4, square // 2, 2 * square
    return [(quarter, quarter), (half, half), (twice, twice), (half, twice)]


def cases(size: int = 4096, square: int = 2048, model: models.Size = models.LARGE) -> list[Case]:
    """All cases; the sizes are parameters so that a trial run can be quick."""
    large, matrix = (size, size), (square, square)
    std, half = _kaiming(size), math.sqrt(3.0) * _kaiming(size)
    kaiming_normal = TensorCase("kaiming_normal_", Normal(std), shape=large, goals=(_speed(8.0),))
    normal = TensorCase(
        "normal_",
        Normal(0.02),
        {"std": 0.02},
        large,
        goals=(_speed(8.0), at_least(15.0, TORCH_KEYED, OURS)),
    )
    half_of_fill = at_least(0.5, CEILING, OURS)
    kaiming_uniform = TensorCase(
        "kaiming_uniform_", Uniform(-half, half), shape=large, goals=(_speed(12.0), half_of_fill)
    )
    uniform = TensorCase(
        "uniform_",
        Uniform(-0.05, 0.05),
        {"a": -0.05, "b": 0.05},
        large,
        goals=(_speed(12.0), half_of_fill),
    )
    trunc_normal = TensorCase(
        "trunc_normal_",
        Truncated(0.02, low=-0.04, high=0.04),
        {"std": 0.02, "a": -0.04, "b": 0.04},
        large,
        goals=(_speed(80.0),),
        note=", std 0.02, bounds +-0.04",
    )
    orthogonal = TensorCase(
        "orthogonal_",
        Orthogonal(),
        shape=matrix,
        only=(STOCK, OURS),
        goals=(at_most(0.45), at_most(1.05, quantity="error")),
    )
    bfloat16 = torch.bfloat16
    alone = (STOCK, OURS, CEILING)
    small: dict[str, Any] = {"shape": (16, 16), "only": alone}
    return [
        kaiming_normal,
        replace(kaiming_normal, threads=1, goals=(_speed(3.2),)),
        normal,
        replace(normal, threads=1, goals=(_speed(3.2),)),
        kaiming_uniform,
        uniform,
        replace(uniform, threads=1, goals=()),
        trunc_normal,
        replace(trunc_normal, threads=1, goals=()),
        # As models use it: the bounds are far out, which stock takes a quick way for.
        TensorCase(
            "trunc_normal_",
            Truncated(0.02, low=-2.0, high=2.0),
            {"std": 0.02},
            large,
            only=alone,
            note=", std 0.02, bounds +-2",
        ),
        replace(normal, dtype=bfloat16, goals=(_speed(10.0),)),
        replace(uniform, dtype=bfloat16, goals=(_speed(12.0),)),
        replace(normal, dtype=torch.float64, goals=(_speed(6.0),)),
        TensorCase("kaiming_normal_", Normal(_kaiming(16)), **small, goals=(at_most(0.35),)),
        replace(trunc_normal, **small, goals=(at_most(0.06),)),
        orthogonal,
        *(replace(orthogonal, shape=shape, goals=()) for shape in orthogonal_shapes(square)),
        replace(
            orthogonal, arguments={"batch_axis": 0}, shape=(min(1000, square), 64, 64), goals=()
        ),
        TensorCase(
            "sparse_",
            SparseColumns(0.01, sparsity=0.1),
            {"sparsity": 0.1},
            matrix,
            only=alone,
            goals=(_speed(10.0),),
        ),
        ManyCase(min(10_000, size * size // 64)),
        ScalingCase(replace(kaiming_normal, goals=())),
        ShardCase(size),
        ShardCase(size, torch.bfloat16),
        models.ModelCase(model),
        models.ModelCase(model, dtype=torch.bfloat16),
        MetaCase() if size >= 4096 else MetaCase(256, 2, 1024, 2000),
        LayersCase(8000 if size >= 4096 else 500),
        *construction_cases(quick=size < 4096),
    ]


def selected(everything: Iterable[Case], words: Iterable[str]) -> list[Case]:
    """The cases whose name contains one of the words; all of them without words."""
    words = list(words)
    return [case for case in everything if not words or any(word in case.name for word in words)]
