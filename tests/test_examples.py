"""The tutorials run as they stand, say what to conclude, and print what their pages show."""

from __future__ import annotations

import math
import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "examples").glob("[0-9]*.py"))
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^```(?:text)?\n(.*?)^```|((?:^    [^\n]*\n)+)", re.MULTILINE | re.DOTALL)
NEAR = 0.1  # of numbers that a page shows: other processors round otherwise, and training goes on


@pytest.fixture(autouse=True)
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def page_of(path: Path) -> Path:
    return ROOT / "docs" / "tutorials" / f"{path.stem}.md"


def are_alike(shown: str, printed: str) -> bool:
    """Equal words, or numbers that are near each other."""
    if shown == printed:
        return True
    try:
        a, b = (float(word.rstrip("%;,")) for word in (shown, printed))
    except ValueError:
        return False
    return math.isclose(a, b, rel_tol=NEAR)


def is_printed(line: str, printed: list[str]) -> bool:
    """Whether the words of a line stand one after the other in what was printed."""
    words = line.split()
    return any(
        all(map(are_alike, words, printed[at:])) for at in range(len(printed) - len(words) + 1)
    )


def shown_on(page: str) -> list[str]:
    """The lines of output on a page."""
    blocks = ["".join(groups) for groups in SHOWN.findall(CODE.sub("", page))]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    runpy.run_path(str(path))["main"](tmp_path)
    printed = capsys.readouterr().out
    assert "onclude" in printed
    drawn = {picture.name for picture in tmp_path.glob("*.png")}
    page = page_of(path)
    assert drawn and all(f"({name})" in page.read_text() for name in drawn)
    assert all((page.parent / name).exists() for name in drawn)
    shown = shown_on(page.read_text())
    assert shown
    words = printed.split()
    assert [line for line in shown if not is_printed(line, words)] == []


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_code_of_a_page(path: Path) -> None:
    """From top to bottom, as it stands."""
    pytest.importorskip("matplotlib")
    names: dict[str, object] = {}
    blocks = CODE.findall(page_of(path).read_text())
    assert blocks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            exec(block, names)


def test_other_numbers_are_not_taken_for_those_shown() -> None:
    printed = ["default", "0.336", "->", "0.00152"]
    assert is_printed("default 0.34 -> 0.0015", printed)
    assert not is_printed("default 0.336 -> 0.152", printed)
    assert not is_printed("xavier 0.336", printed)


def test_there_are_tutorials() -> None:
    assert len(TUTORIALS) >= 3
