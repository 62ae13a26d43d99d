"""Looking at gradients: how they are distributed, parameter by parameter, on one batch.

Owns the report and how a loss is called. Must not draw, nor change a model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.diagnostics.distributions import Histogram, histogram, moments_of
from fastinit.diagnostics.subject import as_found, require_rows, require_runnable, run
from fastinit.diagnostics.tables import Cell, Result


@dataclass(frozen=True, slots=True)
class GradientRecord:
    """The gradient of a parameter.

    Args:
        name: of the parameter.
        mean, std, norm: of the gradient's finite entries.
        update_ratio: norm of the update lr * gradient over the norm of the parameter; inf for a
            parameter that is zero.
        histogram: of the entries.
    """

    name: str
    mean: float
    std: float
    norm: float
    update_ratio: float
    histogram: Histogram


@dataclass(frozen=True)
class GradientReport(Result[GradientRecord]):
    """A record for each parameter that has a gradient; `plot()` draws them."""

    loss: float

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["parameter", "mean", "std", "norm", "update / weight"]

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        return [[r.name, r.mean, r.std, r.norm, r.update_ratio] for r in self.records]

    def notes(self) -> list[str]:
        """The loss, below the table."""
        return [f"loss {self.loss:.4g}"]

    def plot(self) -> Any:
        """A matplotlib Figure: standard deviation and update ratio, parameter by parameter."""
        from fastinit.diagnostics import plots

        return plots.gradients(self.records)


def gradient_report(
    module: nn.Module, batch: Any, loss: Callable[..., Tensor], *, lr: float = 1.0
) -> GradientReport:
    """Show how the gradients of a loss are distributed, parameter by parameter.

    Formula: update_ratio = lr |g| / |w|, that of a plain gradient step; about 1e-3 is what
    training wants, 1e-1 shakes a layer and 1e-5 hardly moves it.
    Source: Karpathy, makemore (2022), for the ratio and its reading.

    Args:
        module: the model. Its weights, `.grad`, buffers and mode are left as they are.
        batch: what `loss` needs: (inputs, targets) if it takes two arguments, inputs alone if one;
            inputs are a tensor, a tuple of arguments or a mapping of keywords.
        loss: loss(output, targets) or loss(output); a function or module that gives one number.
        lr: the learning rate of the update.

    Returns: the report; a table when printed.

    Raises:
        TypeError: loss is not callable, batch no pair.
        ValueError: fewer than two rows, a loss that is not one number or has no gradient.

    Example:
        >>> import torch
        >>> from fastinit.diagnostics import gradient_report
        >>> batch = torch.ones(8, 4), torch.zeros(8, 2)
        >>> report = gradient_report(torch.nn.Linear(4, 2), batch, torch.nn.functional.mse_loss)
        >>> [r.name for r in report]
        ['weight', 'bias']
    """
    require_runnable(module)
    inputs, targets = _parts(batch, loss)
    require_rows(inputs)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("module has no parameter that requires a gradient; unfreeze some")
    with as_found(module), torch.enable_grad():
        value = loss(run(module, inputs), *targets)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(
                f"loss must give one number that depends on the parameters, got {value!r}; reduce "
                "it by mean() or sum()"
            )
        gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    records = [
        _record(name, parameter.detach(), gradient.detach(), lr)
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
        if gradient is not None
    ]
    return GradientReport(tuple(records), value.item())


def _record(name: str, parameter: Tensor, gradient: Tensor, lr: float) -> GradientRecord:
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    gradient = getattr(gradient, "_local_tensor", gradient)
    parameter = getattr(parameter, "_local_tensor", parameter)
    mean, std = moments_of(gradient)
    finite = gradient[gradient.isfinite()]
    norm = torch.linalg.vector_norm(finite, dtype=torch.float64).item()
    weight = torch.linalg.vector_norm(parameter, dtype=torch.float64).item()
    ratio = lr * norm / weight if weight else math.inf if norm else 0.0
    return GradientRecord(name, mean, std, norm, ratio, histogram(gradient))


def _parts(batch: Any, loss: Callable[..., Tensor]) -> tuple[Any, list[Any]]:
    """Inputs, and targets if the loss takes any."""
    if not callable(loss):
        raise TypeError(
            f"loss must be callable, got {loss!r}; pass such as torch.nn.functional.cross_entropy"
        )
    if _takes(loss) == 1:
        return batch, []
    if not isinstance(batch, Sequence) or isinstance(batch, str) or len(batch) != 2:
        raise TypeError(
            "batch must be a pair (inputs, targets), as loss takes outputs and targets, got "
            f"{type(batch).__name__}; pass loss=lambda output: ... if there are no targets"
        )
    return batch[0], [batch[1]]


def _takes(loss: Callable[..., Tensor]) -> int:
    """How many arguments a loss must be given; two if it does not tell."""
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):
        return 2
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(
        one.kind in places and one.default is inspect.Parameter.empty
        for one in parameters.parameters.values()
    )
