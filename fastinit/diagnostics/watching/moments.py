"""Moments of activations, gathered where the activations are.

Owns the columns of a row of numbers, how one tensor is reduced into it, and how rows are merged
(Chan, Golub and LeVeque 1979). All of it runs on the tensor's device, without waiting for it. Must
not know hooks, modules or steps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit._fill.extension import native

# The columns: elements in all; mean and sum of squared deviations of the finite ones; the largest
# of their magnitudes; the fraction of units that were zero throughout; elements beyond the bounds
# of saturation; elements that are nan or infinite.
COLUMNS = ("count", "mean", "m2", "abs_max", "dead", "saturated", "nonfinite")
_COUNT, _MEAN, _M2, _MAX, _DEAD, _SATURATED, _BAD = range(len(COLUMNS))
_FUSED = {
    "cpu": {torch.float32, torch.bfloat16},
    "cuda": {torch.float32, torch.bfloat16, torch.float16}
    if native.build_info()["cuda"]
    else set(),
}


class Bounds(NamedTuple):
    """Values at or beyond which an activation counts as saturated."""

    low: float = -math.inf
    high: float = math.inf


def rows_for(count: int, device: torch.device) -> Tensor:
    """Zeroed rows for so many modules, two each: of the current step, of all steps."""
    wide = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(count, 2, len(COLUMNS), dtype=wide, device=device)


def peaks_for(units: int, device: torch.device) -> Tensor:
    """The largest magnitude of each unit, in the current step and in all."""
    with torch.inference_mode(False):  # so that they may be written outside it as well
        return torch.zeros(2, units, dtype=torch.float32, device=device)


def accumulate(rows: Tensor, peaks: Tensor, values: Tensor, axis: int, bounds: Bounds) -> None:
    """Add a tensor to the rows of a module.

    Args:
        rows: (2, 7); a count of zero says that a row is empty.
        peaks: (2, units).
        values: floating point, of any shape.
        axis: of `values`, which counts the units.
        bounds: of saturation.
    """
    if values.numel() == 0:
        return
    if _is_fused(values):
        values, inner = _in_memory_order(values, axis)
        native.measure_(rows, peaks, values, inner, *bounds)
        return
    with torch.no_grad():
        new, peak = _reduce(values, axis, bounds, rows)
        torch.maximum(torch.where(rows[:, :1] > 0, peaks, 0.0), peak, out=peaks)
        _merge(rows, new)
        rows[:, _DEAD] = (peaks == 0).sum(1, dtype=rows.dtype) / peaks.shape[1]


def _is_fused(values: Tensor) -> bool:
    if type(values) not in (Tensor, torch.nn.Parameter):
        return False
    return values.dtype in _FUSED.get(values.device.type, ())


def _in_memory_order(values: Tensor, axis: int) -> tuple[Tensor, int]:
    """The tensor, or a copy, whose memory holds units in turn, each for `inner` elements."""
    axis %= values.dim()
    if values.is_contiguous():
        return values, math.prod(values.shape[axis + 1 :])
    last = values.movedim(axis, -1)
    return last.contiguous(), 1


def _reduce(values: Tensor, axis: int, bounds: Bounds, rows: Tensor) -> tuple[Tensor, Tensor]:
    """A row for `values` alone, and the largest magnitude of each unit."""
    axis %= values.dim()
    others = [d for d in range(values.dim()) if d != axis]
    finite = torch.isfinite(values)
    # What is not finite is not zero, so that its unit is alive.
    magnitude = torch.where(finite, values.abs(), math.inf).float()
    peak = magnitude.amax(others) if others else magnitude
    clean = torch.where(finite, values, 0.0).to(rows.dtype)
    good = finite.sum(dtype=rows.dtype)
    mean = clean.sum() / good.clamp(min=1)
    m2 = torch.where(finite, clean - mean, 0.0).square().sum()
    count = rows.new_full((), values.numel())
    none = saturated = rows.new_zeros(())
    if any(map(math.isfinite, bounds)):
        saturated = ((values <= bounds.low) | (values >= bounds.high)).sum(dtype=rows.dtype)
    return torch.stack([count, mean, m2, clean.abs().amax(), none, saturated, count - good]), peak


def _merge(rows: Tensor, new: Tensor) -> None:
    """Chan's formula for mean and squared deviations; sums and maxima for the rest."""
    old_good = rows[:, _COUNT] - rows[:, _BAD]
    new_good = new[_COUNT] - new[_BAD]
    good = (old_good + new_good).clamp(min=1)
    delta = new[_MEAN] - rows[:, _MEAN]
    rows[:, _MEAN] += delta * new_good / good
    rows[:, _M2] += new[_M2] + delta.square() * old_good * new_good / good
    rows[:, _MAX] = torch.maximum(rows[:, _MAX], new[_MAX])
    for column in (_COUNT, _SATURATED, _BAD):
        rows[:, column] += new[column]


def read(row: list[float]) -> dict[str, Any]:
    """The numbers of a row that was copied to the host, as a record has them.

    nonfinite stays a count; mean, std and abs_max are nan where nothing was finite.
    """
    count, mean, m2, abs_max, dead, saturated, bad = row
    good = count - bad
    return {
        "count": int(count),
        "mean": mean if good else math.nan,
        "std": math.sqrt(m2 / good) if good else math.nan,
        "abs_max": abs_max if good else math.nan,
        "dead": dead,
        "saturated": saturated / count,
        "nonfinite": int(bad),
    }
