"""The CUDA tests where no GPU is: the compiled kernels and torch's CUDA code on a stand-in.

test_cuda_bodies.py shows that the kernels' source computes the CPU's bits. Here it is what nvcc
made of it, translated from PTX (`standin/ptx.py`), launched through torch's own CUDA allocator,
streams, generators and graphs on a runtime whose devices are the CPU (`standin/runtime.cpp`). Left
for a GPU are ptxas, the hardware, and every time.

It takes minutes and follows torch's use of the CUDA runtime, which may change from one version to
the next; so it runs where FASTINIT_STANDIN=1, as in CI.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastinit import build_info

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("FASTINIT_STANDIN") != "1", reason="FASTINIT_STANDIN is not 1"
    ),
    pytest.mark.skipif(not build_info()["cuda"], reason="needs a build with CUDA"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, or this is the stand-in"),
]

# These know no device, need several processes, train, or draw samples that equal bits make idle.
LEFT_OUT = [
    "cuda_bodies",
    "cuda_bodies_orthogonal",
    "sharding_processes",
    "training",
    "patch_models",
    "statistics",
    "orthogonal_law",
    "models_sharded",
]


def run_tests(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process for which `library` is the CUDA runtime."""
    environment = os.environ | {"LD_PRELOAD": str(library)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "standin.aten", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *arguments], cwd=HERE, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    from standin.build import compile_to_ptx

    return compile_to_ptx(tmp_path_factory.mktemp("ptx"))


def test_cuda_tests_pass_on_the_stand_in(compiled: str, tmp_path: Path) -> None:
    from standin.build import build

    ignored = [f"--ignore=test_{name}.py" for name in LEFT_OUT]
    run = run_tests(build(tmp_path, compiled), "-k", "cuda and not cuda_build", *ignored)
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None and int(passed[1]) > 900


def test_a_wrong_constant_in_one_kernel_is_noticed(compiled: str, tmp_path: Path) -> None:
    """The kernel for uniform float32; 0xD2511F53 multiplies in Philox."""
    from standin.build import build

    multiplier = str(0xD2511F53 - 2**32)
    assert multiplier in compiled
    one = re.compile(r"dense_kernel\w*DistributionE0\w*DTypeE2").search
    case = "test_cuda.py::test_bits_of_the_cpu[uniform_-float32]"
    for text, failures in ((compiled, 0), (compiled.replace(multiplier, "-766435499"), 1)):
        folder = tmp_path / str(failures)
        folder.mkdir()
        run = run_tests(build(folder, text, lambda name: bool(one(name))), case)
        assert run.returncode == failures, run.stdout
    assert "elements differ" in run.stdout


def test_contraction_is_refused(tmp_path: Path) -> None:
    """Operations that ptxas may fuse have no rounding of their own."""
    from standin.build import compile_to_ptx
    from standin.ptx import Unknown, translate

    with pytest.raises(Unknown, match=r"^(mul|add|sub)\.f(32|64)$"):
        translate(compile_to_ptx(tmp_path, "--fmad=true"), 1, lambda name: True)


@pytest.mark.parametrize(
    "instruction",
    [
        "ex2.approx.ftz.f32 %f1, %f2",
        "add.ftz.f32 %f1, %f2, %f3",
        "div.full.f32 %f1, %f2, %f3",
        "mad.f32 %f1, %f2, %f3, %f4",
        "cvt.rz.f32.f64 %f1, %fd1",
        "bar.sync 1",
        "atom.add.u32 %r1, [%rd1], 1",
    ],
)
def test_inexact_and_unknown_instructions_are_refused(instruction: str) -> None:
    from standin.ptx import Unknown, statement

    with pytest.raises(Unknown):
        statement(instruction)
