"""The errors stated in csrc/core/math.h, each measured anew by math_errors.cpp and not exceeded.

The program compares the headers, compiled with the flags of setup.py for scalar lanes, with
libquadmath's functions where the compiler has them, else with those of long double. The arguments
are a fixed sample: what is measured lies below the maximum over all of them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
CORE = TESTS.parent / "csrc" / "core"
COMPILER = os.environ.get("CXX", "c++").split()

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER[0]) is None, reason=f"needs a C++ compiler: no {COMPILER[0]}"
)

# (function, precision): what the comment on it in math.h (box_muller: on sincos_turn) states.
STATED = {
    ("minus_two_log", "float"): {
        "ulp": 1.14,
        "ulp_below_2^-33": 0.56,
        "absolute_from_2^-33": 2.1e-6,
    },
    ("minus_two_log", "double"): {"ulp": 1.3},
    ("sincos_turn", "float"): {"ulp": 1.4, "absolute": 6.9e-8},
    ("sincos_turn", "double"): {"ulp": 1.4, "absolute": 1.3e-16},
    ("box_muller", "float"): {"absolute": 9.9e-7},
    ("box_muller", "double"): {"absolute": 3.1e-15},
    ("scaled_normal_tail", "double"): {"relative": 4.2e-16},
    ("normal_quantile_far", "float"): {"relative": 3e-7},
    ("normal_quantile_far", "double"): {"relative": 2e-16},
    ("normal_quantile_near", "float"): {"relative": 1.8e-7},
    ("normal_quantile_near", "double"): {"relative": 2.6e-16},
    ("normal_quantile", "float"): {"relative": 3e-7},
    ("normal_quantile", "double"): {"relative": 4e-16},
    ("normal_tail", "double"): {"relative": 5.6e-16, "units_beyond_37.5": 3},
    ("normal_cdf_central", "double"): {"relative": 3.1e-16},
    ("normal_cdf", "double"): {"relative": 5.6e-16, "units_beyond_37.5": 3},
    ("kTruncatedStd", "double"): {"ulp": 0.5},
}

Errors = dict[tuple[str, str], dict[str, float]]


def flags() -> list[str]:
    """Those of the extension."""
    spec = importlib.util.spec_from_file_location("fastinit_setup", TESTS.parent / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.CXX_FLAGS)


def measured(source: Path, folder: Path) -> Errors:
    """Build the program and run it."""
    program = folder / "math_errors"
    build = [*COMPILER, *flags(), str(source), "-o", str(program)]
    with_quadmath = [*build, "-DWITH_QUADMATH", "-lquadmath"]
    if subprocess.run(with_quadmath, capture_output=True, check=False).returncode != 0:
        result = subprocess.run(build, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split("\n")
    errors: Errors = {}
    for line in filter(None, lines[1:]):
        function, precision, *measures = line.split()
        pairs = (measure.rsplit("=", 1) for measure in measures)
        errors[function, precision] = {measure: float(value) for measure, value in pairs}
    return errors


def exceeded(errors: Errors) -> list[str]:
    """Every statement that the measurement contradicts."""
    return [
        f"{function} {precision}: {measure} {errors[function, precision][measure]}, stated {bound}"
        for (function, precision), bounds in STATED.items()
        for measure, bound in bounds.items()
        if not errors[function, precision][measure] <= bound
    ]


@pytest.fixture(scope="session")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Errors:
    return measured(TESTS / "math_errors.cpp", tmp_path_factory.mktemp("math"))


def test_every_function_measured_has_a_statement(errors: Errors) -> None:
    assert errors.keys() == STATED.keys()


@pytest.mark.parametrize("function", STATED, ids=" ".join)
def test_no_error_is_larger_than_stated(function: tuple[str, str], errors: Errors) -> None:
    for measure, bound in STATED[function].items():
        assert errors[function][measure] <= bound, measure


def comment_on(function: str) -> str:
    """The comment block that ends at the function's definition."""
    lines = (CORE / "math.h").read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if re.match(rf"FASTINIT_HD .*\b{function}\(", line))
    block: list[str] = []
    while at > 0 and (lines[at - 1].startswith("//") or lines[at - 1].startswith("template")):
        at -= 1
        block.insert(0, lines[at].removeprefix("// "))
    return " ".join(block)


@pytest.mark.parametrize(
    "function", [key for key in STATED if key[0] != "kTruncatedStd"], ids=" ".join
)
def test_the_bounds_here_are_those_of_the_comments(function: tuple[str, str]) -> None:
    comment = comment_on({"box_muller": "sincos_turn"}.get(function[0], function[0]))
    stated = {float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", comment)}
    assert set(STATED[function].values()) <= stated


# Coefficients and the same with one digit changed: each function and precision has one, or calls a
# function that has.
SPOILED = {
    "math.h": [
        ("0.0833348781f", "0.0833358781f"),  # minus_two_log, float and double
        ("0.083333333333332635", "0.083333333333432635"),
        ("-0.308425128f", "-0.308426128f"),  # sincos_turn
        ("-0.30842513753404244", "-0.30842513753414244"),
        ("-0.43749892042343663", "-0.43749892042344663"),  # scaled_normal_tail
        ("3.54921126f", "3.54931126f"),  # normal_quantile_far
        ("0.328121126f", "0.328122126f"),  # normal_quantile_near
        ("0.34880202439905411", "0.34880202439915411"),
        ("-0.066490380066908009", "-0.066490380066918009"),  # normal_cdf_central
    ],
    "distributions.h": [("0.87962566103423978", "0.87962566103423878")],
}


def test_a_wrong_digit_is_refused(tmp_path: Path) -> None:
    spoiled = shutil.copytree(CORE, tmp_path / "csrc" / "core")
    for header, changes in SPOILED.items():
        text = (spoiled / header).read_text()
        for right, wrong in changes:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (spoiled / header).write_text(text)
    (tmp_path / "tests").mkdir()
    source = shutil.copy(TESTS / "math_errors.cpp", tmp_path / "tests")
    refused = exceeded(measured(Path(source), tmp_path))
    assert {tuple(line.split(":")[0].split()) for line in refused} == STATED.keys()


def test_fast_math_is_refused() -> None:
    for option in ("-ffast-math", "-Ofast"):
        command = [*COMPILER, *flags(), option, "-fsyntax-only", "-x", "c++", str(CORE / "math.h")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert "out of CXXFLAGS" in result.stderr
