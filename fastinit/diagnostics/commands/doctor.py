"""doctor: whether this build, on this machine, gives the bits that it should.

Owns the self-test and golden.json, its known answers: some lines of tests/vectors/golden.json,
written by the same script. Must not print.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

import fastinit._fill.extension as extension
from fastinit import init
from fastinit._fill.keys import Key
from fastinit._fill.regions import Region
from fastinit.diagnostics.tables import Cell, Result

# Published with Random123 (D. E. Shaw Research): counter, key, result of ten rounds.
_PHILOX = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Examination:
    """One thing that was looked at.

    Args:
        name: what.
        state: "ok", "failed" or, where there is nothing to fail, "info".
        detail: what was found.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Diagnosis(Result[Examination]):
    """What `doctor` found."""

    @property
    def well(self) -> bool:
        """Whether nothing failed."""
        return all(record.state != "failed" for record in self.records)

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["what", "state", "detail"]

    def rows(self) -> list[list[Cell]]:
        """The cells of the table, one list for each record."""
        return [[r.name, r.state, r.detail] for r in self.records]

    def notes(self) -> list[str]:
        """The verdict, below the table."""
        if self.well:
            return ["all is well"]
        return ["something failed: the values of this build are not those of the stream; rebuild"]


def doctor(version: str) -> Diagnosis:
    """Examine the build and its devices, and fill tensors whose bits are known.

    Args:
        version: of fastinit.

    Returns: the diagnosis; a table when printed.
    """
    native = extension.native
    info = native.build_info()
    golden = json.loads(
        files("fastinit.diagnostics.commands").joinpath("golden.json").read_text("utf-8")
    )
    return Diagnosis(
        (
            *_build(version, info),
            *_devices(info),
            _philox(native),
            _version(golden, info),
            *_instruction_sets(native, golden["cases"]),
            *_cuda(info, golden["cases"]),
        )
    )


def _build(version: str, info: dict[str, Any]) -> Iterator[Examination]:
    yield Examination("fastinit", "info", f"{version}, stream version {info['stream_version']}")
    yield Examination("python", "info", f"{platform.python_version()}, {platform.platform()}")
    yield Examination("torch", "info", f"{torch.__version__}, built for {info['torch']}")
    cuda = info["cuda"]
    architectures = " ".join(info["cuda_architectures"] or [])
    yield Examination("CUDA part", "info", f"{cuda}, for {architectures}" if cuda else "not built")


def _devices(info: dict[str, Any]) -> Iterator[Examination]:
    detail = f"{info['threads']} threads, {info['instruction_set']}"
    yield Examination("CPU", "info", detail)
    for index in range(torch.cuda.device_count()):
        yield Examination(f"cuda:{index}", "info", torch.cuda.get_device_name(index))


def _philox(native: Any) -> Examination:
    words = [[[int(word, 16) for word in text.split()] for text in line] for line in _PHILOX]
    right = [list(native.philox(counter, key)) == result for counter, key, result in words]
    return _judged("Philox4x32-10", sum(right), len(right), "known answers")


def _version(golden: dict[str, Any], info: dict[str, Any]) -> Examination:
    recorded, built = golden["stream_version"], info["stream_version"]
    state = "ok" if recorded == built else "failed"
    return Examination("stream version", state, f"{built} built, {recorded} recorded")


def _instruction_sets(native: Any, cases: list[dict[str, Any]]) -> Iterator[Examination]:
    try:
        for name in native.instruction_sets():
            native.force_instruction_set(name)
            yield _judged(f"CPU, {name}", *_right(cases, "cpu"), "golden fills")
    finally:
        native.force_instruction_set(None)


def _cuda(info: dict[str, Any], cases: list[dict[str, Any]]) -> Iterator[Examination]:
    if not info["cuda"] or not torch.cuda.is_available():
        reason = "no CUDA device" if info["cuda"] else "not built"
        yield Examination("CUDA", "info", f"not tested: {reason}")
        return
    for index in range(torch.cuda.device_count()):
        yield _judged(f"cuda:{index}", *_right(cases, f"cuda:{index}"), "golden fills")


def _judged(name: str, right: int, count: int, what: str) -> Examination:
    state = "ok" if right == count else "failed"
    return Examination(name, state, f"{right} of {count} {what}")


def _right(cases: list[dict[str, Any]], device: str) -> tuple[int, int]:
    return sum(_digest(_filled(case, device)) == case["digest"] for case in cases), len(cases)


def _filled(case: dict[str, Any], device: str) -> Tensor:
    tensor = torch.empty(case["shape"], dtype=getattr(torch, case["dtype"]), device=device)
    region = Region(case["of"], case["at"]) if "of" in case else None
    fill = getattr(init, case["function"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a mean far from the bounds, which is one of the cases
        filled: Tensor = fill(tensor, **case["arguments"], key=Key(*case["key"]), region=region)
    return filled


def _digest(tensor: Tensor) -> str:
    data = bytes(tensor.cpu().contiguous().flatten().view(torch.uint8).tolist())
    return hashlib.blake2b(data, digest_size=16).hexdigest()
