"""`signal_propagation`: how large signals and gradients are in each layer, beside theory.

Owns the public function and its result. Measuring is `trace`'s, predicting `mean_field`'s, drawing
`plots`'s.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.diagnostics import plots
from fastinit.diagnostics.signals.mean_field import Signal, Theory, measured
from fastinit.diagnostics.signals.trace import Node, trace
from fastinit.diagnostics.subject import require_rows, require_runnable
from fastinit.diagnostics.tables import Cell, Result
from fastinit.models.materialize import init_


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """One module.

    Args:
        name: in the bare model.
        depth: how many layers with matrices ran up to it, itself included.
        forward: the second moment of its output.
        backward: the second moment of the gradient there; nan if none came.
        predicted: what theory expects of `forward`; None if it does not know the module.
    """

    name: str
    depth: int
    forward: float
    backward: float
    predicted: float | None


@dataclass(frozen=True)
class Propagation(Result[SignalRecord]):
    """Second moments forward and backward, in the order in which the modules ran."""

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["module", "depth", "forward", "predicted", "backward"]

    def rows(self) -> list[list[Cell]]:
        """One row for each record."""
        return [[r.name, r.depth, r.forward, r.predicted, r.backward] for r in self.records]

    def notes(self) -> list[str]:
        """What happened from the first to the last layer."""
        if len(self) < 2:
            return []
        first, last = self.records[0], self.records[-1]
        return [
            f"second moments; first to last forward x {_ratio(last.forward, first.forward)}, last "
            f"to first gradient x {_ratio(first.backward, last.backward)}"
        ]

    def plot(self) -> Any:
        """Forward and backward second moments over depth, with theory beside: a Figure.

        Raises:
            ImportError: without matplotlib; the message says what to install.
        """
        return plots.propagation({"": self.records})


def _ratio(one: float, other: float) -> str:
    ratio = one / other if other else math.nan
    return f"{ratio:.3g}"


def signal_propagation(
    module: nn.Module, x: Any, *, recipe: Any = None, seed: int | None = None
) -> Propagation:
    """The second moment of each module's output, and of the gradient there, beside theory.

    Formula: forward = mean(h^2) over the batch and all units. The gradient is that of a standard
    normal one at the output. Theory: V(v) = fan_in E w^2 E f(sqrt(v) z)^2 + E b^2, layer by layer,
    with the fluctuations of the widths at hand; behind what it does not know (attention, sums,
    functions called without a module) it starts anew from what was measured.

    Source: Poole et al. (2016), equation 3; Schoenholz et al., "Deep information propagation"
    (2017); Hanin (2018) for the width. The plot over depth is that of Brock et al. (2021).

    Args:
        module: a model with values in it, not compiled. It runs as it is and is left as it was.
        x: what it takes: a tensor, a sequence of arguments or a mapping of keywords; two rows or
            more.
        recipe: look at a copy that is initialized by this recipe, as `init_` takes it; None looks
            at the model as it is.
        seed: of the recipe and of the gradient; None is 0.

    Returns: a record for each module without children that ran, in the order in which they did.

    Raises: TypeError, ValueError, RuntimeError: as `calibrate_` for the module and for x.

    Reproducibility: of the model's own pass; the gradient is keyed by seed.

    Example:
        >>> import torch, fastinit
        >>> from fastinit.diagnostics import signal_propagation
        >>> layers = [torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256)]
        >>> model = torch.nn.Sequential(*layers)
        >>> x = fastinit.normal_(torch.empty(128, 256), key=0)
        >>> print(signal_propagation(model, x, recipe="native"))
        module  depth  forward  predicted  backward
        0           1    0.333      0.336     0.167
        1           1    0.166      0.168     0.332
        2           2   0.0571     0.0571      1.01
        second moments; first to last forward x 0.171, last to first gradient x 0.166
    """
    if recipe is not None:
        module = deepcopy(module)
        init_(module, recipe, seed=0 if seed is None else seed)
    require_runnable(module)
    require_rows(x, "x")
    found = trace(module, x, seed=0 if seed is None else seed)
    predictions = predict(found.nodes)
    forward = _read([node.forward for node in found.nodes])
    backward = _read([_or_nan(node.backward) for node in found.nodes])
    return Propagation(
        tuple(
            SignalRecord(node.name, node.depth, one, other, predictions[id(node)])
            for node, one, other in zip(found.nodes, forward, backward, strict=True)
        )
    )


def predict(nodes: list[Node]) -> dict[int, float | None]:
    """By node, what theory expects of the second moment of its output."""
    theory = Theory()
    signals: dict[int, Signal | None] = {}
    for node in nodes:
        known = signals.get(id(node.source)) if node.source is not None else None
        if known is None and node.source is not None:
            known = measured(node.source.forward.reshape(1))
        if known is None and node.rows is not None:
            known = measured(node.rows)
        if known is None or node.shape is None:
            signals[id(node)] = None
        else:
            signals[id(node)] = theory.through(node.module, known, node.shape)
    return {at: None if signal is None else signal.mean for at, signal in signals.items()}


def _or_nan(value: Tensor | None) -> Tensor:
    return torch.tensor(math.nan) if value is None else value


def _read(values: list[Tensor]) -> list[float]:
    """Many numbers in one copy from each device."""
    read: dict[int, float] = {}
    for device in {value.device for value in values}:
        here = [at for at, value in enumerate(values) if value.device == device]
        read.update(
            zip(here, torch.stack([values[at].double() for at in here]).tolist(), strict=True)
        )
    return [read[at] for at in range(len(values))]
