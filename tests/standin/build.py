"""Builds the stand-in for a CUDA device: the translated kernels and the runtime, as one library."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1]))

from benchmarks import sass  # noqa: E402
from standin import ptx  # noqa: E402

ARCH = 90
# No fused operation but those the kernels name, and no other liberty either.
CXX_FLAGS = [
    "-std=c++20",
    "-O1",
    "-mfma",
    "-ffp-contract=off",
    "-fwrapv",
    "-fopenmp",
    "-fPIC",
    "-w",
]


def compile_to_ptx(folder: Path, *flags: str) -> str:
    """What nvcc makes of the kernels, with the flags of the build and these."""
    command = [sass.find_tool("nvcc"), *sass.FLAGS, f"-arch=compute_{ARCH}", "-ptx", *flags]
    targets = []
    for source in sorted(sass.SOURCE.parent.glob("*.cu")):
        targets.append(folder / source.with_suffix(".ptx").name)
        subprocess.run([*command, "-o", str(targets[-1]), str(source)], check=True)
    return "".join(target.read_text() for target in targets)


def build(folder: Path, text: str, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """The library to preload, with those kernels of `text`, PTX, whose mangled name is wanted."""
    options = f"-Xcompiler={','.join(CXX_FLAGS)}"
    commands, objects = [], []
    for own in HERE.glob("*.cpp"):
        objects.append(folder / own.with_suffix(".o").name)
        commands.append([sass.find_tool("nvcc"), options, "-c", str(own), "-o", str(objects[-1])])
    for i, source in enumerate(ptx.translate(text, 6, wanted)):
        path = folder / f"kernels{i}.cpp"
        path.write_text(source)
        objects.append(path.with_suffix(".o"))
        commands.append(["g++", *CXX_FLAGS, f"-I{HERE}", "-c", str(path), "-o", str(objects[-1])])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(functools.partial(subprocess.run, check=True), commands))
    library = folder / "standin.so"
    # By the name of the CUDA driver, so that nobody looks for another one.
    link = ["g++", "-shared", "-fopenmp", "-Wl,-soname,libcuda.so.1", "-o", str(library)]
    subprocess.run([*link, *map(str, objects)], check=True)
    return library
