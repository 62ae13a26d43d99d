"""Checks of a sample against a law, each a dictionary of p-values; and samplers that are wrong.

A value of a narrow dtype has a discrete law: the probability of a representable value is that of
the interval of reals that round to it. `check_discrete` tests that; a Kolmogorov-Smirnov test of
rounded values against the continuous law would reject a perfect sampler.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from _bits import every_value, largest_below, to_numpy, value_counts
from scipy import stats

Sample = npt.NDArray[np.float64]
PValues = dict[str, float]


def verdict(p_values: PValues) -> float:
    """One p-value for a dictionary of them, by Bonferroni: valid however they depend."""
    smallest = min(p_values.values())
    assert 0.0 <= smallest <= 1.0, p_values
    return min(1.0, len(p_values) * smallest)


def two_sided(z: float) -> float:
    return float(2.0 * stats.norm.sf(abs(z)))


KS_SIZE = 1 << 16  # of a sample, for the sake of time; all other checks see the whole

# Laws


@dataclass(frozen=True)
class Law:
    """A continuous law (a frozen scipy distribution) and, for half-open ones, its upper bound."""

    law: object
    half_open: bool = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.law, name)

    @functools.cached_property
    def grid(self) -> tuple[Sample, Sample]:
        """Points and probabilities for integrals over the law: a fine midpoint rule."""
        low, high = self.law.ppf(1e-15), self.law.isf(1e-15)
        edges = np.linspace(low, high, 20_001)
        points = (edges[1:] + edges[:-1]) / 2
        weights = self.law.pdf(points)
        return points, weights / weights.sum()


def uniform(low: float, high: float) -> Law:
    return Law(stats.uniform(low, high - low), half_open=True)


def normal(mean: float, std: float) -> Law:
    return Law(stats.norm(mean, std))


def truncated(mean: float, std: float, low: float, high: float) -> Law:
    return Law(stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std))


# Checks


def weighted_moments(points: Sample, weights: Sample, orders: int) -> Sample:
    """The moments of order 1 to `orders` of a discrete law."""
    power, found = weights, []
    for _ in range(orders):
        power = power * points
        found.append(power.sum())
    return np.array(found)


def moments(sample: Sample, weights: Sample, size: int, law: tuple[Sample, Sample]) -> PValues:
    """The first four moments about the law's mean, each against its own standard error.

    Args:
        sample, weights: the values drawn and the share of each.
        size: how many values were drawn.
        law: points and probabilities.
    """
    points, probabilities = law
    mean = float(points @ probabilities)
    scale = float(np.sqrt((points - mean) ** 2 @ probabilities))
    if scale == 0.0:  # a dtype too narrow to tell the law's values apart
        return {}
    expected = weighted_moments((points - mean) / scale, probabilities, 8)
    found = weighted_moments((sample - mean) / scale, weights, 4)
    return {
        f"moment {order}": two_sided(
            (found[order - 1] - expected[order - 1])
            / np.sqrt((expected[2 * order - 1] - expected[order - 1] ** 2) / size)
        )
        for order in (1, 2, 3, 4)
    }


def tails(ascending: Sample, law: Law) -> PValues:
    """How many of the sorted values lie beyond the law's extreme quantiles, on both sides."""
    size = len(ascending)
    p_values = {}
    for share in (1e-2, 1e-3, 1e-4):
        below = int(np.searchsorted(ascending, law.ppf(share)))
        above = size - int(np.searchsorted(ascending, law.isf(share), side="right"))
        p_values[f"lower {share:g}"] = stats.binomtest(below, size, share).pvalue
        p_values[f"upper {share:g}"] = stats.binomtest(above, size, share).pvalue
    return p_values


def chi_square(observed: Sample, expected: Sample) -> float:
    """Pearson's test for counts whose total is given."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def check_continuous(sample: Sample, law: Law, limit: float = np.inf) -> PValues:
    """Kolmogorov-Smirnov, chi-square over equally likely bins, moments, tails, support.

    Args:
        sample: the values drawn.
        law: what they should follow.
        limit: the largest value allowed, where that is below the law's upper end.
    """
    ascending = np.sort(sample)
    edges = law.ppf(np.linspace(0, 1, 65)[1:-1])
    below = np.searchsorted(ascending, edges, side="right")
    counts = np.diff(below, prepend=0, append=sample.size)
    low, high = law.support()
    slack = 1e-7 * (abs(low) + abs(high)) if np.isfinite(high) else 0.0  # bounds are rounded too
    inside = low - slack <= ascending[0] and ascending[-1] <= min(high + slack, limit)  # no NaN
    return {
        "Kolmogorov-Smirnov": float(stats.kstest(sample[:KS_SIZE], law.cdf).pvalue),
        "chi-square": chi_square(counts, np.full(64, sample.size / 64)),
        "support": float(inside),
        **moments(sample, np.full(sample.size, 1 / sample.size), sample.size, law.grid),
        **tails(ascending, law),
    }


@functools.lru_cache(maxsize=8)
def rounded_law(law: Law, dtype: torch.dtype) -> tuple[Sample, Sample]:
    """The values of `dtype` that can occur and their probabilities under rounding to nearest."""
    values = every_value(dtype)
    if law.half_open:  # what would round to the upper bound becomes the value below it
        low, high = law.support()
        values = values[values <= largest_below(high, low, dtype)]
    edges = (values[1:] + values[:-1]) / 2
    # From the side on which the distribution function is small, to keep its accuracy.
    lower = np.diff(law.cdf(edges), prepend=0.0, append=1.0)
    upper = -np.diff(law.sf(edges), prepend=1.0, append=0.0)
    probabilities = np.where(values < law.median(), lower, upper)
    possible = probabilities > 0
    return values[possible], probabilities[possible] / probabilities.sum()


@functools.lru_cache(maxsize=16)
def grouped(law: Law, dtype: torch.dtype, least: float) -> npt.NDArray[np.int64]:
    """The group of each value: neighbours together until a group is at least that probable."""
    probabilities = rounded_law(law, dtype)[1]
    groups = np.empty(len(probabilities), dtype=np.int64)
    group, mass = 0, 0.0
    for i, probability in enumerate(probabilities):
        if mass >= least:
            group, mass = group + 1, 0.0
        groups[i] = group
        mass += probability
    if mass < least and group > 0:
        groups[groups == group] = group - 1
    return groups


def end_mass(counts: Sample, probabilities: Sample, about: float) -> float:
    """How many values lie at the lower end of the law that has a probability of `about`."""
    cumulative = np.cumsum(probabilities)
    last = int(np.searchsorted(cumulative, about))
    share = float(min(cumulative[last], 1.0))
    return float(stats.binomtest(int(counts[: last + 1].sum()), int(counts.sum()), share).pvalue)


def check_discrete(sample: torch.Tensor, law: Law) -> PValues:
    """Chi-square over single values (sees wrong rounding) and over few bins (sees a wrong law)."""
    values, probabilities = rounded_law(law, sample.dtype)
    drawn, drawn_counts = value_counts(sample)
    size = sample.numel()
    at = np.minimum(np.searchsorted(values, drawn), len(values) - 1)
    if not np.array_equal(values[at], drawn):
        return {"support": 0.0}
    counts = np.bincount(at, drawn_counts, minlength=len(values))
    p_values = moments(drawn, drawn_counts / size, size, (values, probabilities))
    for name, least in [("fine", 25 / size), ("coarse", 1 / 40)]:
        groups = grouped(law, sample.dtype, least)
        expected = np.bincount(groups, probabilities) * size
        if len(expected) > 1:
            p_values[f"{name} chi-square"] = chi_square(np.bincount(groups, counts), expected)
    for about in (1e-3, 1e-4):
        p_values[f"lower {about:g}"] = end_mass(counts, probabilities, about)
        p_values[f"upper {about:g}"] = end_mass(counts[::-1], probabilities[::-1], about)
    return p_values


def check(sample: torch.Tensor, law: Law) -> float:
    """The verdict on a real tensor, by its dtype."""
    if sample.dtype.itemsize >= 4:
        limit = np.inf
        if law.half_open:
            low, high = law.support()
            limit = largest_below(high, low, sample.dtype)
        return verdict(check_continuous(to_numpy(sample).ravel(), law, limit))
    return verdict(check_discrete(sample, law))


def check_complex(sample: torch.Tensor, part: Law, modulus: Law | None) -> float:
    """The verdict on a complex tensor: both parts, the modulus, and that the parts are independent.

    Args:
        sample: the tensor.
        part: the law of the real and of the imaginary part.
        modulus: the law of the modulus, if it has a name.
    """
    real, imaginary = (to_numpy(x).ravel() for x in (sample.real, sample.imag))
    p_values = {
        "real": verdict(check_continuous(real, part)),
        "imaginary": verdict(check_continuous(imaginary, part)),
        "parts": verdict(dependence(real, imaginary)),
    }
    if modulus is not None:
        p_values["modulus"] = verdict(check_continuous(np.hypot(real, imaginary), modulus))
    return verdict(p_values)


def check_sparse(matrix: Sample, zeros: int, std: float) -> float:
    """The verdict on a matrix that should lose `zeros` random elements of every column."""
    rows, columns = matrix.shape
    mask = matrix == 0
    if not (mask.sum(axis=0) == zeros).all():
        return 0.0
    share = zeros / rows
    # A column's indicators sum to a constant: equal covariances, so rows - 1 degrees of freedom.
    hits = mask.sum(axis=1)
    spread = columns * share * (1 - share) * rows / (rows - 1)
    row_statistic = float(((hits - columns * share) ** 2).sum() / spread)
    # Two rows are both zero in this many columns:
    together = (mask.astype(np.float64) @ mask.T)[np.triu_indices(rows, 1)]
    expected = columns * share * (zeros - 1) / (rows - 1)
    worst = np.abs(together - expected).max() / np.sqrt(expected * (1 - expected / columns))
    # And neighbouring columns share this many zeros: a hypergeometric number each.
    shared = int((mask[:, 1:] & mask[:, :-1]).sum())
    law = stats.hypergeom(rows, zeros, zeros)
    overlap = (shared - (columns - 1) * law.mean()) / np.sqrt((columns - 1) * law.var())
    return verdict(
        {
            "rows": float(stats.chi2.sf(row_statistic, rows - 1)),
            "pairs of rows": min(1.0, two_sided(worst) * len(together)),
            "neighbouring columns": two_sided(overlap),
            "values": verdict(check_continuous(matrix[~mask], normal(0.0, std))),
        }
    )


def check_pairs(x: Sample, y: Sample) -> float:
    """The verdict on two samples of the standard normal: polar coordinates, and independence."""
    turn = stats.uniform(-np.pi, 2 * np.pi)
    return verdict(
        {
            "independence": verdict(dependence(x, y)),
            "radius": verdict(check_continuous((x**2 + y**2) / 2, Law(stats.expon()))),
            "angle": verdict(check_continuous(np.arctan2(y, x), Law(turn))),
        }
    )


def dependence(x: Sample, y: Sample) -> PValues:
    """Of two samples that should be independent: ranks on a grid, correlations of powers."""
    ranks = [np.argsort(np.argsort(v)) * 16 // len(v) for v in (x, y)]
    table = np.bincount(ranks[0] * 16 + ranks[1], minlength=256).reshape(16, 16)
    expected = np.full((16, 16), len(x) / 256)
    # Both margins are given: 15 * 15 degrees of freedom.
    statistic = float(((table - expected) ** 2 / expected).sum())
    p_values = {"contingency": float(stats.chi2.sf(statistic, 225))}
    for name, transform in [("values", np.asarray), ("squares", np.square), ("signs", np.sign)]:
        correlation = np.corrcoef(transform(x - np.median(x)), transform(y - np.median(y)))[0, 1]
        p_values[f"correlation of {name}"] = two_sided(correlation * np.sqrt(len(x)))
    return p_values


# Samplers that are wrong. Each takes the right float32 or float64 sample (and its law), returns a
# tensor of the dtype asked for, and must be rejected.

Wrong = Callable[[torch.Tensor, Law, torch.dtype], torch.Tensor]


def centred(x: torch.Tensor, law: Law, factor: float, shift: float = 0.0) -> torch.Tensor:
    mean, std = float(law.mean()), float(law.std())
    return (x.double() - mean) * factor + mean + shift * std


def std_off_by_two_percent(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    return centred(x, law, 1.02).to(x.dtype).to(dtype)


def mean_off_by_two_percent(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    return centred(x, law, 1.0, 0.02).to(x.dtype).to(dtype)


def one_percent_at_an_end(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    """One in a hundred sits at the edge, as values do that a clamp has caught."""
    contaminated = x.clone()
    contaminated.view(-1)[::100] = float(law.ppf(0.9999))
    return contaminated.to(dtype)


def lost_tails(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    """No value beyond the quantiles of 2e-4: a Box-Muller radius from 12 bits would do that."""
    low, high = float(law.ppf(2e-4)), float(law.isf(2e-4))
    inside = x[(x > low) & (x < high)]
    return torch.cat([inside, inside[: x.numel() - inside.numel()]]).to(dtype)


def rounded_towards_zero(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    nearest = x.to(dtype)
    values = every_value(dtype)
    at = np.searchsorted(values, to_numpy(nearest))
    exact, near = to_numpy(x), to_numpy(nearest)
    inwards = np.where(near > 0, at - 1, at + 1)
    chosen = np.where(np.abs(near) > np.abs(exact), values[inwards], near)
    return torch.from_numpy(chosen).to(dtype)


def rounded_twice(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    """First to two bits more than the dtype has, then to the dtype: ties go astray."""
    bits = round(-math.log2(torch.finfo(dtype).eps)) + 3
    mantissa, exponent = np.frexp(to_numpy(x))
    once = np.ldexp(np.rint(mantissa * 2.0**bits) / 2.0**bits, exponent)
    return torch.from_numpy(once).to(dtype)


def bound_reached(x: torch.Tensor, law: Law, dtype: torch.dtype) -> torch.Tensor:
    """The half-open interval forgotten: what rounds to the upper bound stays there."""
    high = law.support()[1]
    kept = x.clone()
    kept.view(-1)[:20] = high  # in float32 a matter of chance; here it happens
    return kept.to(dtype)
