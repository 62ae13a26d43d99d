"""What a monitor tells: a record for each module and step, and the table of a summary.

Must not know how the numbers come about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastinit.diagnostics.tables import Cell, Result


@dataclass(frozen=True, slots=True)
class ActivationRecord:
    """What went through a module in one step, or in all.

    Args:
        name: of the module.
        direction: "forward", its output, or "backward", the gradient there.
        step: counted from 0 in forward passes of the monitored module.
        count: elements.
        mean, std, abs_max: of the finite ones; std with divisor n.
        dead: fraction of units that were zero throughout.
        saturated: fraction of elements where a saturating activation's slope is below 0.05; 0 for
            modules that do not saturate.
        nonfinite: elements that are nan or infinite.
    """

    name: str
    direction: str
    step: int
    count: int
    mean: float
    std: float
    abs_max: float
    dead: float
    saturated: float
    nonfinite: int


@dataclass(frozen=True)
class ActivationSummary(Result[ActivationRecord]):
    """A record for each module over all steps; `history` has the steps one by one."""

    history: tuple[ActivationRecord, ...]

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["module", "way", "mean", "std", "abs max", "dead", "saturated", "nonfinite"]

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        return [
            [r.name, "<-" if r.direction == "backward" else "->", r.mean, r.std, r.abs_max, r.dead,
             r.saturated, r.nonfinite]
            for r in self.records
        ]  # fmt: skip

    def plot(self) -> Any:
        """A matplotlib Figure: spread by module and step, dead units, saturation."""
        from fastinit.diagnostics import plots

        return plots.activations(self)
