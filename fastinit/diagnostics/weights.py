"""Looking at weights: moments of each parameter beside those of its law, and how well it fits.

Owns the report. Laws are the plans' of `fastinit.models`; must not draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._fill.laws import Law
from fastinit.diagnostics.distributions import (
    Histogram,
    histogram,
    ks_p_value,
    moments_of,
    std_of,
)
from fastinit.diagnostics.subject import require_runnable
from fastinit.diagnostics.tables import Cell, Result
from fastinit.models.names import held_by, tensor_at
from fastinit.models.planning import make_plans
from fastinit.models.report import Plan
from fastinit.models.steps import Constant, Draw
from fastinit.recipes import Recipe


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """A parameter, or a part of a packed one, beside the law it is to have.

    Args:
        name: of the parameter; of a part, with the part's name behind a colon.
        shape: of the parameter or part.
        mean, std: of the finite values, with divisor n.
        expected_std: the law's, after truncation; None if the law is not known.
        p_value: of Kolmogorov and Smirnov's test against the law, on at most 65,536 values; None if
            there is no law, or it is a constant.
        histogram: of the values, with the law's density.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    expected_std: float | None
    p_value: float | None
    histogram: Histogram


@dataclass(frozen=True)
class WeightReport(Result[WeightRecord]):
    """A record for each parameter; `plot()` draws the histograms."""

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["parameter", "shape", "mean", "std", "expected", "p-value"]

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        return [
            [r.name, " x ".join(map(str, r.shape)), r.mean, r.std, r.expected_std, r.p_value]
            for r in self.records
        ]

    def plot(self) -> Any:
        """A matplotlib Figure: a histogram for each matrix, with the law's density."""
        from fastinit.diagnostics import plots

        return plots.histograms(self.records, "value of a weight")


def weight_report(module: nn.Module, recipe: Recipe | str | None = None) -> WeightReport:
    """Compare every parameter with the law that it was to be drawn from.

    Formula: mean and standard deviation, and the p-value of the largest distance between the
    distribution of the values and the law's (Kolmogorov and Smirnov). Under the law a p-value below
    p has probability p: of 1,000 parameters one is expected below 0.001.
    Source: Kolmogorov 1933; Stephens 1970.

    Args:
        module: the model; nothing of it is changed.
        recipe: a `fastinit.recipes.Recipe` or a preset's name that says the laws; None for the
            model's own code.

    Returns: the report; a table when printed.

    Raises: TypeError, ValueError, RuntimeError for modules without values, and what the recipe
        refuses.

    Example:
        >>> import torch
        >>> from fastinit.diagnostics import weight_report
        >>> report = weight_report(torch.nn.Linear(64, 64))
        >>> [(r.name, round(r.expected_std, 3)) for r in report]
        [('weight', 0.072), ('bias', 0.072)]
    """
    require_runnable(module)
    held = held_by(module)
    plans = make_plans(module, held, "native" if recipe is None else recipe, 0, strict=False)
    places = held.parameters
    return WeightReport(
        tuple(
            _record(plan, tensor_at(places[plan.name]).detach())
            for plan in plans.parameters
            if plan.name in places
        )
    )


def _record(plan: Plan, tensor: Tensor) -> WeightRecord:
    name, values = plan.name, getattr(tensor, "_local_tensor", tensor)
    if plan.why.part is not None:
        name = f"{name}:{plan.why.part.name}"
        values = values.narrow(
            plan.why.part.axis, plan.why.part.start, plan.why.part.stop - plan.why.part.start
        )
    shape = tuple(values.shape)
    law, drawn = _law(plan, values)
    mean, std = moments_of(drawn)
    expected = std_of(law) if law is not None else None
    tested = law is not None and std_of(law) > 0 and drawn.numel() > 0
    p_value = ks_p_value(drawn, law) if tested and law is not None else None
    return WeightRecord(name, shape, mean, std, expected, p_value, histogram(drawn, law))


def _law(plan: Plan, values: Tensor) -> tuple[Law | None, Tensor]:
    """The law of a parameter and its values, without what is written over them, such as padding."""
    if not plan.steps or values.is_complex():
        return None, values
    first, *later = plan.steps
    over = [step.box for step in later]
    if any(box is None or len(box.shape) != values.dim() for box in over) or (
        plan.why.part and over
    ):
        return None, values
    if isinstance(first.what, Constant) and not over:
        value = first.what.value.real
        return Law(1, value, 0.0, value, value, None), values
    if not isinstance(first.what, Draw):
        return None, values
    if over:
        kept = torch.ones(values.shape, dtype=torch.bool, device=values.device)
        for box in over:
            assert box is not None
            kept[_slices(box.offsets, box.shape)] = False
        values = values[kept]
    law = first.what.law
    return (law if law.distribution != 0 or law.high > law.low else None), values


def _slices(offsets: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(at, at + n) for at, n in zip(offsets, shape, strict=True))
