"""Golden checksums of the stream: a digest for every function, dtype and corner of the indices.

    python tests/vectors/make_golden.py      # rewrites golden.json from the built extension

The fills run on the baseline instruction set; test_golden.py holds every instruction set of the
machine, one and two threads, and CUDA where there is a GPU, to the same digests. A digest is
BLAKE2b (16 bytes) of the elements' little-endian bytes in row-major order. A change of golden.json
is a change of the stream: it needs a new STREAM_VERSION and a CHANGELOG entry, and the old file
stays beside it, as golden_v1.json does, to show what did not change."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import fastinit
from fastinit import _C

PATH = Path(__file__).with_name("golden.json")
# Some of its lines, which `python -m fastinit doctor` knows wherever it is installed.
SHIPPED = Path(fastinit.__file__).parent / "diagnostics" / "commands" / "golden.json"
VERSION_1 = Path(__file__).with_name("golden_v1.json")

DTYPES = [
    "float32", "float64", "float16", "bfloat16",
    "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
]  # fmt: skip

# A vector and a matrix near the start; a matrix that two threads share; beyond 2^32 elements; at
# the end of the index space of complex numbers (2^62 real ones), with a counter that wraps around
# 2^64.
PLACES: list[dict[str, Any]] = [
    {"key": [0, 0], "shape": [1031]},
    {"key": [42, 0], "shape": [37, 29]},
    {"key": [7, 2**40], "shape": [257, 263]},
    {"key": [2**64 - 1, 2**63 - 3], "shape": [1001], "of": [2**40], "at": [2**33 + 5]},
    {"key": [2**63 + 9, 2**64 - 2], "shape": [19, 23], "of": [2**31, 2**30],
     "at": [2**31 - 19, 2**30 - 25]},
]  # fmt: skip

ANY_SHAPE: list[tuple[str, dict[str, Any]]] = [
    ("uniform_", {"a": 0.0, "b": 1.0}),
    ("uniform_", {"a": -0.3, "b": 0.1}),
    ("normal_", {"mean": 0.0, "std": 1.0}),
    ("normal_", {"mean": 0.7, "std": 0.02}),
    ("trunc_normal_", {"mean": 0.0, "std": 1.0, "a": -2.0, "b": 2.0}),
    ("trunc_normal_", {"mean": 0.1, "std": 0.001, "a": -2.0, "b": 2.0}),
    ("trunc_normal_", {"mean": 0.0, "std": 1.0, "a": 8.0, "b": 9.0}),
]
MATRICES: list[tuple[str, dict[str, Any]]] = [
    ("xavier_uniform_", {"gain": 1.5}),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {"a": 5**0.5}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("lecun_normal_", {}),
    ("lecun_uniform_", {}),
    ("variance_scaling_", {"scale": 2.0}),
    ("variance_scaling_", {"mode": "fan_avg", "distribution": "uniform"}),
    (
        "variance_scaling_",
        {"scale": 0.5, "mode": "fan_out", "distribution": "normal", "in_axis": 0, "out_axis": 1},
    ),
    ("sparse_", {"sparsity": 0.3, "std": 0.02}),
]

# Some blocks of reflectors, a batch, and a part of which no row is whole.
ORTHOGONAL: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("orthogonal_", {"gain": 1.5}, {"key": [42, 0], "shape": [150, 131]}),
    ("orthogonal_", {}, {"key": [7, 2**40], "shape": [33, 13, 11]}),
    ("orthogonal_", {"batch_axis": 1}, {"key": [2**64 - 1, 2**63 - 3], "shape": [9, 5, 7]}),
    ("orthogonal_", {}, {"key": [1, 2**64 - 2], "shape": [9, 61], "of": [70, 300], "at": [58, 33]}),
    ("delta_orthogonal_", {}, {"key": [42, 0], "shape": [9, 7, 3, 2]}),
]


def cases() -> Iterator[dict[str, Any]]:
    """Every fill of the golden file, without its digest."""
    for place in PLACES:
        laws = ANY_SHAPE + (MATRICES if len(place["shape"]) == 2 else [])
        for function, arguments in laws:
            for dtype in DTYPES:
                yield {"function": function, "arguments": arguments, "dtype": dtype, **place}
    for function, arguments, place in ORTHOGONAL:
        for dtype in DTYPES:
            yield {"function": function, "arguments": arguments, "dtype": dtype, **place}


def fill(case: dict[str, Any], device: str = "cpu") -> torch.Tensor:
    """Run one case."""
    tensor = torch.empty(case["shape"], dtype=getattr(torch, case["dtype"]), device=device)
    region = fastinit.Region(case["of"], case["at"]) if "of" in case else None
    function = getattr(fastinit, case["function"])
    return function(tensor, **case["arguments"], key=fastinit.Key(*case["key"]), region=region)


def digest(tensor: torch.Tensor) -> str:
    data = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def shipped(case: dict[str, Any]) -> bool:
    """Whether the self-test of an installation has the case."""
    return case["key"] == [42, 0] and case["dtype"] in ("float32", "bfloat16", "float64")


def write(path: Path, recorded: list[dict[str, Any]], header: dict[str, Any]) -> None:
    body = ",\n  ".join(map(json.dumps, recorded))
    opening = json.dumps(header, indent=1)[:-2]
    path.write_text(f'{opening},\n "cases": [\n  {body}\n ]\n}}\n')


def main() -> None:
    baseline = _C.instruction_sets()[0]
    _C.force_instruction_set(baseline)
    try:
        recorded = [{**case, "digest": digest(fill(case))} for case in cases()]
    finally:
        _C.force_instruction_set(None)
    header = {
        "stream_version": fastinit.STREAM_VERSION,
        "provenance": f"tests/vectors/make_golden.py, instruction set {baseline}, "
        f"{platform.machine()}, fastinit {fastinit.__version__}",
    }
    write(PATH, recorded, header)
    write(SHIPPED, [case for case in recorded if shipped(case)], header)


if __name__ == "__main__":
    main()
