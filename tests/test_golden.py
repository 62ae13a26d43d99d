"""The recorded digests: every function, dtype, instruction set and thread count."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from _bits import DTYPES, short
from vectors import make_golden

import fastinit
from fastinit import _C

GOLDEN = json.loads(make_golden.PATH.read_text()) if make_golden.PATH.exists() else {"cases": []}


# Some cases are meant to lie far from the bounds.
pytestmark = pytest.mark.filterwarnings("ignore:mean is more than 2 std from")


def test_the_golden_file_is_of_this_stream_and_complete():
    assert GOLDEN["stream_version"] == fastinit.STREAM_VERSION == _C.stream_version()
    recorded = [{k: v for k, v in case.items() if k != "digest"} for case in GOLDEN["cases"]]
    assert recorded == list(make_golden.cases())


@pytest.fixture(params=_C.instruction_sets())
def instruction_set(request):
    _C.force_instruction_set(request.param)
    yield
    _C.force_instruction_set(None)


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def assert_golden(function, dtype, device):
    chosen = [
        case
        for case in GOLDEN["cases"]
        if case["function"] == function and case["dtype"] == short(dtype)
    ]
    assert chosen
    changed = [
        case
        for case in chosen
        if make_golden.digest(make_golden.fill(case, device)) != case["digest"]
    ]
    assert not changed, "the stream changed: this needs a new STREAM_VERSION"


golden = pytest.mark.parametrize("function", sorted({case["function"] for case in GOLDEN["cases"]}))


@golden
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.usefixtures("instruction_set", "threads")
def test_golden_checksums(function, dtype):
    assert_golden(function, dtype, "cpu")


@golden
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_golden_checksums_on_cuda(function, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert_golden(function, dtype, "cuda")


def test_every_function_of_the_stream_has_golden_checksums():
    keyed = {
        name
        for name in fastinit.init.__all__
        if "key" in inspect.signature(getattr(fastinit, name)).parameters
    }
    assert {case["function"] for case in GOLDEN["cases"]} == keyed


def test_version_2_changed_complex_laws_alone():
    """Against the digests of version 1: the means and the fan-scaled uniforms of complex numbers.

    New functions may have come since; none has gone.
    """

    def digests(cases):
        return {
            json.dumps({k: v for k, v in case.items() if k != "digest"}, sort_keys=True): case
            for case in cases
        }

    old = digests(json.loads(make_golden.VERSION_1.read_text())["cases"])
    new = digests(GOLDEN["cases"])
    assert old.keys() <= new.keys()
    changed = [case for name, case in old.items() if case["digest"] != new[name]["digest"]]
    laws = {(case["function"], case["arguments"].get("mean", 0.0) != 0.0) for case in changed}
    assert all(case["dtype"].startswith("complex") for case in changed)
    assert laws == {
        ("normal_", True), ("kaiming_uniform_", False), ("xavier_uniform_", False),
        ("lecun_uniform_", False), ("variance_scaling_", False),
    }  # fmt: skip
    scaled = [case["arguments"] for case in changed if case["function"] == "variance_scaling_"]
    assert all(arguments.get("distribution") == "uniform" for arguments in scaled)


def test_a_changed_bit_fails_the_golden_checksums():
    case = GOLDEN["cases"][0]
    w = make_golden.fill(case)
    assert make_golden.digest(w) == case["digest"]
    w.view(torch.uint8)[-1] ^= 1
    assert make_golden.digest(w) != case["digest"]
