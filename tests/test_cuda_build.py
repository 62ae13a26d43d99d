"""What nvcc makes of the kernels, on machines without a GPU: no spills, and the budgeted loops."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import sass

try:
    sass.find_tool("nvcc")
except FileNotFoundError:
    pytest.skip("needs nvcc", allow_module_level=True)

KERNELS = 3 * 6 + 6 + 4 + 1  # dense, table; masks by size; the copy


@pytest.mark.parametrize("arch", [80, 100, 120])
def test_no_spills_and_no_local_memory(arch: int, tmp_path: Path) -> None:
    resources = sass.compile_kernels(arch, tmp_path / "fill.cubin")
    assert len(resources) == KERNELS
    assert sass.faults([], resources) == []
    resources = sass.compile_kernels(arch, tmp_path / "measure.cubin", sass.MEASURE)
    assert len(resources) == 3 + 1  # a pass for each dtype; the rows
    assert sass.faults([], resources) == []
    resources = sass.compile_kernels(arch, tmp_path / "orthogonal.cubin", sass.ORTHOGONAL)
    assert len(resources) == 7 * 2 + 6  # by arithmetic; what writes the result, by dtype
    assert sass.faults([], resources) == []


def test_main_loops_keep_to_their_budgets() -> None:
    try:
        sass.find_tool("nvdisasm")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    figures, resources = sass.measure(90)
    assert len(resources) == KERNELS
    assert len(figures) == 18
    assert sass.faults(figures, resources) == []


def test_products_are_multiplications_in_the_main() -> None:
    try:
        sass.find_tool("nvdisasm")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    figures = sass.measure_products(90)
    assert len(figures) == 4
    for (_, dtype), count in figures.items():
        assert 1.0 < count <= sass.PRODUCTS[dtype][2]


LOOP = """
.L_x_1:
        /*0000*/                   IMAD.WIDE.U32 R2, R3, R4, RZ ;
        /*0010*/               @P1 BRA `(.L_x_2) ;
        /*0020*/                   FADD R1, R1, R1 ;
        /*0030*/                   CALL.REL.NOINC `(slow) ;
.L_x_2:
        /*0040*/                   STG.E.128 desc[UR4][R2.64], R8 ;
        /*0050*/              @!P0 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
"""


def test_instructions_are_counted_on_the_way_through_the_store() -> None:
    blocks = sass.basic_blocks(LOOP.splitlines())
    assert sass.loop_instructions(blocks, "STG.E.128") == 4
    assert sass.loop_instructions(blocks, "STG.E.64") == float("inf")


def test_faults_are_noticed() -> None:
    slow = sass.Figure("normal", "float32", 45.25, sass.Resources())
    lost = sass.Figure("normal", "float16", float("inf"), sass.Resources())
    spilling = {"kernel": sass.Resources(stack=8), "other": sass.Resources(spills=4)}
    assert len(sass.faults([slow, lost], spilling)) == 4
