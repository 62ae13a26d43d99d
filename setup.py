"""Builds fastinit._C, with CUDA where a toolkit and a CUDA torch are there.

Owns every decision about the build: which sources, flags, toolkit and GPU architectures. Whether
this machine has a GPU plays no part: an image built without one must serve machines that have one.

FASTINIT_CUDA: 1 demands CUDA, 0 leaves it out, auto (the default) takes it where it can be built.
FASTINIT_SANITIZE: 1 for AddressSanitizer and UndefinedBehaviorSanitizer; see `make sanitize`.
TORCH_CUDA_ARCH_LIST: other GPU architectures than the default ones, in torch's notation.
MAX_JOBS: how many compilers may run at a time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)
# Commands of setuptools that compile. The others, for a source distribution, need no torch.
COMPILING = {"build", "build_ext", "bdist_wheel", "develop", "editable_wheel", "install"}

# No contraction: a product and a sum round twice unless the source says fma. Without OpenMP,
# torch's parallel_for is a plain loop; it is not linked, so that the threads are torch's own.
# -fwrapv, which many a Python adds itself, makes the mask of sparse_ 1.6 times as fast with GCC 12.
CXX_FLAGS = [
    "-O3",
    "-std=c++20",
    "-ffp-contract=off",
    "-fwrapv",
    "-fvisibility=hidden",
    "-fopenmp",
    "-Wno-psabi",
    "-g0",
]
# -O3's inlining makes sanitized templates take minutes each; vptr would need the type information
# of classes that torch hides.
SANITIZER_FLAGS = [
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]
NVCC_FLAGS = [
    "-O3",
    "-std=c++20",
    "--fmad=false",
    "-Xcompiler=-ffp-contract=off,-fvisibility=hidden",
]

# Turing to Blackwell: compute capabilities of the GPUs one meets, times 10. A newer GPU compiles
# the PTX of the last one when the extension is loaded.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


class Toolkit(NamedTuple):
    """A CUDA toolkit, and what to build with it."""

    root: Path
    version: str  # "13.0"
    architectures: str  # in the notation of TORCH_CUDA_ARCH_LIST: "7.5;8.0;12.0+PTX"


def find_toolkit(
    environ: Mapping[str, str], default: Path = Path("/usr/local/cuda")
) -> Path | None:
    """The root of the CUDA toolkit: CUDA_HOME or CUDA_PATH, or nvcc's own, or the default place.

    torch takes the directory above the nvcc on PATH, which is wrong where that one is a script that
    calls the real one. So nvcc is asked: a dry run prints its root as TOP.
    """
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=environ.get("PATH", ""))
    if named:
        root = Path(named)
    elif nvcc is not None:
        command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
        run = subprocess.run(command, capture_output=True, text=True, env=dict(environ))
        top = re.search(r"^#\$ TOP=(.+)$", run.stdout + run.stderr, re.MULTILINE)
        root = Path(top[1].strip()) if top else Path(nvcc).resolve().parents[1]
    else:
        root = default
    return root.resolve() if (root / "bin" / "nvcc").is_file() else None


def _ask_nvcc(root: Path, option: str) -> str:
    return subprocess.check_output([root / "bin" / "nvcc", option], text=True)


def toolkit_version(root: Path) -> str:
    """The toolkit's release, as in "13.0"."""
    found = re.search(r"release (\d+\.\d+)", _ask_nvcc(root, "--version"))
    if found is None:
        raise SystemExit(f"{root}/bin/nvcc --version names no release; set CUDA_HOME to a toolkit")
    return found[1]


def choose_architectures(root: Path, environ: Mapping[str, str]) -> str:
    """TORCH_CUDA_ARCH_LIST, or those of ours that the toolkit knows, with the PTX of the last."""
    if environ.get("TORCH_CUDA_ARCH_LIST"):
        return environ["TORCH_CUDA_ARCH_LIST"]
    known = set(re.findall(r"compute_(\d+)", _ask_nvcc(root, "--list-gpu-arch")))
    return ";".join(f"{n // 10}.{n % 10}" for n in ARCHITECTURES if str(n) in known) + "+PTX"


def choose_toolkit(
    environ: Mapping[str, str],
    torch_version: str,
    torch_cuda: str | None,
    cuda_sources: Sequence[str],
    default: Path = Path("/usr/local/cuda"),
) -> Toolkit | None:
    """The toolkit to build the CUDA part with, or None for a build without it.

    Raises SystemExit, naming everything that is missing, if FASTINIT_CUDA=1 cannot be met.
    """
    wish = environ.get("FASTINIT_CUDA") or "auto"
    if wish not in ("0", "1", "auto"):
        raise SystemExit(f"FASTINIT_CUDA must be 0, 1 or auto, got {wish!r}")
    if wish == "0":
        return None
    missing = []
    if not cuda_sources:
        missing.append("this source tree has no CUDA sources (csrc/cuda/*.cu)")
    if torch_cuda is None:
        missing.append(f"torch {torch_version} is built without CUDA; install a CUDA build of it")
    root = find_toolkit(environ, default)
    if root is None:
        named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
        place = f"CUDA_HOME={named} has no bin/nvcc" if named else "nvcc is not on PATH"
        missing.append(f"no CUDA toolkit is there: {place}; install one or set CUDA_HOME to it")
    elif torch_cuda is not None:
        version = toolkit_version(root)
        if version.split(".")[0] == torch_cuda.split(".")[0]:
            if cuda_sources:
                return Toolkit(root, version, choose_architectures(root, environ))
        else:
            missing.append(
                f"the toolkit in {root} is CUDA {version}, but torch {torch_version} needs CUDA "
                f"{torch_cuda.split('.')[0]}.x; set CUDA_HOME to such a one"
            )
    if wish == "1":
        raise SystemExit("FASTINIT_CUDA=1, but " + "; and ".join(missing))
    print("fastinit: building without CUDA: " + "; ".join(missing), file=sys.stderr)
    return None


def build_macros(toolkit: Toolkit | None) -> list[str]:
    """What the C++ code learns about the CUDA part; nothing at all where there is none."""
    if toolkit is None:
        return []
    names = re.split(r"[; ]+", toolkit.architectures.replace(".", "").strip("; "))
    return [
        "-DFASTINIT_WITH_CUDA",
        f'-DFASTINIT_CUDA_TOOLKIT="{toolkit.version}"',
        f'-DFASTINIT_CUDA_ARCHITECTURES="{";".join(names)}"',
    ]


def build_directory(torch_version: str, toolkit: Toolkit | None, sanitized: bool = False) -> str:
    """One for each flavour, so that none links another's object files."""
    backend = f"cuda{toolkit.version}" if toolkit else "cpu"
    return f"build/torch{torch_version}-{backend}{'-sanitized' if sanitized else ''}"


def find_files(pattern: str) -> list[str]:
    """Paths below csrc/, relative to the project as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def make_extension(toolkit: Toolkit | None, sanitized: bool = False) -> Any:
    """The one extension module, fastinit._C."""
    if toolkit is not None:
        os.environ["CUDA_HOME"] = str(toolkit.root)
        os.environ["TORCH_CUDA_ARCH_LIST"] = toolkit.architectures
    from torch.utils import cpp_extension

    sanitizers = SANITIZER_FLAGS if sanitized else []
    flags = {"cxx": CXX_FLAGS + build_macros(toolkit) + sanitizers}
    sources = find_files("**/*.cpp")
    make: Any = cpp_extension.CppExtension
    if toolkit is not None:
        cpp_extension.CUDA_HOME = str(toolkit.root)  # torch may have looked for it before
        threads = min(4, int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1))
        flags["nvcc"] = [*NVCC_FLAGS, f"--threads={threads}"]
        sources += find_files("cuda/*.cu")
        make = cpp_extension.CUDAExtension
    # What the sources of this flavour include, or what another flavour compiles.
    others = [path for kind in ("h", "cuh", "cu") for path in find_files(f"**/*.{kind}")]
    return make(
        "fastinit._C",
        sources,
        depends=others,
        extra_compile_args=flags,
        extra_link_args=sanitizers,
    )


def main() -> None:
    """Build what the command line, or pip, asks for."""
    from setuptools import Extension, setup

    if not COMPILING.intersection(sys.argv):
        setup(ext_modules=[Extension("fastinit._C", find_files("**/*.cpp"))])
        return
    try:
        import torch
    except ModuleNotFoundError:
        raise SystemExit(
            "fastinit is built for the torch it will run with: install torch first, then run "
            "pip install --no-build-isolation ."
        ) from None
    version = str(torch.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise SystemExit(f"fastinit needs torch >= 2.11, but torch {version} is installed")
    # Ninja is found also where a virtual environment is used without being activated.
    os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")
    toolkit = choose_toolkit(os.environ, version, torch.version.cuda, find_files("cuda/*.cu"))
    sanitized = os.environ.get("FASTINIT_SANITIZE") == "1"
    extension = make_extension(toolkit, sanitized)
    from torch.utils.cpp_extension import BuildExtension

    setup(
        ext_modules=[extension],
        cmdclass={"build_ext": BuildExtension},
        options={"build": {"build_base": build_directory(version, toolkit, sanitized)}},
    )


if __name__ == "__main__":
    main()
