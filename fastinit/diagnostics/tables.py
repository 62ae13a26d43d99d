"""What the results of `fastinit.diagnostics` share: records, a table of 80 columns, JSON.

Owns how numbers are written, how a table is fitted to a terminal, and the progress bar. rich is
used where it is installed and the output is a terminal, never otherwise. Must not know what any
record means.
"""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

_Record = TypeVar("_Record")
_Item = TypeVar("_Item")

WIDTH = 80  # columns of a terminal
_SHORTEST = 12  # a text is not cut below this
_GAP = "  "

Cell = str | float | int | None


@dataclasses.dataclass(frozen=True)
class Result(Generic[_Record]):
    """Records as a sequence, as a table and as JSON; what a result has besides, it adds.

    Args:
        records: frozen dataclasses, in the order of the network.
    """

    records: tuple[_Record, ...]

    def __iter__(self) -> Iterator[_Record]:
        """The records in their order."""
        return iter(self.records)

    def __len__(self) -> int:
        """How many records there are."""
        return len(self.records)

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        raise NotImplementedError

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Lines to stand below the table."""
        return []

    def __str__(self) -> str:
        """The table and the notes, as plain text."""
        return "\n".join([render(self.headers(), self.rows()), *self.notes()])

    def to_json(self) -> str:
        """The fields as JSON text; numbers that JSON lacks (nan, inf) become null."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps(plain(fields), indent=1)

    def _repr_html_(self) -> str:
        """What a notebook shows: the text as it is."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def __rich__(self) -> Any:
        """The table as rich draws it; asked for by rich alone."""
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        rows = self.rows()
        for i, header in enumerate(self.headers()):
            texts = [row[i] for row in rows]
            if _is_text(texts):
                table.add_column(header, overflow="fold")
            else:
                table.add_column(header, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(written(cell) for cell in row))
        return Group(table, *self.notes())


def plain(value: Any) -> Any:
    """`value` in the types of JSON: dataclasses and mappings as dicts, nan and inf as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    if hasattr(value, "tolist"):  # arrays and tensors
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def written(cell: Cell) -> str:
    """A cell as text: three significant digits, counts in full, nothing for None."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        text = format(cell, ".3g")
        return text.replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")
    return str(cell)


def _is_text(column: Sequence[Cell]) -> bool:
    return any(isinstance(cell, str) for cell in column)


def render(headers: Sequence[str], rows: Sequence[Sequence[Cell]], width: int = WIDTH) -> str:
    """A table no wider than `width`: numbers to the right, texts cut in the middle if need be.

    Args:
        headers: one for each column.
        rows: cells; a column that holds a str is one of texts.
        width: in characters.
    """
    texts = [[written(cell) for cell in row] for row in rows]
    columns = list(zip(headers, *texts, strict=True)) if texts else [(h,) for h in headers]
    left = [i == 0 or _is_text([row[i] for row in rows]) for i in range(len(headers))]
    widths = [max(map(len, column)) for column in columns]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0:  # the widest text gives way first
        widest = max((i for i in range(len(widths)) if left[i]), key=lambda i: widths[i])
        if widths[widest] <= _SHORTEST:
            break
        widths[widest] -= 1
        excess -= 1
    lines = []
    for line in [list(headers), *texts]:
        cells = [
            _cut(cell, n).ljust(n) if is_left else cell.rjust(n)
            for cell, n, is_left in zip(line, widths, left, strict=True)
        ]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    """`text` with its middle left out; the ends of a dotted name tell the most."""
    if len(text) <= width:
        return text
    tail = (width - 2) * 2 // 3
    return f"{text[: width - 2 - tail]}..{text[-tail:]}"


def has_rich() -> bool:
    """Whether rich is installed; it is not imported."""
    return importlib.util.find_spec("rich") is not None


def show(result: object) -> None:
    """Print a result: by rich where it is there and stdout is a terminal, else as plain text."""
    if sys.stdout.isatty() and has_rich():
        from rich.console import Console

        Console(highlight=False, soft_wrap=False).print(result)
    else:
        print(result)


def progress(items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
    """`items`, with a bar on stderr where that is a terminal and rich is there."""
    if not (sys.stderr.isatty() and has_rich()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, total=total, console=Console(stderr=True), transient=True)
