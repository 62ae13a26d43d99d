"""The fills of tests/vectors/golden.json as the numbers that engine.cpp reads.

Owns the translation from a function and its arguments to a law, a layout and a key; written apart
from csrc/ops, which it thereby checks. Must import nothing compiled.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[2] / "tests" / "vectors" / "golden.json"

DTYPES = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
DISTRIBUTIONS = ["uniform", "normal", "truncated_normal"]
MODES = ["none", "fan_in", "fan_out", "fan_avg"]
NONLINEARITIES = ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
IN, OUT = 1, 2  # roles of axes
WORD = 1 << 64

Case = dict[str, Any]


def law_of(case: Case) -> dict[str, Any]:
    """The distribution, its parameters, and what its fan needs."""
    name, given = case["function"], case["arguments"]
    law: Case = {"mean": given.get("mean", 0.0), "std": given.get("std", 1.0)}
    law |= {"low": 0.0, "high": 0.0, "mode": "none", "nonlinearity": "linear"}
    law |= {"parameter": 0.0, "gain": 1.0, "roles": (OUT, IN), "sparsity": 0.0}
    if name in ("uniform_", "trunc_normal_"):
        law |= {"low": given["a"], "high": given["b"]}
        law["distribution"] = "uniform" if name == "uniform_" else "truncated_normal"
    elif name in ("normal_", "sparse_"):
        law |= {"distribution": "normal", "sparsity": given.get("sparsity", 0.0)}
    elif name.startswith(("xavier", "kaiming")):
        law["distribution"] = name.removesuffix("_").split("_")[1]
        law |= {"mode": "fan_avg", "gain": given.get("gain", 1.0)}
        if name.startswith("kaiming"):
            law["mode"] = given.get("mode", "fan_in")
            law["nonlinearity"] = given.get("nonlinearity", "leaky_relu")
            law["parameter"] = given.get("a", 0.0)
    else:  # lecun_*, variance_scaling_
        uniform = name == "lecun_uniform_"
        law["distribution"] = given.get("distribution", "uniform" if uniform else DISTRIBUTIONS[2])
        law["mode"] = given.get("mode", "fan_in")
        law["gain"] = math.sqrt(given.get("scale", 1.0))
        if law["distribution"] == "uniform" and case["dtype"].startswith("complex"):
            law["gain"] *= math.sqrt(0.5)
        if given.get("in_axis") == 0:
            law["roles"] = (IN, OUT)
    return law


def _whole(case: Case) -> list[int]:
    shape: list[int] = case["of"] if "of" in case else case["shape"]
    return shape


def _offsets(case: Case) -> list[int]:
    return case["at"] if "at" in case else [0] * len(case["shape"])


def real_dtype(dtype: str) -> str:
    """What the elements' parts are stored as."""
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def fill_line(case: Case) -> str:
    """A fill as engine.cpp reads it."""
    law, shape = law_of(case), _whole(case)
    unit = 2 if case["dtype"].startswith("complex") else 1
    fan = len(shape) if law["mode"] != "none" else 0
    words: list[object] = [
        "fill",
        DISTRIBUTIONS.index(law["distribution"]),
        DTYPES.index(real_dtype(case["dtype"])),
        unit - 1,
        *(float(law[name]).hex() for name in ("mean", "std", "low", "high")),
        MODES.index(law["mode"]),
        NONLINEARITIES.index(law["nonlinearity"]),
        float(law["parameter"]).hex(),
        float(law["gain"]).hex(),
        fan,
    ]
    for size, role in zip(shape[:fan], law["roles"], strict=False):
        words += [size, role]
    strides = [unit * math.prod(shape[k + 1 :]) for k in range(len(shape))]
    offsets = _offsets(case)
    start = sum(stride * offset for stride, offset in zip(strides, offsets, strict=True))
    dims = [*zip(case["shape"], strides, strict=True), *([(2, 1)] if unit == 2 else [])]
    words += [start % WORD, len(dims)]
    for size, stride in dims:
        words += [size, stride % WORD]
    zeros = math.ceil(law["sparsity"] * shape[0])
    mask = [zeros, shape[0], shape[-1]]
    return " ".join(map(str, [*words, *case["key"], *mask]))


def matrix_line(case: Case) -> str:
    """An orthogonal matrix as engine.cpp reads it."""
    shape, part = _whole(case), case["shape"]
    at = _offsets(case)
    unit = 2 if case["dtype"].startswith("complex") else 1
    rows, columns = shape[0], math.prod(shape[1:])
    columns_wanted = math.prod(part[1:])
    # Number, first, and how far apart in memory.
    sides = [(at[0], part[0], columns_wanted * unit), (at[-1], columns_wanted, unit)]
    if rows <= columns:  # the transpose of a matrix with orthonormal columns
        rows, columns = columns, rows
        sides.reverse()
    words = ["matrix", DTYPES.index(real_dtype(case["dtype"])), unit - 1]
    words += [float(case["arguments"].get("gain", 1.0)).hex(), rows, columns]
    return " ".join(map(str, [*words, *(n for side in sides for n in side), *case["key"]]))


def line(case: Case) -> str | None:
    """The case, if it is one fill or one matrix."""
    if not case["function"].endswith("orthogonal_"):
        return fill_line(case)
    whole = case["function"] == "orthogonal_" and "batch_axis" not in case["arguments"]
    return matrix_line(case) if whole else None


def golden() -> list[Case]:
    """The recorded cases."""
    cases: list[Case] = json.loads(GOLDEN.read_text())["cases"]
    return cases
