"""audit: what is probably wrong with a model that some code of the user's makes.

Owns how MODULE:FACTORY becomes a model. Must not know any rule, nor print.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastinit.diagnostics.checks.finding import Finding, Findings
from fastinit.diagnostics.checks.run import check
from fastinit.diagnostics.tables import Cell, Result, render
from fastinit.diagnostics.weights import WeightReport, weight_report


@dataclass(frozen=True)
class Audit(Result[Finding]):
    """Findings, and the parameters beside their laws."""

    weights: WeightReport
    signals: bool  # whether a batch went through

    @property
    def well(self) -> bool:
        """Whether there is no finding but what is worth knowing."""
        return all(finding.severity == "info" for finding in self.records)

    def headers(self) -> list[str]:
        """The names of the columns of the parameters' table."""
        return self.weights.headers()

    def rows(self) -> list[list[Cell]]:
        """The cells of the parameters' table."""
        return self.weights.rows()

    def notes(self) -> list[str]:
        """The findings, below the table."""
        found = [str(Findings(self.records))]
        if not self.signals:
            found.append(
                "weights alone; with --input N,... signals and gradients are looked at too"
            )
        return found

    def __str__(self) -> str:
        """The table of parameters, and a paragraph for each finding."""
        return "\n".join([render(self.headers(), self.rows()), "", *self.notes()])

    def plot(self) -> Any:
        """A matplotlib Figure: the histograms of the weights, with the densities of their laws."""
        return self.weights.plot()


def load(place: str) -> nn.Module:
    """The model that MODULE:FACTORY makes; the module is looked for in the current folder too.

    Raises:
        ValueError: no such module or factory, or it makes something else.
    """
    name, colon, attribute = place.partition(":")
    if not (name and colon and attribute):
        raise ValueError(f"got {place!r}; write MODULE:FACTORY, such as my_code:make_model")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # one that the module imports
        raise ValueError(f"no module {name!r} in the current folder or on sys.path") from None
    for word in attribute.split("."):
        if not hasattr(made, word):
            raise ValueError(f"{name} has no {attribute!r}")
        made = getattr(made, word)
    with torch.random.fork_rng(devices=[]):  # the same model at each call
        torch.manual_seed(0)
        model = made if isinstance(made, nn.Module) else made() if callable(made) else made
    if not isinstance(model, nn.Module):
        raise ValueError(f"{place} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def audit(module: nn.Module, recipe: str | None, shape: Sequence[int] | None) -> Audit:
    """Check a model, and hold its parameters against their laws.

    Args:
        module: the model.
        recipe: the name of a preset that it should follow; None for its own code.
        shape: of a batch of normal numbers, for the rules about signals; None leaves them out.

    Returns: the audit.
    """
    x = None
    if shape is not None:
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return Audit(check(module, x, recipe).records, weight_report(module, recipe), x is not None)
