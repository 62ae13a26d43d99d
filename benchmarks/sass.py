"""What the CUDA kernels compile to: instructions per element, registers, spills; needs no GPU.

Compiles csrc/cuda/fill.cu with nvcc for one architecture, disassembles it, and counts the
instructions of each main loop on the path that whole 16-byte stores take: from the loop's head
through the store back to the head, without the calls of rare cases (a square root of a subnormal)
and without the branch for the tensor's ends.

Run: python -m benchmarks.sass [--arch 90] [--check]
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "csrc" / "cuda" / "fill.cu"
MEASURE = SOURCE.with_name("measure.cu")
ORTHOGONAL = SOURCE.with_name("orthogonal.cu")
# What the build uses; setup.py defines it and, run under another name, does nothing.
FLAGS: list[str] = runpy.run_path(str(ROOT / "setup.py"), run_name="flags")["NVCC_FLAGS"]

DISTRIBUTIONS = ("uniform", "normal", "trunc_normal")
DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

# Instructions per element on sm_90 that the project sets itself.
BUDGETS = {("uniform", "float32"): 24.0, ("normal", "float32"): 45.0}

# The two products of an orthogonal matrix that take its time: instructions per fused multiply-add.
PRODUCTS = {"float32": ("f", "FFMA", 1.5), "float64": ("d", "DFMA", 1.7)}


def find_tool(name: str) -> str:
    """A tool of the CUDA toolkit: beside nvcc, on PATH, or the copy that Triton brings."""
    nvcc = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    candidates = [Path(place) / "bin" / name for place in places if place]
    candidates += [Path(nvcc).resolve().parent / name] if nvcc else []
    found = shutil.which(name)
    candidates += [Path(found)] if found else []
    try:
        import triton.backends.nvidia

        candidates += [Path(next(iter(triton.backends.nvidia.__path__))) / "bin" / name]
    except ImportError:
        pass
    for path in candidates:
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"{name} is neither in a CUDA toolkit nor in Triton's package")


@dataclass
class Resources:
    """What ptxas says about one kernel."""

    registers: int = 0
    stack: int = 0
    spills: int = 0


PTXAS = re.compile(
    r"Function properties for (\w+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\n[^\n]*Used (\d+) registers"
)


def compile_kernels(arch: int, cubin: Path, source: Path = SOURCE) -> dict[str, Resources]:
    """Compiles a file for sm_`arch`; the resources of each kernel by its mangled name."""
    nvcc = find_tool("nvcc")
    command = [nvcc, *FLAGS, f"-arch=sm_{arch}", "-Xptxas=-v", "-cubin"]
    run = subprocess.run(
        [*command, "-o", str(cubin), str(source)], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(f"nvcc failed:\n{run.stderr}")
    return {
        name: Resources(int(registers), int(stack), int(stores) + int(loads))
        for name, stack, stores, loads, registers in PTXAS.findall(run.stdout + run.stderr)
    }


@dataclass
class Block:
    """A basic block: its instructions, and the labels of the blocks that may follow."""

    label: str
    instructions: list[str] = field(default_factory=list)
    follow: list[str] = field(default_factory=list)


INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.+?)\s*;")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def basic_blocks(lines: list[str]) -> dict[str, Block]:
    """The control flow of one function of a disassembly."""
    blocks: dict[str, Block] = {}
    current = Block("entry")
    blocks["entry"] = current
    for line in lines:
        label = re.match(r"(\.L_x_\d+):", line)
        found = INSTRUCTION.search(line)
        if label:
            following = Block(label[1])
            current.follow.append(following.label)
            current = blocks[following.label] = following
        elif found:
            text = found[1]
            current.instructions.append(text)
            operation = re.sub(r"^@!?U?P\d+\s+", "", text)
            conditional = text.startswith("@") or re.match(r"BRA\.?\S*\s+!?U?P\d", operation)
            if operation.startswith(("BRA", "EXIT", "RET")):
                target = TARGET.search(operation)
                if target:
                    current.follow.append(target[1])
                following = Block(f"{current.label}+{len(blocks)}")
                if conditional:
                    current.follow.append(following.label)
                current = blocks[following.label] = following
    return blocks


def shortest(blocks: dict[str, Block], start: str, goal: str) -> float:
    """Fewest instructions from the beginning of `start` to the beginning of `goal`, no calls."""
    queue, done = [(0, start)], set()
    while queue:
        cost, label = heappop(queue)
        if label == goal and cost > 0:
            return cost
        if label in done:
            continue
        done.add(label)
        block = blocks[label]
        if any("CALL" in text for text in block.instructions):
            continue
        for following in block.follow:
            if following in blocks:
                heappush(queue, (cost + len(block.instructions), following))
    return float("inf")


def loop_instructions(blocks: dict[str, Block], store: str) -> float:
    """Fewest instructions of a round trip through a block with `store`."""
    holding = [b.label for b in blocks.values() if any(store in t for t in b.instructions)]
    return min((shortest(blocks, label, label) for label in holding), default=float("inf"))


def functions(disassembly: str) -> Iterator[tuple[str, list[str]]]:
    """Each function's mangled name and lines."""
    parts = re.split(r"^\.text\.(\w+):\n", disassembly, flags=re.MULTILINE)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        yield name, body.split("\n")


@dataclass
class Figure:
    """One main loop."""

    distribution: str
    dtype: str
    per_element: float
    resources: Resources

    @property
    def budget(self) -> float:
        return BUDGETS.get((self.distribution, self.dtype), float("inf"))


def measure(arch: int) -> tuple[list[Figure], dict[str, Resources]]:
    """The main loops of the dense kernels, and the resources of all kernels."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "fill.cubin"
        resources = compile_kernels(arch, cubin)
        disassembly = disassemble(cubin)
    figures = []
    for name, lines in functions(disassembly):
        kind = re.search(r"dense_kernel\w*?DistributionE(\d)\w*?DTypeE(\d)", name)
        if kind:
            dtype = DTYPES[int(kind[2])]
            count = loop_instructions(basic_blocks(lines), "STG.E.128")
            elements = 16 // SIZES.get(dtype, 1)
            figures.append(
                Figure(DISTRIBUTIONS[int(kind[1])], dtype, count / elements, resources[name])
            )
    return sorted(figures, key=lambda f: (DTYPES.index(f.dtype), f.distribution)), resources


def disassemble(cubin: Path) -> str:
    command = [find_tool("nvdisasm"), "-c", str(cubin)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure_products(arch: int) -> dict[tuple[str, str], float]:
    """Instructions per fma of the loops of orthogonal_'s products, staging and barriers included.

    Without the steps of a segment's end, once in 128 of k at most.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "orthogonal.cubin"
        compile_kernels(arch, cubin, ORTHOGONAL)
        found = dict(functions(disassemble(cubin)))
    figures = {}
    for dtype, (code, operation, _) in PRODUCTS.items():
        for body in ("ProjectColumns", "ReflectColumns"):
            [lines] = [found[name] for name in found if f"{body}I{code}E" in name]
            blocks = basic_blocks(lines)
            counts = {b.label: " ".join(b.instructions).count(operation) for b in blocks.values()}
            label = max(counts, key=counts.__getitem__)
            figures[body, dtype] = shortest(blocks, label, label) / counts[label]
    return figures


def faults(figures: list[Figure], resources: dict[str, Resources]) -> list[str]:
    """What is wrong with the kernels, in words."""
    spilling = [name for name, used in resources.items() if used.stack or used.spills]
    found = [f"{name} spills or uses local memory" for name in spilling]
    for figure in figures:
        kernel = f"{figure.distribution} {figure.dtype}"
        if figure.per_element == float("inf"):
            found.append(f"{kernel} has no loop with a 16-byte store")
        elif figure.per_element > figure.budget:
            found.append(f"{kernel} takes {figure.per_element:.1f} of {figure.budget:.0f}")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, default=90, help="compute capability times 10")
    parser.add_argument("--check", action="store_true", help="fail beyond a budget or on a spill")
    options = parser.parse_args(arguments)
    figures, resources = measure(options.arch)
    print(f"sm_{options.arch}: instructions per element in the main loop, its overhead included\n")
    print("| dtype | distribution | instructions | budget | registers |")
    print("|---|---|---|---|---|")
    for figure in figures:
        budget = f"{figure.budget:.0f}" if figure.budget < float("inf") else "-"
        print(
            f"| {figure.dtype} | {figure.distribution} | {figure.per_element:.1f} | {budget} "
            f"| {figure.resources.registers} |"
        )
    print("\n| product | arithmetic | instructions per fma | budget |\n|---|---|---|---|")
    for (body, dtype), count in measure_products(options.arch).items():
        print(f"| {body} | {dtype} | {count:.2f} | {PRODUCTS[dtype][2]:.1f} |")
    bad = faults(figures, resources)
    print(f"\n{len(resources)} kernels; " + ("; ".join(bad) or "no spills, no local memory"))
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())
