"""Comparing initializations: one network, the same batches, several schemes.

Owns the runs and what is kept of them. Must not know any scheme, nor draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import fastinit.models.materialize as whole_models
from fastinit.diagnostics.subject import require_values, run
from fastinit.diagnostics.tables import Cell, Result, progress
from fastinit.recipes import Recipe

Scheme: TypeAlias = Recipe | str | Callable[[nn.Module], Any] | None
Batch: TypeAlias = tuple[Any, Tensor]

BATCH_SIZE = 64
_ADAM = partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True, slots=True)
class SchemeRecord:
    """How one scheme did, over all seeds.

    Args:
        name: of the scheme.
        first_loss, final_loss: medians over seeds of the mean loss of the first and last epoch.
        low, high: the smallest and largest final loss.
        epochs: median number of epochs until the loss that half of all runs reach; inf if never.
        gradient_norm: median norm of the gradient in the first epoch.
    """

    name: str
    first_loss: float
    final_loss: float
    low: float
    high: float
    epochs: float
    gradient_norm: float


@dataclass(frozen=True)
class Comparison(Result[SchemeRecord]):
    """The runs of all schemes.

    Args:
        records: one for each scheme.
        losses: by scheme, the mean training loss of each epoch, of shape (seeds, epochs).
        gradient_norms: by scheme, the mean norm of the gradient, of the same shape.
        seeds: in the order of the first axis.
    """

    losses: dict[str, Tensor]
    gradient_norms: dict[str, Tensor]
    seeds: tuple[int, ...]

    def epochs_to(self, threshold: float) -> dict[str, float]:
        """By scheme, the median over seeds of the first epoch, from 1, at or below a loss.

        inf where more than half of the seeds do not get there.
        """
        return {name: _epochs_to(losses, threshold) for name, losses in self.losses.items()}

    def table(self) -> str:
        """The table, as text of at most 80 columns."""
        return str(self)

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["scheme", "first loss", "final loss", "min", "max", "epochs", "gradient"]

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        return [
            [r.name, r.first_loss, r.final_loss, r.low, r.high, r.epochs, r.gradient_norm]
            for r in self.records
        ]

    def notes(self) -> list[str]:
        """What the columns mean, below the table."""
        runs = f"medians of {len(self.seeds)} seeds" if len(self.seeds) > 1 else "one seed"
        return [
            f"{runs}; epochs to a loss of {_level(self.losses):.3g}; first epoch's gradient norm"
        ]

    def plot(self) -> Any:
        """A matplotlib Figure: losses and gradient norms, a band over the seeds."""
        from fastinit.diagnostics import plots

        return plots.comparison(self.losses, self.gradient_norms)


def compare(
    make_model: Callable[[], nn.Module],
    data: Any,
    schemes: Mapping[str, Scheme] | Sequence[Scheme],
    *,
    epochs: int = 10,
    seeds: int | Iterable[int] = 3,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] = _ADAM,
    batch_size: int = BATCH_SIZE,
) -> Comparison:
    """Train one network from several initializations, and compare how it learns.

    Every scheme sees the same batches, and for one seed in the same order; the network is made
    under that seed, and what a scheme leaves alone is equal for all of them.

    Args:
        make_model: makes the network.
        data: (inputs, targets), which are cut into batches, or an iterable of such pairs.
        schemes: by name, or a sequence: a `fastinit.recipes.Recipe`, the name of a preset, a
            function for `module.apply`, or None for the model as it is made.
        epochs: passes over the data.
        seeds: how many, from 0 on, or which.
        loss: loss(output, targets); by default cross-entropy for integer targets and the mean
            square otherwise.
        optimizer: makes an optimizer of parameters; by default Adam with lr=1e-3.
        batch_size: of (inputs, targets).

    Returns: the comparison; a table when printed.

    Raises:
        TypeError: make_model makes no module, a scheme is of another kind, data are no batches.
        ValueError: no scheme, seed, epoch or batch; inputs and targets of different lengths.

    Example:
        >>> import torch
        >>> from fastinit.diagnostics import compare
        >>> x = torch.randn(64, 4)
        >>> result = compare(
        ...     lambda: torch.nn.Linear(4, 1), (x, x[:, :1]), {"default": None}, epochs=2, seeds=1
        ... )
        >>> result.losses["default"].shape
        torch.Size([1, 2])
    """
    named = _named(schemes)
    chosen = tuple(range(seeds) if isinstance(seeds, int) else seeds)
    if not chosen or epochs < 1:
        raise ValueError(f"seeds and epochs must be at least 1, got {seeds!r} and {epochs!r}")
    batches = _batches(data, batch_size)
    criterion = loss or _default_loss(batches[0][1])
    runs = [(name, seed) for name in named for seed in chosen]
    curves: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in named}
    with torch.random.fork_rng(devices=_devices(batches)):
        for name, seed in progress(runs, len(runs), "training"):
            model = _made(make_model, named[name], seed)
            trained = _train(model, batches, epochs, seed, criterion, optimizer)
            curves[name].append(trained)
    losses = {name: torch.tensor([c[0] for c in of]).double() for name, of in curves.items()}
    norms = {name: torch.tensor([c[1] for c in of]).double() for name, of in curves.items()}
    level = _level(losses)
    records = tuple(_record(name, losses[name], norms[name], level) for name in named)
    return Comparison(records, losses, norms, chosen)


# What is compared.


def _named(schemes: Mapping[str, Scheme] | Sequence[Scheme]) -> dict[str, Scheme]:
    if isinstance(schemes, Mapping):
        named = {str(name): scheme for name, scheme in schemes.items()}
    elif isinstance(schemes, Sequence) and not isinstance(schemes, str):
        named = {_name(scheme): scheme for scheme in schemes}
        if len(named) < len(schemes):
            raise ValueError("schemes have the same names; pass a mapping from names to schemes")
    else:
        raise TypeError(f"schemes must be a mapping or a sequence, got {schemes!r}")
    if not named:
        raise ValueError("schemes is empty; pass such as {'default': None}")
    for name, scheme in named.items():
        if not (scheme is None or isinstance(scheme, (Recipe, str)) or callable(scheme)):
            raise TypeError(
                f"schemes[{name!r}] must be a Recipe, the name of a preset, a function for "
                f"module.apply or None, got {scheme!r}"
            )
    return named


def _name(scheme: Scheme) -> str:
    if scheme is None:
        return "as made"
    if isinstance(scheme, str):
        return scheme
    return getattr(scheme, "__name__", "") or getattr(scheme, "name", "") or "scheme"


def _made(make_model: Callable[[], nn.Module], scheme: Scheme, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = make_model()
    if not isinstance(model, nn.Module):
        raise TypeError(f"make_model must make a torch.nn.Module, got {model!r}")
    require_values(model)
    if isinstance(scheme, (Recipe, str)):
        whole_models.init_(model, scheme, seed=seed)
    elif scheme is not None:
        torch.manual_seed(seed)
        model.apply(scheme)
    return model


def _batches(data: Any, size: int) -> list[Batch]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[1], Tensor):
        inputs, targets = data
        if isinstance(inputs, Tensor):
            if len(inputs) != len(targets):
                raise ValueError(
                    f"data has {len(inputs)} inputs and {len(targets)} targets; pass as many"
                )
            data = zip(torch.split(inputs, size), torch.split(targets, size), strict=True)
        else:
            data = [data]  # arguments or keywords of one batch
    batches = list(data)
    if not batches:
        raise ValueError("data is empty; pass (inputs, targets) or an iterable of such batches")
    for batch in batches:
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if not pair or not isinstance(batch[1], Tensor):
            raise TypeError(
                "data must be (inputs, targets) or an iterable of such batches, got a batch of "
                f"{type(batch).__name__}"
            )
    return [(inputs, targets) for inputs, targets in batches]


def _default_loss(targets: Tensor) -> Callable[[Any, Tensor], Tensor]:
    whole = not (targets.is_floating_point() or targets.is_complex())
    return nn.functional.cross_entropy if whole else nn.functional.mse_loss


def _devices(batches: list[Batch]) -> list[int]:
    return sorted({targets.device.index or 0 for _, targets in batches if targets.is_cuda})


# A run.


def _train(
    model: nn.Module,
    batches: list[Batch],
    epochs: int,
    seed: int,
    criterion: Callable[[Any, Tensor], Tensor],
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
) -> tuple[list[float], list[float]]:
    """The mean loss of each epoch, before each step, and the mean norm of the gradient."""
    torch.manual_seed(seed)  # of dropout
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters)
    losses, norms = [], []
    for order in _orders(len(batches), epochs, seed):
        seen = []
        for at in order:
            inputs, targets = batches[at]
            optimizer.zero_grad()
            value = criterion(run(model, inputs, "data"), targets)
            value.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in parameters if p.grad is not None]
            seen.append(torch.stack([value.detach(), nn.utils.get_total_norm(gradients)]))
            optimizer.step()
        loss, norm = torch.stack(seen).double().mean(0).tolist()
        losses.append(loss)
        norms.append(norm)
    return losses, norms


def _orders(count: int, epochs: int, seed: int) -> Iterator[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield torch.randperm(count, generator=draw).tolist()


# Numbers.


def _median(values: list[float]) -> float:
    """The lower of the middle ones, nan counting as the largest."""
    ordered = sorted(math.inf if math.isnan(value) else value for value in values)
    return ordered[(len(ordered) - 1) // 2]


def _level(losses: Mapping[str, Tensor]) -> float:
    """The loss that half of all runs get down to."""
    lowest = torch.stack([runs.nan_to_num(math.inf).amin(1) for runs in losses.values()])
    return _median(lowest.flatten().tolist())


def _epochs_to(losses: Tensor, threshold: float) -> float:
    firsts = []
    for run_losses in losses.tolist():
        reached = (at for at, value in enumerate(run_losses, 1) if value <= threshold)
        firsts.append(float(next(reached, math.inf)))
    return _median(firsts)


def _record(name: str, losses: Tensor, norms: Tensor, level: float) -> SchemeRecord:
    final = losses[:, -1].tolist()
    return SchemeRecord(
        name,
        _median(losses[:, 0].tolist()),
        _median(final),
        min(final),
        max(final),
        _epochs_to(losses, level),
        _median(norms[:, 0].tolist()),
    )
