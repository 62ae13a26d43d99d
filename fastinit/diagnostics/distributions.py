"""Samples and laws: moments, densities, and how far apart they are.

Owns the test of Kolmogorov and Smirnov and the form of histograms. Must not know models.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastinit._fill.laws import Law

BINS = 40
KS_SIZE = 1 << 16  # values that a test looks at, evenly spaced in the tensor
_ROOT2 = math.sqrt(2.0)


class Histogram(NamedTuple):
    """Densities in bins of equal width.

    Args:
        edges: of the bins, one more than there are bins.
        density: of the finite values; the bins add up to an area of 1.
        expected: the law's density in the middle of each bin; empty if there is no law.
    """

    edges: tuple[float, ...]
    density: tuple[float, ...]
    expected: tuple[float, ...] = ()


def histogram(values: Tensor, law: Law | None = None) -> Histogram:
    """The histogram of a tensor, beside a law's density."""
    x = _finite(values)
    if x.numel() == 0:
        return Histogram((), ())
    low, high = x.min().item(), x.max().item()
    if low == high:  # one bin, wide enough to be seen
        half = abs(low) * 0.05 or 0.05
        low, high = low - half, high + half
    counts = torch.histc(x.cpu(), BINS, low, high)
    width = (high - low) / BINS
    edges = [low + i * width for i in range(BINS)] + [high]
    middles = torch.tensor([e + width / 2 for e in edges[:-1]], dtype=torch.float64)
    expected = density(law, middles).tolist() if law is not None and std_of(law) > 0 else ()
    return Histogram(tuple(edges), tuple((counts / (x.numel() * width)).tolist()), tuple(expected))


def moments_of(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (divisor n) of the finite values, in double where that helps."""
    x = _finite(values).double()
    if x.numel() == 0:
        return math.nan, math.nan
    return x.mean().item(), x.std(correction=0).item()


def std_of(law: Law) -> float:
    """The standard deviation of a law, after its truncation if it has one."""
    if law.distribution == 0:
        return (law.high - law.low) / math.sqrt(12.0)
    if law.distribution == 1 or law.std == 0:
        return law.std
    a, b = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
    mass = _phi(b) - _phi(a)
    first = (_bell(a) - _bell(b)) / mass
    second = (_tail_moment(a) - _tail_moment(b)) / mass
    return law.std * math.sqrt(max(0.0, 1 + second - first**2))


def cdf(law: Law, x: Tensor) -> Tensor:
    """The distribution function of a law that is not a constant."""
    if law.distribution == 0:
        return ((x - law.low) / (law.high - law.low)).clamp(0, 1)
    standard: Tensor = torch.special.ndtr((x - law.mean) / law.std)
    if law.distribution == 1:
        return standard
    a, b = _phi((law.low - law.mean) / law.std), _phi((law.high - law.mean) / law.std)
    return ((standard - a) / (b - a)).clamp(0, 1)


def density(law: Law, x: Tensor) -> Tensor:
    """The density of a law that is not a constant."""
    inside = ((x >= law.low) & (x <= law.high)).to(x.dtype)
    if law.distribution == 0:
        return inside / (law.high - law.low)
    z = (x - law.mean) / law.std
    bell = torch.exp(-z.square() / 2) / (law.std * math.sqrt(2 * math.pi))
    if law.distribution == 1:
        return bell
    a, b = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
    return inside * bell / (_phi(b) - _phi(a))


def ks_p_value(values: Tensor, law: Law) -> float:
    """The probability of a distance like this one between a sample of the law and the law.

    Formula: D = max |F_n - F|, p = 2 sum_k (-1)^(k-1) exp(-2 k^2 t^2) with
    t = D (sqrt n + 0.12 + 0.11 / sqrt n). A value of a narrow dtype stands for the interval of
    reals that round to it, so that rounding is not held against the sample.
    Source: Kolmogorov 1933; Stephens 1970 for small n.
    """
    flat = values.detach().flatten()
    flat = flat[:: max(1, -(-flat.numel() // KS_SIZE))]
    x = flat.double().cpu().sort().values
    if not x.isfinite().all():
        return 0.0
    n = x.numel()
    half = torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - 1) * (
        torch.finfo(values.dtype).eps / 2
    )
    # Ties count together: at the last of them from above, at the first from below.
    above = torch.searchsorted(x, x, right=True) / n
    below = torch.searchsorted(x, x) / n
    distance = max(
        (above - cdf(law, x + half)).abs().max().item(),
        (cdf(law, x - half) - below).abs().max().item(),
    )
    t = distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))
    if t < 0.2:  # the series does not settle, and the sum is 1
        return 1.0
    total = 2 * sum(math.copysign(math.exp(-2 * (k * t) ** 2), k % 2 - 0.5) for k in range(1, 101))
    return min(1.0, max(0.0, total))


def _finite(values: Tensor) -> Tensor:
    x = values.detach().flatten()
    x = torch.view_as_real(x).flatten() if x.is_complex() else x
    x = x if x.dtype == torch.float64 else x.float()
    return x[x.isfinite()]


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / _ROOT2)


def _bell(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _tail_moment(z: float) -> float:
    return z * _bell(z) if math.isfinite(z) else 0.0
