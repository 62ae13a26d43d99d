"""The engine without torch, by other compilers, under sanitizers, on other processors.

    python -m tools.engine plain contract address thread clang
    python -m tools.engine aarch64 riscv64            # cross-compiled, run by qemu-user
    python -m tools.engine fuzz --seconds 600         # what libFuzzer thinks of

Compiles engine.cpp, csrc/cpu and the emulated kernels, has them make the fills of
tests/vectors/golden.json, and compares their digests; of fuzz.cpp, whose fills nobody has recorded,
asks that all ways to make them agree. Exits with 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tools.engine import cases

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c++20", "-ffp-contract=off", "-fwrapv", "-Wno-psabi", "-g0", "-pthread"]
# Debug information and the inlining of -O3 make sanitized templates take minutes each.
INPUT_BYTES = 512  # of libFuzzer; a fill takes some 150
SANITIZED = ["-O1", "-fno-var-tracking"]


class Build(NamedTuple):
    """A compiler, its flags, what runs the program, and in which environment."""

    compiler: str
    flags: Sequence[str]
    runner: Sequence[str] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    main: str = "engine.cpp"


def cross(processor: str) -> Build:
    """For another processor, run by qemu-user."""
    name = f"{processor}-linux-gnu"
    # Static: without the other processor's libraries to be found.
    return Build(f"{name}-g++", ["-O1", "-static"], [f"qemu-{processor}"])


BUILDS = {
    "plain": Build("g++", ["-O3"]),
    "contract": Build("g++", ["-O1", "-ffp-contract=fast"]),
    "address": Build(
        "g++",
        [*SANITIZED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        environment={"ASAN_OPTIONS": "detect_stack_use_after_return=1"},
    ),
    "thread": Build(
        "g++",
        [*SANITIZED, "-fsanitize=thread"],
        environment={"TSAN_OPTIONS": "halt_on_error=1"},
    ),
    "clang": Build("clang++", ["-O1"]),
    "fuzz": Build(
        "clang++",
        ["-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"],
        main="fuzz.cpp",
    ),
    "aarch64": cross("aarch64"),
    "riscv64": cross("riscv64"),
}


def compile_program(name: str, build: Build, folder: Path, jobs: int) -> Path:
    """The program, from objects made side by side."""
    sources = [Path(__file__).with_name(build.main), ROOT / "csrc/cuda/emulate.cpp"]
    sources += sorted((ROOT / "csrc/cpu").glob("*.cpp"))
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, *build.flags]

    def compile_one(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        subprocess.run([build.compiler, *flags, "-c", source, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "engine"
    subprocess.run([build.compiler, *flags, *objects, "-o", program], check=True)
    return program


def digests(output: bytes) -> list[str]:
    """Of the fills that the program wrote."""
    found, at = [], 0
    while at < len(output):
        end = output.index(b"\n", at)
        size = int(output[at:end])
        at = end + 1 + size
        found.append(hashlib.blake2b(output[end + 1 : at], digest_size=16).hexdigest())
    return found


def fuzz(name: str, program: Path, options: argparse.Namespace) -> bool:
    """Whether libFuzzer found nothing; what it did find is kept where the program is."""
    corpus = program.parent / "corpus"  # of earlier runs too
    corpus.mkdir(exist_ok=True)
    for seed in range(64):  # from nothing it takes long to come to inputs that say something
        (corpus / f"random{seed}").write_bytes(random.Random(seed).randbytes(INPUT_BYTES))
    run = subprocess.run(
        [
            program,
            corpus,
            f"-max_total_time={options.seconds}",
            f"-max_len={INPUT_BYTES}",
            "-len_control=0",
            "-timeout=60",
            "-print_final_stats=1",
            f"-artifact_prefix={program.parent}/",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    count = re.search(r"number_of_executed_units: (\d+)", run.stderr)
    if run.returncode != 0 or count is None:
        print(f"{name:<10} FAILED (exit {run.returncode})\n{run.stderr[-6000:]}", flush=True)
        return False
    covered = re.findall(r"cov: (\d+)", run.stderr)
    print(
        f"{name:<10} {count[1]} inputs in {options.seconds} s, {covered[-1]} edges of the program "
        "taken; nothing wrong",
        flush=True,
    )
    return True


def check(name: str, build: Build, options: argparse.Namespace) -> bool:
    """Whether the program of a build makes the recorded digests; says what it did."""
    missing = [tool for tool in (build.compiler, *build.runner) if shutil.which(tool) is None]
    if missing:
        print(f"{name:<10} skipped: {', '.join(missing)} is not installed", flush=True)
        return not options.strict
    began = time.monotonic()
    program = compile_program(name, build, options.work, options.jobs)
    built = time.monotonic()
    if name == "fuzz":
        return fuzz(name, program, options)
    chosen = [(line, case) for case in cases.golden() if (line := cases.line(case))]
    chosen = chosen[:: options.every]
    run = subprocess.run(
        [*build.runner, program],
        input="\n".join(line for line, _ in chosen).encode(),
        capture_output=True,
        env={**os.environ, **build.environment},
        check=False,
    )
    spent = f"built in {built - began:.0f} s, ran in {time.monotonic() - built:.0f} s"
    if run.returncode != 0:
        text = run.stderr.decode(errors="replace")[-6000:]
        print(f"{name:<10} FAILED (exit {run.returncode}), {spent}\n{text}", flush=True)
        return False
    found = digests(run.stdout)
    wrong = [
        case for digest, (_, case) in zip(found, chosen, strict=True) if digest != case["digest"]
    ]
    print(f"{name:<10} {len(chosen) - len(wrong)} of {len(chosen)} digests equal, {spent}")
    for case in wrong[:5]:
        print(f"    not {case}")
    sys.stdout.flush()
    return not wrong


def main() -> int:
    """Check the builds that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("builds", nargs="+", choices=BUILDS, metavar=f"{{{','.join(BUILDS)}}}")
    parser.add_argument("--every", type=int, default=1, help="take every n-th fill")
    parser.add_argument("--seconds", type=int, default=60, help="how long libFuzzer goes on")
    parser.add_argument("--strict", action="store_true", help="fail where a compiler is missing")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("MAX_JOBS", "2")))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "engine")
    options = parser.parse_args()
    return int(not all([check(name, BUILDS[name], options) for name in options.builds]))


if __name__ == "__main__":
    raise SystemExit(main())
