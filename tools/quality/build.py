"""Fetches and builds TestU01, PractRand and the feeder, in a folder outside the source tree.

Owns where the batteries come from and how they are compiled. Neither is part of this project, and
neither is redistributed with it. Sources that are already in the folder, as TestU01/ and
PractRand/, are taken as they are, so that a machine without a network can be served by hand.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from array import array
from pathlib import Path

HERE = Path(__file__).parent
# Repositories, the commits that were run, and what the build makes.
SOURCES = {
    "TestU01": (
        "https://github.com/umontreal-simul/TestU01-2009.git",
        "a038a868755a75fca4ca8734031335aa0a7f7bcb",
    ),
    "PractRand": (
        "https://github.com/planet36/PractRand.git",
        "cca6791b1b09b04e83cf757ad319e65e6b96f95d",
    ),
}
PARTS = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm",
]  # fmt: skip
LAYERS = 1 << 17


def run(command: list[str | Path], folder: Path) -> None:
    """A step of the build; what it prints is shown only where it fails."""
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        words = " ".join(map(str, command))
        raise SystemExit(f"{done.stdout[-4000:]}\n{words} (in {folder}) failed; see above")


def fetch(name: str, work: Path) -> Path:
    """The folder of a battery's sources."""
    folder = work / name
    if not folder.exists():
        url, commit = SOURCES[name]
        print(f"cloning {url}", flush=True)
        run(["git", "clone", "--quiet", url, folder], work)
        run(["git", "checkout", "--quiet", commit], folder)
    return folder


def compiler() -> str:
    """The C++ compiler at hand."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        raise SystemExit("no C++ compiler is there: install g++")
    return found


def build_testu01(work: Path) -> Path:
    """The folder in which TestU01 is installed."""
    folder = fetch("TestU01", work)
    installed = work / "testu01"
    if not (installed / "lib" / "libmylib.a").exists():
        print("building TestU01", flush=True)
        options = ["--disable-shared", "CFLAGS=-O2 -w", f"--prefix={installed}"]
        run(["sh", "configure", *options], folder)
        run(["make", "-s"], folder)
        run(["make", "-s", "install"], folder)
    return installed


def build_practrand(work: Path) -> Path:
    """PractRand's RNG_test."""
    folder = fetch("PractRand", work)
    program = work / "RNG_test"
    if not program.exists():
        print("building PractRand", flush=True)
        kinds = ("src/*.cpp", "src/RNGs/*.cpp", "src/RNGs/other/*.cpp")
        sources = [path for kind in kinds for path in sorted(folder.glob(kind))]
        options: list[str | Path] = ["-std=c++20", "-O2", "-w", "-pthread", "-Iinclude"]
        main = folder / "tools" / "RNG_test.cpp"
        run([compiler(), *options, *sources, main, "-o", program], folder)
    return program


def build_feeder(work: Path) -> Path:
    """The program that makes the streams and runs TestU01 on them."""
    installed = build_testu01(work)
    program = work / "feed"
    sources = [*HERE.glob("*.cpp"), *HERE.glob("*.h"), *(HERE.parents[1] / "csrc/core").glob("*.h")]
    sources.append(Path(__file__))
    changed = max(path.stat().st_mtime for path in sources)
    if not program.exists() or program.stat().st_mtime < changed:
        print("building the feeder", flush=True)
        # The words are the same on every instruction set, so take the widest.
        options: list[str | Path] = ["-std=c++20", "-O3", "-march=native", "-Wno-psabi"]
        options += ["-ffp-contract=off", "-DWITH_TESTU01", f"-I{installed}/include"]
        libraries = [f"-L{installed}/lib", "-ltestu01", "-lprobdist", "-lmylib", "-lm"]
        made = work / f"feed.{changed}"  # a battery may be running the old one
        run([compiler(), *options, HERE / "feed.cpp", "-o", made, *libraries], work)
        made.replace(program)
    return program


def write_names(work: Path) -> Path:
    """A file of the digests of 2^20 names of parameters, as `Key.fold_in` takes them."""
    path = work / "names"
    if not path.exists():
        names = (f"model.layers.{n}.{part}.weight" for n in range(LAYERS) for part in PARTS)
        digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        numbers = array("Q", (int.from_bytes(digest, "little") for digest in digests))
        path.write_bytes(numbers.tobytes())
    return path
