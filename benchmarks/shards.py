"""A rank's share of a tensor: 1/64 of it by rows and by columns, against the whole.

The speeds of the report are those of the whole, of which a shard is to take its share of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import fastinit
from benchmarks.contenders import KEY, Call
from benchmarks.goals import Goal, at_least
from benchmarks.laws import require
from benchmarks.timing import Contender, Metrics

WHOLE, ROWS, COLUMNS = "whole tensor", "1/64 of the rows", "1/64 of the columns"
PARTS = 64


@dataclass(frozen=True)
class ShardCase:
    """`normal_` of a square matrix; the shard in the middle stands for all."""

    size: int = 4096
    dtype: torch.dtype = torch.float32
    goals: tuple[Goal, ...] = tuple(at_least(PARTS / 1.15, WHOLE, one) for one in (ROWS, COLUMNS))
    threads: int = 1
    baseline: str = WHOLE

    @property
    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"shards of normal_ {dtype} {self.size}x{self.size}"

    @property
    def elements(self) -> int:
        return self.size**2

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def contenders(self) -> list[Contender]:
        whole = torch.empty(self.size, self.size, dtype=self.dtype)
        fill: Call = partial(fastinit.normal_, whole, key=KEY)
        made = [Contender(WHOLE, fill, partial(check, fill, whole, whole), self.threads)]
        size = self.size // PARTS
        for dim, name in enumerate((ROWS, COLUMNS)):
            part = whole.narrow(dim, PARTS // 2 * size, size)
            offsets = tuple(PARTS // 2 * size if d == dim else 0 for d in (0, 1))
            region = fastinit.Region(tuple(whole.shape), offsets)
            shard = torch.empty_like(part, memory_format=torch.contiguous_format)
            fill = partial(fastinit.normal_, shard, key=KEY, region=region)
            made.append(Contender(name, fill, partial(check, fill, shard, part), self.threads))
        return made


def check(fill: Call, tensor: Tensor, part: Tensor) -> Metrics:
    """The bits of that part of the whole, which the first contender has filled."""
    tensor.fill_(torch.nan)
    fill()
    require(bool(torch.equal(tensor, part)), "the shard is not that part of the whole tensor")
    return {}
