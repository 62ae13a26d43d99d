"""Results of fastinit.diagnostics as text: no line over 80 columns, nothing lost but middles."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastinit.diagnostics.tables import Cell, Result, progress, render, written


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: float


@dataclass(frozen=True)
class Rows(Result[Row]):
    extra: tuple[float, ...] = ()

    def headers(self) -> list[str]:
        return ["name", "value"]

    def rows(self) -> list[list[Cell]]:
        return [[r.name, r.value] for r in self.records]


numbers = st.floats() | st.integers(-(10**9), 10**9) | st.none()


@given(st.lists(st.tuples(st.text("abc._0", max_size=200), numbers, numbers), max_size=8))
def test_no_line_is_wider_than_a_terminal(rows: list[tuple[Cell, ...]]) -> None:
    lines = render(["name", "mean", "std"], rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= 80


def test_columns_stand_under_each_other() -> None:
    text = render(["name", "n"], [["layers.0", 7], ["x", 1234]])
    assert text.splitlines() == ["name         n", "layers.0     7", "x         1234"]


def test_the_ends_of_a_long_name_stay() -> None:
    name = "model." + "blocks." * 20 + "weight"
    line = render(["name", "n"], [[name, 7]]).splitlines()[1]
    assert line.startswith("model.") and ".weight" in line and ".." in line


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.0, "0"), (1e-7, "1e-7"), (1.23456, "1.23"), (10**7, "10000000"), (None, "-"),
     (2e30, "2e30"), (math.nan, "nan"), (-math.inf, "-inf")],
)  # fmt: skip
def test_numbers(cell: Cell, text: str) -> None:
    assert written(cell) == text


def test_json_holds_every_field() -> None:
    rows = Rows((Row("a", 0.5), Row("b", math.nan)), (math.inf, 2.0))
    assert json.loads(rows.to_json()) == {
        "records": [{"name": "a", "value": 0.5}, {"name": "b", "value": None}],
        "extra": [None, 2.0],
    }
    assert [r.name for r in rows] == ["a", "b"] and len(rows) == 2


def test_json_of_arrays_and_tensors() -> None:
    rows = Rows((Row("a", 0.5),), np.array([1.0, math.nan]))  # type: ignore[arg-type]
    assert json.loads(rows.to_json())["extra"] == [1.0, None]
    rows = Rows((Row("a", 0.5),), torch.tensor([1, 2]))  # type: ignore[arg-type]
    assert json.loads(rows.to_json())["extra"] == [1, 2]


def test_rich_draws_the_same_cells() -> None:
    console = pytest.importorskip("rich.console").Console(width=80)
    with console.capture() as capture:
        console.print(Rows((Row("layers.0", 0.25),)))
    assert capture.get().split() == ["name", "value", "layers.0", "0.25"]


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), 3, "training")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_importing_fastinit_imports_no_painter() -> None:
    code = (
        "import sys, fastinit, fastinit.diagnostics\n"
        "print([m for m in ('matplotlib', 'seaborn', 'rich', 'torch.distributed.tensor')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_notebook_shows_the_table() -> None:
    rows = Rows((Row("<lambda>", 1.5),))
    shown = rows._repr_html_()
    assert shown.startswith("<pre>name") and "&lt;lambda&gt;" in shown and "<lambda>" not in shown
