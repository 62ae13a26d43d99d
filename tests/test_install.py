"""Installing the obvious way: it stops within seconds, without a download, and says what works.

Everything is tried on the source distribution, so that one misses no file, with pip and without an
index: what would have been fetched shows as another error. That it then builds is for .ci/run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "\n    pip install --no-build-isolation .\n"
SECONDS = 120  # a few on a quiet machine

# Not find_spec("pip"): setuptools' finder would take it for pip's start, and give up its distutils.
needs_pip = pytest.mark.skipif(not list(distributions(name="pip")), reason="needs pip")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
pytestmark = pytest.mark.skipif(
    not (ROOT / "csrc").exists() or find_spec("setuptools") is None, reason="needs the sources"
)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with setuptools and nothing else, not even pip."""
    root = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    packages = next((root / "lib").glob("python*/site-packages"))
    found = find_spec("setuptools")
    assert found is not None
    assert found.origin is not None
    home = Path(found.origin).parents[1]
    for part in [home / "setuptools", home / "_distutils_hack", *home.glob("setuptools-*")]:
        (packages / part.name).symlink_to(part)
    return root / "bin" / "python"


@pytest.fixture(scope="module")
def sources(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked: made where there is neither torch nor pip."""
    folder = tmp_path_factory.mktemp("sources")
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".*", "build", "gpu-results")
    shutil.copytree(ROOT, tree, ignore=ignored)
    program = (
        "import sys; sys.path.insert(0, 'tools'); import build_backend as b;"
        "assert b.get_requires_for_build_sdist() == ['setuptools>=77'];"
        f"print(b.build_sdist({str(folder)!r}))"
    )
    run = subprocess.run(
        [bare, "-c", program], cwd=tree, capture_output=True, text=True, timeout=SECONDS
    )
    assert run.returncode == 0, run.stderr
    with tarfile.open(folder / run.stdout.split()[-1]) as archive:
        archive.extractall(folder / "unpacked")
    return next((folder / "unpacked").iterdir())


@pytest.fixture
def refused(sources: Path, tmp_path: Path) -> Run:
    """Runs `pip install ARGUMENTS .` in the sources and gives what it printed."""

    def run(*arguments: str, python: Path | None = None, **environ: str) -> str:
        other = [] if python is None else ["--python", str(python)]
        command = [sys.executable, "-m", "pip", *other, "install", "--no-index", *arguments, "."]
        done = subprocess.run(
            [*command, "--target", str(tmp_path / "target")],
            cwd=sources,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stdout, done.stdout
        assert "Nothing was downloaded" in done.stdout, done.stdout
        assert not (tmp_path / "target").exists()
        return "\n".join(
            line.strip("│ ") and line.removeprefix("      ").rstrip()
            for line in done.stdout.splitlines()
        )

    return run


def test_a_source_distribution_has_every_source(sources: Path) -> None:
    for folder in ("csrc", "fastinit", "tests", "tools", "docs", "examples", "benchmarks"):
        expected = {
            path.relative_to(ROOT)
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".pyi", ".cpp", ".h", ".cu", ".md", ".json", ".txt"}
            and not {"_build", "results", "__pycache__", ".hypothesis"} & set(path.parts)
        }
        lacking = [str(path) for path in sorted(expected) if not (sources / path).is_file()]
        assert lacking == []
    assert not list(sources.rglob("*.so"))


@needs_pip
@needs_compiler
def test_isolated_builds_stop(refused: Run) -> None:
    message = refused()
    assert "in isolation" in message
    assert COMMAND in message


@needs_pip
def test_without_torch(refused: Run, bare: Path) -> None:
    message = refused("--no-build-isolation", python=bare)
    assert "Missing: torch>=2.11" in message
    assert "isolation, where" not in message
    assert "pip install 'torch>=2.11'" in message
    assert "&& pip install --no-build-isolation ." in message


@needs_pip
def test_without_torch_in_isolation(refused: Run, bare: Path) -> None:
    assert "pip install 'torch>=2.11'" in refused(python=bare)


@needs_pip
def test_without_ninja(refused: Run, bare: Path, tmp_path: Path) -> None:
    shim = tmp_path / "ninja"  # such as a version manager leaves; a command that fails is none
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    message = refused("--no-build-isolation", python=bare, PATH=path)
    assert "Missing: ninja" in message
    assert "pip install 'torch>=2.11' ninja && " in message


@needs_pip
def test_without_a_compiler(refused: Run) -> None:
    message = refused("--no-build-isolation", CXX="/nonexistent/c++")
    assert "Missing: a C++20 compiler: no /nonexistent/c++ on PATH" in message
    assert COMMAND in message


@needs_pip
def test_with_an_old_compiler(refused: Run, tmp_path: Path) -> None:
    old = tmp_path / "c++"
    old.write_text("#!/bin/sh\necho 'unrecognized option -std=c++20' >&2\nexit 1\n")
    old.chmod(0o755)
    message = refused("--no-build-isolation", CXX=str(old))
    assert "says unrecognized option -std=c++20" in message
