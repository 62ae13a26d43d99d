"""Takes the time: contenders in turn, in one process, many rounds.

Owns the clock of each device type and the order of the samples. Must not know what is timed. A
shared machine is slow for seconds at a time; contenders that take turns every round are slowed
alike, and the ratio of two samples of one round says more than the ratio of two best times.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter
from typing import Protocol

import torch

Metrics = dict[str, float]


@dataclass(frozen=True)
class Contender:
    """One way to do the job: what is timed, and the check it has to pass before that.

    Args:
        name: column of the report.
        call: does the job once; what it returns is released outside the timed section.
        check: raises `WrongResultError` on a wrong result; returns what else is worth reporting.
        threads: how many threads of torch the call may use.
    """

    name: str
    call: Callable[[], object]
    check: Callable[[], Metrics]
    threads: int


class Clock(Protocol):
    """Measures `number` calls in a row and returns the seconds that one of them took."""

    def __call__(self, call: Callable[[], object], number: int) -> float: ...


def wall_clock(call: Callable[[], object], number: int) -> float:
    """For work that is done when the call returns."""
    kept: object = None
    start = perf_counter()
    for _ in repeat(None, number):
        kept = call()
    seconds = perf_counter() - start
    del kept  # only now: to free a model takes time of its own
    return seconds / number


WARM = 2  # calls before a CUDA sample: they load kernels and fill the allocator's cache


def cuda_clock(call: Callable[[], object], number: int) -> float:
    """Between two CUDA events: the device's time, or the host's where launches take longer."""
    for _ in repeat(None, WARM):
        call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in repeat(None, number):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / number


CLOCKS: dict[str, Clock] = {"cpu": wall_clock, "cuda": cuda_clock}


@dataclass(frozen=True)
class Plan:
    """How long to measure: at least `least` rounds, more while `seconds` last, up to `most`."""

    least: int = 7
    most: int = 31
    seconds: float = 12.0
    sample: float = 5e-3  # a call shorter than this is repeated until the sample is that long

    def rounds(self, seconds_per_round: float) -> int:
        return max(self.least, min(self.most, int(self.seconds / max(seconds_per_round, 1e-9))))


QUICK = Plan(least=2, most=2, seconds=0.0, sample=1e-3)


def interleaved(
    contenders: Sequence[Contender], clock: Clock, plan: Plan
) -> dict[str, list[float]]:
    """Return the seconds per call of each contender, sample i of all from the same round."""
    numbers = {}
    estimate = 0.0
    for contender in contenders:
        _use_threads(contender)
        once = clock(contender.call, 1)
        if once < plan.sample:  # a first call is slower: look again before dividing by it
            once = clock(contender.call, 3)
        numbers[contender.name] = max(1, round(plan.sample / once))
        estimate += once * numbers[contender.name]
    samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    collecting = gc.isenabled()
    try:
        for _ in range(plan.rounds(estimate)):
            gc.collect()
            gc.disable()
            for contender in contenders:
                _use_threads(contender)
                samples[contender.name].append(clock(contender.call, numbers[contender.name]))
    finally:
        if collecting:
            gc.enable()
    return samples


def _use_threads(contender: Contender) -> None:
    if torch.get_num_threads() != contender.threads:
        torch.set_num_threads(contender.threads)
        contender.call()  # starts the threads
