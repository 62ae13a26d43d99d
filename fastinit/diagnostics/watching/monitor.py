"""Watching activations and their gradients while a network runs.

Owns the hooks: which modules get them, on which steps, and what is kept. The numbers are
`moments`'s; nothing is copied from the device until it is asked for. Must not draw.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._fill.extension import untraceable
from fastinit.diagnostics.limits import InitializationWarning
from fastinit.diagnostics.subject import require_runnable
from fastinit.diagnostics.watching import moments
from fastinit.diagnostics.watching.choosing import Patterns, chosen
from fastinit.diagnostics.watching.moments import Bounds
from fastinit.diagnostics.watching.records import ActivationRecord, ActivationSummary
from fastinit.diagnostics.watching.remarks import remarks
from fastinit.diagnostics.watching.units import Axes, bounds_of, tensor_of, values_of

SLOTS = 128  # steps that are kept one by one; then every second one goes
_DIRECTIONS = ("forward", "backward")


class _Watched:
    """A module, its rows in the table, and the peaks of its units in either direction."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.bounds = bounds_of(module)
        self.rows: list[Tensor] = []
        self.peaks: list[Tensor | None] = [None, None]
        self.inputs = 0  # values of each unit, in all steps


class ActivationMonitor:
    """Watch what goes through the modules of a network, step by step.

    Formula: per module and step the count, mean, standard deviation and largest magnitude of the
    output, the fraction of dead units and of saturated values, and how many are not finite; merged
    over calls and steps by Chan's formula. On the device, without waiting for it, in memory that
    does not grow: of more than 128 steps every second one is let go, then every fourth; the summary
    counts all of them.
    Source: Chan, Golub and LeVeque 1979; thresholds in docs/diagnostics.md.

    Args:
        module: the network. A call of it is a step. Not a compiled one.
        every: watch each so manieth step, from the first one on; the others run without hooks.
        backward: whether to watch gradients of the outputs as well.
        include: what to watch: a glob over names ("**.mlp"), "re:...", a module class, a predicate
            (name, module), or a list of these. By default all layers and blocks of layers, without
            what only passes values on.

    Raises:
        TypeError: module is no module, include no pattern.
        ValueError: every is below 1, nothing fits include, parameters on meta.
        RuntimeError: the module is compiled.

    Example:
        >>> import torch
        >>> from fastinit.diagnostics import ActivationMonitor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> with ActivationMonitor(model) as monitor:
        ...     y = model(torch.ones(16, 4))
        >>> [record.name for record in monitor.records()]
        ['0', '1']
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        every: int = 1,
        backward: bool = False,
        include: Patterns = None,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be an int of at least 1, got {every!r}")
        require_runnable(module)
        self.module = module
        self.every = every
        self.backward = backward
        self._all = include is None
        self._watched = [_Watched(name, part) for name, part in chosen(module, include)]
        if not self._watched:
            raise ValueError(
                f"include fits no module, got {include!r}; module has such as "
                f"{', '.join(name for name, _ in list(module.named_modules())[1:6])}"
            )
        roots = [watched for watched in self._watched if watched.module is module]
        self._root = roots[0] if roots else None
        self._table: Tensor | None = None
        self._steps = 0  # begun
        self._open = False  # whether the table holds a step that history does not
        self._kept: list[int] = []  # the step in each slot
        self._stride = 1  # of logged steps in the slots
        self._logged = 0
        self._axes = Axes()
        self._seen = False
        self._root_hooks: list[Any] = []
        self._hooks: list[Any] = []

    # Hooks.

    def __enter__(self) -> ActivationMonitor:
        if self._root_hooks:
            raise RuntimeError("the monitor is entered already; leave it first, or make another")
        require_runnable(self.module)
        self._root_hooks = [
            self.module.register_forward_pre_hook(self._before, prepend=True),
            self.module.register_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._detach()
        for hook in self._root_hooks:
            hook.remove()
        self._root_hooks = []
        if kind is None:
            if not self._steps:
                message = (
                    "no call of module was seen; a part of it or a compiled copy ran, if anything "
                    "did. Pass what is called, and watch it before it is compiled"
                )
                warnings.warn(message, InitializationWarning, stacklevel=2)
            modules = {one.name: one.module for one in self._watched}
            inputs = {one.name: one.inputs for one in self._watched}
            for remark in remarks(self.summary(), modules, inputs):
                warnings.warn(remark, InitializationWarning, stacklevel=2)

    @untraceable
    def _before(self, module: nn.Module, inputs: object) -> None:
        self._close()
        step = self._steps
        self._steps += 1
        self._detach()  # of a step that raised
        if step % self.every:
            return
        self._begin(step)
        for watched in self._watched:
            if watched.module is module:
                continue  # its hooks may be in use just now; `_after` sees to it
            hook = partial(self._see, watched)
            self._hooks.append(watched.module.register_forward_hook(hook))

    @untraceable
    def _after(self, module: nn.Module, inputs: object, output: object) -> None:
        attached = bool(self._hooks)
        self._detach()
        if self._open and output is not None and self._root is not None:
            self._see(self._root, module, inputs, output)
        if attached and self._all and not self._seen and output is not None:
            raise RuntimeError(
                "module ran, but none of its hooks did: it has been compiled since the monitor was "
                "entered, or runs under torch.compile. Watch the module before it is compiled"
            )

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @untraceable
    def _see(self, watched: _Watched, module: nn.Module, inputs: object, output: object) -> None:
        self._seen = True
        tensor = tensor_of(output)
        if tensor is None:
            return
        values = values_of(tensor)
        axis = self._axes.of(module, values)
        watched.inputs += values.numel() // max(1, values.shape[axis])
        self._add(watched, 0, axis, values)
        if self.backward and tensor.requires_grad:
            hook = partial(self._see_gradient, watched, axis)
            tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _see_gradient(self, watched: _Watched, axis: int, gradient: Tensor) -> None:
        if self._open:
            self._add(watched, 1, axis, values_of(gradient))

    def _add(self, watched: _Watched, direction: int, axis: int, values: Tensor) -> None:
        """Into the rows, on the device of the first values; those of another one go there."""
        if not watched.rows:
            self._give_rows(values.device)
        device = watched.rows[direction].device
        peaks = watched.peaks[direction]
        units = values.shape[axis]
        if peaks is None or peaks.shape[1] != units:  # another number of units: begin anew
            peaks = watched.peaks[direction] = moments.peaks_for(units, device)
        if values.device != device:
            values = values.to(device)
        bounds = watched.bounds if direction == 0 else Bounds()
        moments.accumulate(watched.rows[direction], peaks, values, axis, bounds)

    # Steps.

    def _give_rows(self, device: torch.device) -> None:
        count = len(self._watched) * (1 + self.backward)
        with torch.inference_mode(False):  # so that they may be written outside it as well
            self._table = moments.rows_for(count, device)
            self._history = self._table.new_zeros(SLOTS, count, len(moments.COLUMNS))
            rows = list(self._table)
        for i, watched in enumerate(self._watched):
            watched.rows = rows[i :: len(self._watched)]

    def _begin(self, step: int) -> None:
        """Empty the rows of the current step."""
        if self._table is not None:
            self._table[:, 0].zero_()
        self._open = True
        self._seen = False
        self._current = step

    def _close(self) -> None:
        """Keep the current step: in a new slot, or in that of a last one which is between two."""
        if not self._open:
            return
        self._open = False
        if self._table is None:
            return
        if self._kept and (self._logged - 1) % self._stride:
            self._kept.pop()  # the latest is shown, but not kept
        if len(self._kept) == SLOTS:
            self._history[: SLOTS // 2] = self._history[::2].clone()
            self._kept = self._kept[::2]
            self._stride *= 2
        self._history[len(self._kept)] = self._table[:, 0]
        self._kept.append(self._current)
        self._logged += 1

    # What was seen.

    def records(self) -> tuple[ActivationRecord, ...]:
        """One for each module, direction and step, in the order of steps; waits for the device."""
        self._close_if_idle()
        if self._table is None:
            return ()
        slots = self._history[: len(self._kept)].tolist()
        return tuple(
            record
            for step, rows in zip(self._kept, slots, strict=True)
            for record in self._records(step, rows)
        )

    def summary(self) -> ActivationSummary:
        """One record for each module and direction over all steps, under the last step's number."""
        history = self.records()
        if self._table is None:
            return ActivationSummary((), history)
        step = self._kept[-1] if self._kept else 0
        return ActivationSummary(tuple(self._records(step, self._table[:, 1].tolist())), history)

    def plot(self) -> Any:
        """A matplotlib Figure of what was seen: spread by module and step, dead and saturated."""
        return self.summary().plot()

    def _close_if_idle(self) -> None:
        if not self._hooks:
            self._close()

    def _records(self, step: int, rows: list[list[float]]) -> Iterator[ActivationRecord]:
        for i, row in enumerate(rows):
            direction, place = divmod(i, len(self._watched))
            if row[0]:
                yield ActivationRecord(
                    self._watched[place].name, _DIRECTIONS[direction], step, **moments.read(row)
                )
