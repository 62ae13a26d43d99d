"""Reports: what a whole-model call did to each parameter, as records and as a table.

Owns the plan of one tensor, the record of it, and the forms a report prints in. Must not know where
plans come from, nor how they are carried out.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit._fill.extension import native
from fastinit._fill.keys import Key
from fastinit.initializers import Constant as ConstantInitializer
from fastinit.initializers import Initializer, Keep, Normal, TruncNormal, Uniform
from fastinit.initializers.base import Numbers
from fastinit.models.names import Held, tensors_at
from fastinit.models.steps import Constant, Draw, Made, Step, key_of
from fastinit.recipes import table
from fastinit.recipes.record import Settled

_NUMBERS = {0: "uniform", 1: "normal", 2: "trunc_normal"}


class Why(NamedTuple):
    """Why something is written, where it is no recipe's law: the first step tells which law."""

    rule: str
    note: str = ""
    initializer: None = None
    resolved: None = None
    part: None = None


class Plan(NamedTuple):
    """What is to be written to one tensor, and why."""

    name: str
    steps: Sequence[Step]
    why: Settled | Why
    tied: Sequence[str] = ()  # its other names
    parametrized: bool = False  # computed by the module, written through right_inverse


@dataclass(frozen=True, slots=True)
class Record:
    """What was done to one parameter, or to one part of a packed one.

    Args:
        name: in the bare model; a tied parameter has its first name.
        shape, dtype, device: of the parameter, or of the part.
        initializer: as the recipe has it, or what its code came to; Keep() where nothing was
            written, None where code computed the values in ways that no initializer says.
        std, low, high: the law's, None where it has none; std is that before a truncation.
        rule: the pattern that fits, as text.
        key: of the first draw.
        note: what else there is to know.
        law: the initializer as text, expressions with their values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    initializer: Initializer | None
    std: float | None
    low: float | None
    high: float | None
    rule: str
    key: Key | None
    note: str
    law: str


class Form(NamedTuple):
    """What there is to know of a tensor but for its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def forms_of(tensors: Sequence[Tensor]) -> list[Form]:
    """The forms of tensors, one for all that are alike."""
    firsts = native.first_alike(tensors)
    forms = {
        at: Form(tuple(tensors[at].shape), tensors[at].dtype, tensors[at].device)
        for at in set(firsts)
    }
    return [forms[at] for at in firsts]


class Report:
    """What `init_` or `materialize_` did: a record for each parameter, in the model's order.

    Iterate it, print it, or take `to_json()` or `to_markdown()`; `warnings` says what deserves a
    look, and `manifest()` makes what recreates the weights.
    """

    def __init__(
        self,
        parameters: Sequence[Plan],
        buffers: Sequence[Plan],
        forms: Sequence[Form],
        seed: int,
        warnings: Sequence[str],
        module: nn.Module,
        held: Held,
        make_manifest: Callable[[Report], dict[str, Any]],
    ) -> None:
        self._parameters = parameters
        self._buffers = buffers
        self._forms = forms
        self._records: tuple[Record, ...] | None = None
        self._make_manifest = make_manifest
        self.seed = seed
        self.warnings = tuple(warnings)
        self.module = weakref.ref(module)
        self.versions = versions(held)

    @property
    def plans(self) -> Sequence[Plan]:
        """What was carried out, on buffers as well."""
        return [*self._parameters, *self._buffers]

    @property
    def records(self) -> tuple[Record, ...]:
        """One for each parameter, in the model's order."""
        if self._records is None:
            self._records = tuple(map(_record, self._parameters, self._forms))
        return self._records

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self._parameters)

    def __getitem__(self, place: int | str) -> Record:
        """The record at a place, or that of a name."""
        if isinstance(place, str):
            return next(record for record in self.records if record.name == place)
        return self.records[place]

    def __str__(self) -> str:
        lines = (f"warning: {warning}" for warning in self.warnings)
        return "\n".join([table.aligned(_rows(self.records)), *lines])

    def __repr__(self) -> str:
        return f"<Report of {len(self)} parameters, {len(self.warnings)} warnings>"

    def to_json(self) -> str:
        """A JSON object with `seed`, `records` and `warnings`."""
        return json.dumps(
            {
                "seed": self.seed,
                "records": [_plain(record) for record in self.records],
                "warnings": list(self.warnings),
            }
        )

    def to_markdown(self) -> str:
        """The table in Markdown, with the warnings as a list behind it."""
        told = "".join(f"\n- {warning}" for warning in self.warnings)
        return table.marked(_rows(self.records)) + ("\n" + told if told else "")

    def manifest(self) -> dict[str, Any]:
        """JSON-able data from which every value can be made again; see `fastinit.regenerate`.

        It holds digests of the values, so take it before the model is trained. Where parameters are
        sharded, every rank must call it.

        Raises:
            RuntimeError: the model is gone, or has been changed since.
        """
        return self._make_manifest(self)


def versions(held: Held) -> dict[str, int]:
    """How often each parameter was written so far; inference tensors do not tell."""
    found = native.versions(tensors_at(held.parameters))
    pairs = zip(held.parameters, found, strict=True)
    return {name: version for name, version in pairs if version is not None}


def _record(plan: Plan, form: Form) -> Record:
    why = plan.why
    shape = form.shape if why.part is None else why.part.shape
    resolved = why.resolved or _told(plan.steps)
    initializer = why.initializer or resolved
    keys = [key for step in plan.steps if (key := _key(step)) is not None]
    numbers = resolved.numbers(shape, form.dtype.is_complex) if resolved is not None else Numbers()
    return Record(
        plan.name,
        shape,
        form.dtype,
        form.device,
        initializer,
        numbers.std,
        numbers.low,
        numbers.high,
        why.rule,
        keys[0] if keys else None,
        _note(plan),
        _law(plan, initializer, resolved),
    )


def _key(step: Step) -> Key | None:
    return key_of(step.what.words) if isinstance(step.what, Draw | Made) else None


def _told(steps: Sequence[Step]) -> Initializer | None:
    """The first step as an initializer, if there is one that says it."""
    if not steps:
        return Keep()
    what = steps[0].what
    if isinstance(what, Made):
        return what.initializer
    if isinstance(what, Constant) and not what.value.imag and math.isfinite(what.value.real):
        return ConstantInitializer(what.value.real)
    if isinstance(what, Draw):
        law = what.law
        if law.distribution == 0:
            return Uniform(law.low, law.high)
        if law.distribution == 1:
            return Normal(law.std, law.mean)
        cut = (law.high - law.mean) / law.std
        if cut > 0 and math.isclose(law.mean - law.low, law.high - law.mean, rel_tol=1e-9):
            return TruncNormal(law.std, cut, law.mean)
    return None


def _note(plan: Plan) -> str:
    notes = [plan.why.note] if plan.why.note else []
    if not notes and len(plan.steps) > 1:
        notes = [f"and {len(plan.steps) - 1} more after it"]
    if plan.tied:
        notes.append(f"tied: {', '.join(plan.tied)}")
    return "; ".join(notes)


def _law(plan: Plan, initializer: Initializer | None, resolved: Initializer | None) -> str:
    if plan.why.initializer is not None and resolved is not None:
        return table.law_text(plan.why.initializer, [resolved])
    if initializer is not None:  # as recorded, so that its numbers come from arithmetic
        held = {field.name: getattr(initializer, field.name) for field in fields(initializer)}
        short = {name: float(f"{n:.5g}") for name, n in held.items() if isinstance(n, float)}
        return repr(replace(initializer, **short))
    what = plan.steps[0].what
    if isinstance(what, Draw):
        law = what.law
        return f"{_NUMBERS[law.distribution]}({law.mean:g}, {law.std:g}, {law.low:g}, {law.high:g})"
    return f"constant {what.value}" if isinstance(what, Constant) else "computed"


def _plain(record: Record) -> dict[str, Any]:
    initializer = record.initializer
    return {
        "name": record.name,
        "shape": list(record.shape),
        "dtype": _dtype(record.dtype),
        "device": str(record.device),
        "initializer": None if initializer is None else initializer.to_dict(),
        "std": record.std,
        "low": record.low,
        "high": record.high,
        "rule": record.rule,
        "key": None if record.key is None else [record.key.seed, record.key.offset],
        "note": record.note,
        "law": record.law,
    }


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_COLUMNS = ("name", "shape", "dtype", "law", "std", "low", "high", "rule", "key", "note")


def _rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    return [_COLUMNS, *map(_row, records)]


def _row(record: Record) -> tuple[str, ...]:
    numbers = (record.std, record.low, record.high)
    return (
        record.name,
        " x ".join(map(str, record.shape)) or "scalar",
        _dtype(record.dtype),
        record.law,
        *("" if number is None else f"{number:.5g}" for number in numbers),
        record.rule,
        "" if record.key is None else f"{record.key.seed:016x}",
        record.note,
    )
