"""The laws at the scale of a model: a billion values of each against its distribution function.

Owns the statistics that the batteries do not have, on the values that the extension writes: the
distances of Kolmogorov and Smirnov and of Anderson and Darling, chi-square of equally likely bins,
the largest and the smallest of every 65536, and correlations between neighbours - elements, rows of
a matrix, seeds, folded keys. A law, too, must fail once it has been spoiled: its std off by
40 / sqrt(values), its tails beyond 4 std missing, one key for two tensors.

Anderson and Darling, "Asymptotic theory of certain goodness of fit criteria based on stochastic
processes", Annals of Mathematical Statistics 23, 1952: their characteristic function, inverted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats

import fastinit
from fastinit import Key, Region
from tools.quality.results import Result, Statistic

Floats = NDArray[np.float64]
Fill = Callable[[torch.Tensor, Key, Region], object]
Row = Callable[[int, torch.Tensor], object]  # fills the k-th of many tensors
# Probabilities below and above of values.
Probabilities = Callable[[Floats], tuple[Floats, Floats]]

BLOCK = 1 << 16  # values of which the largest is looked at
CHUNK = 1 << 22  # values at a time
MOST_KEYS = 10_000


@dataclass(frozen=True)
class Law:
    """What to fill with, the distribution it should have, and in how many bins it can be told."""

    name: str
    fill: Fill
    dtype: torch.dtype
    probabilities: Probabilities
    bins: int
    spoiled: bool = False


def uniform(x: Floats) -> tuple[Floats, Floats]:
    """Of [0, 1) in steps of 2^-24, each taken at its middle."""
    return x + 2.0**-25, 1 - 2.0**-25 - x


def uniform64(x: Floats) -> tuple[Floats, Floats]:
    """Of [0, 1)."""
    return x, 1 - x


def normal(x: Floats) -> tuple[Floats, Floats]:
    """Of the standard normal law."""
    return special.ndtr(x), special.ndtr(-x)


def truncated(x: Floats) -> tuple[Floats, Floats]:
    """Of the standard normal law cut to +-2."""
    tail = special.ndtr(-2.0)
    return (special.ndtr(x) - tail) / (1 - 2 * tail), (special.ndtr(-x) - tail) / (1 - 2 * tail)


def laws(values: int) -> list[Law]:
    """Sound and spoiled ones. A float32 rounds by more than a fine bin of so many can bear."""

    def of(function: Callable[..., object], **arguments: float) -> Fill:
        return lambda tensor, key, region: function(tensor, key=key, region=region, **arguments)

    uniform_, normal_ = of(fastinit.uniform_), of(fastinit.normal_)
    cut = of(fastinit.trunc_normal_)
    off = of(fastinit.normal_, std=1 + 40 / values**0.5)
    tailless = of(fastinit.trunc_normal_, a=-4.0, b=4.0)
    single, double = torch.float32, torch.float64
    return [
        Law("uniform float32", uniform_, single, uniform, 1 << 16),
        Law("uniform float64", uniform_, double, uniform64, 1 << 16),
        Law("normal float32", normal_, single, normal, 1 << 12),
        Law("normal float64", normal_, double, normal, 1 << 16),
        Law("trunc_normal float32", cut, single, truncated, 1 << 12),
        Law("trunc_normal float64", cut, double, truncated, 1 << 16),
        Law("std off", off, single, normal, 1 << 12, spoiled=True),
        Law("no tails", tailless, single, normal, 1 << 12, spoiled=True),
    ]


def statistic(name: str, p: float) -> Statistic:
    """Of a p-value that is small where the law is wrong."""
    shown = f"{p:.2g}" if p <= 0.5 else f"1 - {1 - p:.2g}"
    return Statistic(name, shown, min(p, 1 - p))


def anderson_darling(a2: float) -> float:
    """The chance that Anderson and Darling's statistic of many values exceeds `a2`."""
    # cos(pi/2 sqrt(1 + 8it)) grows like exp(pi sqrt(t)): beyond 400 nothing is left.
    step = 1 / 512
    t = step * (np.arange(400 * 512) + 0.5)
    squared = -2j * np.pi * t / np.cos(np.pi / 2 * np.sqrt(1 + 8j * t))
    phase = np.unwrap(np.angle(squared)) / 2  # of the root that goes on from 1 at t = 0
    tail = np.sum(np.sin(phase - t * a2) * np.sqrt(np.abs(squared)) / t) * step / np.pi
    return max(0.0, float(0.5 + tail))


class Tally:
    """What is kept of the values of a law: counts, extremes, products of neighbours."""

    def __init__(self, bins: int) -> None:
        self.counts = np.zeros(bins, dtype=np.int64)
        self.extremes: list[tuple[Floats, Floats]] = []
        self.products = np.zeros(2)
        self.pairs = 0

    def add(self, below: Floats, above: Floats) -> None:
        """Take the probabilities of a chunk of values, a multiple of BLOCK, in stream order."""
        bins = len(self.counts)
        index = np.minimum((below * bins).astype(np.int64), bins - 1)
        self.counts += np.bincount(index, minlength=bins)
        self.extremes.append((below.reshape(-1, BLOCK).min(1), above.reshape(-1, BLOCK).min(1)))
        centred = below - 0.5
        squared = centred**2 - 1 / 12
        # Divided by their standard deviations, 1/12 and 1/180.
        self.products += (
            np.dot(centred[1:], centred[:-1]) * 12,
            np.dot(squared[1:], squared[:-1]) * 180,
        )
        self.pairs += len(below) - 1

    def statistics(self) -> list[Statistic]:
        """The p-values."""
        n, bins = int(self.counts.sum()), len(self.counts)
        chi2 = float(((self.counts - n / bins) ** 2).sum() / (n / bins))
        expected = np.arange(1, bins) / bins
        error = self.counts.cumsum()[:-1] / n - expected
        a2 = float(n * np.sum(error**2 / (expected * (1 - expected))) / bins)
        found = [
            statistic("chi-square", float(stats.chi2.sf(chi2, bins - 1))),
            statistic(
                "Kolmogorov-Smirnov", float(stats.kstwobign.sf(n**0.5 * np.abs(error).max()))
            ),
            statistic("Anderson-Darling", anderson_darling(a2)),
        ]
        for side, name in enumerate(("smallest of 65536", "largest of 65536")):
            tails = np.concatenate([pair[side] for pair in self.extremes])
            found.append(statistic(name, uniformity(np.exp(BLOCK * np.log1p(-tails)))))
        for product, name in zip(self.products, ("neighbours", "squares"), strict=True):
            found.append(statistic(name, float(2 * stats.norm.sf(abs(product) / self.pairs**0.5))))
        return found


def uniformity(u: Floats) -> float:
    """The p-value of Kolmogorov and Smirnov's exact test."""
    return float(stats.kstest(u, "uniform").pvalue)


def law_statistics(law: Law, values: int, key: Key) -> list[Statistic]:
    """Of one tensor of so many values, filled piece by piece."""
    tally = Tally(law.bins)
    piece = torch.empty(CHUNK, dtype=law.dtype)
    for start in range(0, values, CHUNK):
        law.fill(piece, key, Region.flat((values,), start))
        tally.add(*law.probabilities(piece.numpy().astype(np.float64)))
    return tally.statistics()


def correlation_statistics(row: Row, values: int) -> list[Statistic]:
    """Of pairs of neighbouring tensors: of the values, and of their squares.

    Each pair gives a number that is standard normal; these, whether they are, and their sum.
    """
    keys = min(MOST_KEYS, int(values**0.5))
    length = values // keys
    before, now = torch.empty(length), torch.empty(length)
    row(0, before)
    z = np.empty((2, keys - 1))
    for k in range(1, keys):
        row(k, now)
        products = torch.dot(now, before), torch.dot(now**2 - 1, before**2 - 1) / 2
        z[:, k - 1] = [float(p) / length**0.5 for p in products]
        before, now = now, before
    found = []
    for values_of, name in zip(z, ("values", "squares"), strict=True):
        found.append(statistic(f"{name}, all pairs", uniformity(special.ndtr(values_of))))
        total = abs(values_of.sum()) / len(values_of) ** 0.5
        found.append(statistic(f"{name}, sum", float(2 * stats.norm.sf(total))))
    return found


def neighbours(values: int, seed: int) -> dict[str, tuple[bool, Row]]:
    """The kinds of neighbours, whether spoiled, and what fills the k-th tensor."""
    key, columns = Key(seed), values // min(MOST_KEYS, int(values**0.5))
    shape = (MOST_KEYS, columns)

    def row(k: int, w: torch.Tensor) -> object:
        return fastinit.normal_(w[None], key=key, region=Region(shape, (k, 0)))

    return {
        "neighbouring seeds": (False, lambda k, w: fastinit.normal_(w, key=k)),
        "neighbouring keys": (False, lambda k, w: fastinit.normal_(w, key=key.fold_in(k))),
        "neighbouring rows": (False, row),
        "one key for two": (True, lambda k, w: fastinit.normal_(w, key=k // 2)),
    }


def results(values: int, seed: int, only: Sequence[str] = ()) -> Iterator[Result]:
    """The result of each law, and of each kind of neighbours; of those named alone, if any are."""
    values = -(-values // CHUNK) * CHUNK
    jobs: list[tuple[str, bool, Callable[[], list[Statistic]]]] = [
        (law.name, law.spoiled, partial(law_statistics, law, values, Key(seed)))
        for law in laws(values)
    ]
    for name, (spoiled, row) in neighbours(values, seed).items():
        jobs.append((name, spoiled, partial(correlation_statistics, row, values)))
    for name, spoiled, job in jobs:
        if only and name not in only:
            continue
        began = time.process_time()
        found = job()
        yield Result(
            battery="laws",
            version=f"fastinit {fastinit.__version__}, stream {fastinit.STREAM_VERSION}",
            stream=name,
            spoiled=spoiled,
            amount=f"{values:.2g}",
            seed=seed,
            seconds=time.process_time() - began,
            statistics=len(found),
            extremes=found,
        )
