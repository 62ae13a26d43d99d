"""The documents: their examples run, and print what the documents say they print."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

from fastinit.recipes import PRESETS
from fastinit.recipes.roles import GROUPS, ROLES

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n\n^```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


DOCUMENTS = ["start", "models", "recipes", "checks", "gains", "calibration", "diagnostics"]


@pytest.mark.parametrize("document", [f"{name}.md" for name in DOCUMENTS])
def test_examples_run(document: str) -> None:
    """Later ones use the names of earlier ones; a block of text behind one is what it prints."""
    names: dict[str, object] = {}
    blocks = BLOCK.findall((DOCS / document).read_text())
    assert blocks
    if any("seaborn" in code for code, _ in blocks):
        pytest.importorskip("seaborn")
    for at, (code, printed) in enumerate(blocks):
        out, file = io.StringIO(), f"{document} {at}"
        # Where `native` reads the source of constructors.
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        with contextlib.redirect_stdout(out):
            exec(compile(code, file, "exec"), names)
        if printed:
            assert out.getvalue() == printed


def test_the_tables_of_recipes_are_complete() -> None:
    text = (DOCS / "recipes.md").read_text()
    assert [name for name in PRESETS if f"| `{name}()` |" not in text] == []
    assert [role for role in (*ROLES, *GROUPS) if f"`{role}`" not in text] == []
