"""The tutorials run as they stand, say what to conclude, and draw their pictures."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.fixture(autouse=True)
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    runpy.run_path(str(path))["main"](tmp_path)
    printed = capsys.readouterr().out
    assert "onclude" in printed
    drawn = {picture.name for picture in tmp_path.glob("*.png")}
    page = ROOT / "docs" / "tutorials" / f"{path.stem}.md"
    assert drawn and all(f"({name})" in page.read_text() for name in drawn)
    assert all((page.parent / name).exists() for name in drawn)


def test_there_are_tutorials() -> None:
    assert len(TUTORIALS) >= 3
