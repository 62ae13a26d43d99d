"""Tables: a plan, or a report that is built on it, as text, Markdown and JSON.

Owns the columns, the text of a law with its numbers, and the rows that stand for all blocks of a
list. Must not know how a plan is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastinit.initializers import Initializer
from fastinit.recipes.names import template_of
from fastinit.recipes.record import Record

_COLUMNS = ("name", "shape", "law", "rule", "note")


def law_text(initializer: Initializer, resolved: Sequence[Initializer]) -> str:
    """The initializer as written, each expression with its value, or with its first and last.

    Args:
        initializer: as the recipe has it.
        resolved: the same with plain numbers, for one parameter or for several.
    """
    values = {}
    for name in initializer.expressions:
        known = [f"{n:.3g}" for n in (getattr(one, name) for one in resolved) if type(n) is float]
        if known:
            values[name] = known[0] if len(set(known)) == 1 else f"{known[0]} to {known[-1]}"
    return initializer.describe(values)


def rows(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """One row for all parameters that differ in the index of their block alone."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        part = record.part.name if record.part is not None else None
        at = (template_of(record.name), part, record.shape, record.initializer, record.rule)
        groups.setdefault((*at, record.note), []).append(record)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Record]) -> tuple[str, ...]:
    first = group[0]
    name = first.name if len(group) == 1 else _joined_name([record.name for record in group])
    if first.part is not None:
        name += f"[{first.part.name}]"
    law = law_text(first.initializer, [record.resolved for record in group])
    shape = " x ".join(map(str, first.shape)) or "scalar"
    return name, shape, law, first.rule, first.note


def _joined_name(names: Sequence[str]) -> str:
    """Names that differ in indices, as one: h.0-11.mlp.weight."""
    joined = []
    for steps in zip(*(name.split(".") for name in names), strict=True):
        if len(set(steps)) == 1:
            joined.append(steps[0])
        else:
            indices = sorted({int(step) for step in steps})
            joined.append(f"{indices[0]}-{indices[-1]}")
    return ".".join(joined)


def text(records: Iterable[Record]) -> str:
    """The table of a plan for a terminal."""
    return aligned([_COLUMNS, *rows(records)])


def markdown(records: Iterable[Record]) -> str:
    """The table of a plan in Markdown."""
    return marked([_COLUMNS, *rows(records)])


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines, of which the first is the head, with columns as wide as they need be, or left out."""
    kept = [at for at in range(len(lines[0])) if any(line[at] for line in lines[1:])]
    widths = [max(len(line[at]) for line in lines) for at in kept]
    return "\n".join(
        " | ".join(line[at].ljust(width) for at, width in zip(kept, widths, strict=True)).rstrip()
        for line in lines
    )


def marked(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines, of which the first is the head, as a table in Markdown."""
    head, *body = lines
    ruled = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in ruled)


def data(record: Record) -> dict[str, Any]:
    """A record as JSON-able data."""
    found: dict[str, Any] = {
        "name": record.name,
        "shape": list(record.shape),
        "dtype": str(record.dtype).removeprefix("torch."),
        "device": str(record.device),
        "initializer": record.initializer.to_dict(),
        "std": record.std,
        "low": record.low,
        "high": record.high,
        "rule": record.rule,
        "key": record.key,
        "note": record.note,
    }
    if record.initializer != record.resolved:
        found["resolved"] = record.resolved.to_dict()
    if record.part is not None:
        part = record.part
        found["part"] = {"name": part.name, "axis": part.axis, "range": [part.start, part.stop]}
    if record.tied:
        found["tied"] = list(record.tied)
    return found
