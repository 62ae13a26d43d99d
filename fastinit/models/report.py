"""Reports: what a whole-model call did to each parameter, as records and as a table.

Owns the plan of one tensor, the record of it, and the forms a report prints in. Must not know where
plans come from, nor how they are carried out.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from fastinit._fill.keys import Key
from fastinit.initializers import Constant as ConstantInitializer
from fastinit.initializers import Initializer, Normal, TruncNormal, Uniform
from fastinit.models.steps import Constant, Draw, Made, Step, Value, key_of

_NUMBERS = {0: "uniform", 1: "normal", 2: "trunc_normal"}


@dataclass(slots=True)
class Plan:
    """What is to be written to one tensor, and why."""

    name: str
    steps: Sequence[Step]
    rule: str
    initializer: str | None = None  # as the rule has it; otherwise told by the first step
    note: str = ""
    kept: bool = False  # left as it is, on purpose
    names: Sequence[str] = ()  # all of them, if it is tied


@dataclass(frozen=True, slots=True)
class Record:
    """What was done to one tensor.

    std, low and high are the law's, None where it has none; std is that before a truncation.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    initializer: str
    std: float | None
    low: float | None
    high: float | None
    rule: str
    key: Key | None
    note: str


@dataclass(slots=True)
class Done:
    """A plan and the tensor it was carried out on."""

    plan: Plan
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    is_buffer: bool = False


class Report:
    """What `init_` or `materialize_` did: a record for each parameter, in the model's order.

    Iterate it, print it, or take `to_json()` or `to_markdown()`; `warnings` says what deserves a
    look, and `manifest()` makes what recreates the weights.
    """

    def __init__(
        self,
        done: Sequence[Done],
        seed: int,
        warnings: Sequence[str],
        module: nn.Module,
        make_manifest: Callable[[Report], dict[str, Any]],
    ) -> None:
        self._done = list(done)
        self._records: tuple[Record, ...] | None = None
        self._make_manifest = make_manifest
        self.seed = seed
        self.warnings = tuple(warnings)
        self.module = weakref.ref(module)
        self.versions = {
            name: tensor._version
            for name, tensor in module.named_parameters()
            if not tensor.is_inference()
        }

    @property
    def done(self) -> Sequence[Done]:
        """The plans and what they were carried out on, buffers included."""
        return self._done

    @property
    def records(self) -> tuple[Record, ...]:
        """One for each parameter, in the model's order."""
        if self._records is None:
            self._records = tuple(_record(one) for one in self._done if not one.is_buffer)
        return self._records

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return sum(not one.is_buffer for one in self._done)

    def __getitem__(self, place: int | str) -> Record:
        """The record at a place, or that of a name."""
        if isinstance(place, str):
            return next(record for record in self.records if record.name == place)
        return self.records[place]

    def __str__(self) -> str:
        lines = _table(_rows(self.records))
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

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
        """A table in Markdown."""
        head, *rows = _rows(self.records)
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                         for line in lines)  # fmt: skip

    def manifest(self) -> dict[str, Any]:
        """JSON-able data from which every value can be made again; see `fastinit.regenerate`.

        It holds digests of the values, so take it before the model is trained. Where parameters are
        sharded, every rank must call it.

        Raises:
            RuntimeError: the model is gone, or has been changed since.
        """
        return self._make_manifest(self)


def _record(one: Done) -> Record:
    plan = one.plan
    told = _told(plan.steps, one.shape)
    keys = [key for step in plan.steps if (key := _key(step)) is not None]
    return Record(
        plan.name,
        one.shape,
        one.dtype,
        one.device,
        plan.initializer or _words(plan, told),
        *_numbers(told, one.shape),
        plan.rule,
        keys[0] if keys else None,
        plan.note,
    )


def _key(step: Step) -> Key | None:
    return key_of(step.what.words) if isinstance(step.what, Draw | Made) else None


def _told(steps: Sequence[Step], shape: tuple[int, ...]) -> Initializer | None:
    """The first step as an initializer, if there is one that says it."""
    what = steps[0].what if steps else None
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


def _words(plan: Plan, told: Initializer | None) -> str:
    if plan.kept or not plan.steps:
        return "Keep()"
    if told is not None:
        return repr(told) + (" ..." if len(plan.steps) > 1 else "")
    what = plan.steps[0].what
    if isinstance(what, Draw):
        law = what.law
        return f"{_NUMBERS[law.distribution]}({law.mean:g}, {law.std:g}, {law.low:g}, {law.high:g})"
    return "values" if isinstance(what, Value) else str(what)


def _numbers(
    told: Initializer | None, shape: tuple[int, ...]
) -> tuple[float | None, float | None, float | None]:
    if told is None:
        return None, None, None
    numbers = told.numbers(shape)
    return numbers.std, numbers.low, numbers.high


def _plain(record: Record) -> dict[str, Any]:
    data = {**asdict(record), "dtype": _dtype(record.dtype), "device": str(record.device)}
    data["key"] = None if record.key is None else [record.key.seed, record.key.offset]
    return data


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rows(records: Sequence[Record]) -> list[list[str]]:
    rows = [["name", "shape", "dtype", "initializer", "std", "low", "high", "rule", "key", "note"]]
    for record in records:
        numbers = [record.std, record.low, record.high]
        rows.append(
            [
                record.name,
                "x".join(map(str, record.shape)) or "scalar",
                _dtype(record.dtype),
                record.initializer,
                *("" if number is None else f"{number:.5g}" for number in numbers),
                record.rule,
                "" if record.key is None else f"{record.key.seed:016x}",
                record.note,
            ]
        )
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    used = [i for i in range(len(rows[0])) if len(rows) == 1 or any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    return ["  ".join(row[i].ljust(widths[i]) for i in used).rstrip() for row in rows]
