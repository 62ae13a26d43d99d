"""Thousands of small tensors: one call of the multi-tensor fill against one stock call each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.contenders import OURS, STOCK
from benchmarks.goals import Goal, at_least
from benchmarks.laws import Normal, require
from benchmarks.timing import Contender, Metrics
from fastinit._fill.extension import native


@dataclass(frozen=True)
class ManyCase:
    """`count` square matrices, normal with the same standard deviation."""

    count: int = 10_000
    size: int = 64
    device: str = "cpu"
    std: float = 0.02
    goals: tuple[Goal, ...] = (at_least(8.0, STOCK, OURS),)
    threads: int = 2
    baseline: str = STOCK

    @property
    def name(self) -> str:
        return f"{self.count} tensors, normal float32 {self.size}x{self.size}"

    @property
    def elements(self) -> int:
        return self.count * self.size**2

    @property
    def bytes(self) -> int:
        return 4 * self.elements

    def contenders(self) -> list[Contender]:
        tensors = [torch.empty(self.size, self.size, device=self.device) for _ in range(self.count)]
        zeros = [0.0] * self.count
        law = ([1] * self.count, zeros, [self.std] * self.count, zeros, zeros)
        keys = [word for i in range(self.count) for word in (i, 0)]

        def stock() -> None:
            for tensor in tensors:
                torch.nn.init.normal_(tensor, 0.0, self.std)

        def ours() -> None:
            native.multi_fill_(tensors, *law, keys)

        return [
            Contender(name, call, partial(self.check, name, tensors, call), self.threads)
            for name, call in ((STOCK, stock), (OURS, ours))
        ]

    def check(self, name: str, tensors: list[Tensor], call: partial[None]) -> Metrics:
        """Every element written; ours as single fills write them."""
        for tensor in tensors:
            tensor.fill_(torch.nan)
        call()
        Normal(self.std).plausible(torch.cat([tensor.flatten() for tensor in tensors]))
        if name == OURS:
            for i in range(0, self.count, max(1, self.count // 100)):
                single = torch.empty_like(tensors[i])
                native.normal_(single, 0.0, self.std, None, None, [i, 0])
                require(bool(torch.equal(single, tensors[i])), f"tensor {i} differs")
        return {}
