"""bench: a few fills beside stock torch's, in turns, on this machine.

Owns the cases and how they are timed; the full benchmark is benchmarks/ in the sources. Must not
print.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastinit import init
from fastinit.diagnostics.tables import Cell, Result, progress

REPEATS = 9
_FEWEST_SECONDS = 2e-3  # of one timing; quicker calls are repeated within it


@dataclass(frozen=True, slots=True)
class Timing:
    """One fill by stock torch and by fastinit.

    Args:
        name: of the case.
        stock, fastinit: medians of milliseconds a call.
        ratio: how many times as fast; the median of the ratios of neighbours in time.
    """

    name: str
    stock: float
    fastinit: float
    ratio: float


@dataclass(frozen=True)
class Timings(Result[Timing]):
    """What `bench` measured."""

    device: str

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["fill", "torch, ms", "fastinit, ms", "times as fast"]

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        return [[r.name, r.stock, r.fastinit, r.ratio] for r in self.records]

    def notes(self) -> list[str]:
        """Where it ran, below the table."""
        return [f"{self.device}; medians of {REPEATS} turns; other programs disturb it"]


def bench() -> Timings:
    """Time fills by stock torch and by fastinit in turns, after their spread has been checked.

    Returns: the timings; a table when printed.

    Raises:
        RuntimeError: a fill does not have its standard deviation.
    """
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    cases = list(_cases(device).items())
    records = []
    for name, (shape, dtype, fill, std) in progress(cases, len(cases), "timing"):
        tensor = torch.empty(shape, dtype=dtype, device=device)
        stock, ours = (partial(fill, module, tensor) for module in (nn.init, init))
        ours()
        found = tensor.double().std().item()
        if tensor.numel() > 1000 and abs(found / std - 1) > 0.02:
            raise RuntimeError(f"{name} has a standard deviation of {found:g}, not {std:g}")
        records.append(_timed(name, stock, ours, cuda))
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    return Timings(tuple(records), where)


def _cases(device: str) -> dict[str, tuple[tuple[int, int], torch.dtype, Any, float]]:
    size = 8192 if device == "cuda" else 1024
    large, small = (size, size), (16, 16)
    wide, narrow = torch.float32, torch.bfloat16
    relu = (2 / size) ** 0.5

    def normal(module: Any, w: Tensor) -> None:
        module.normal_(w, std=0.02)

    def uniform(module: Any, w: Tensor) -> None:
        module.uniform_(w, -1.0, 1.0)

    def truncated(module: Any, w: Tensor) -> None:
        module.trunc_normal_(w, std=0.02, a=-0.04, b=0.04)

    def kaiming(module: Any, w: Tensor) -> None:
        module.kaiming_normal_(w, nonlinearity="relu")

    return {
        f"normal_ {size} x {size}": (large, wide, normal, 0.02),
        f"uniform_ {size} x {size}": (large, wide, uniform, 3**-0.5),
        f"trunc_normal_ {size} x {size}": (large, wide, truncated, 0.02 * 0.87962566),
        f"kaiming_normal_ {size} x {size}": (large, wide, kaiming, relu),
        f"normal_ {size} x {size} bfloat16": (large, narrow, normal, 0.02),
        "kaiming_normal_ 16 x 16": (small, wide, kaiming, 0.35),
    }


def _timed(name: str, stock: Callable[[], None], ours: Callable[[], None], cuda: bool) -> Timing:
    def seconds(call: Callable[[], None], times: int) -> float:
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / times

    times = [max(1, int(_FEWEST_SECONDS / seconds(call, 3))) for call in (stock, ours)]
    turns = [(seconds(stock, times[0]), seconds(ours, times[1])) for _ in range(REPEATS)]
    first, second = (statistics.median(column) * 1e3 for column in zip(*turns, strict=True))
    return Timing(name, first, second, statistics.median(a / b for a, b in turns))
