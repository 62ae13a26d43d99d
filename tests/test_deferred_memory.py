"""What takes a process of its own: deferred construction needs no more memory than stock's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BUILD = """
import sys, torch, fastinit
from contextlib import nullcontext

def model():
    layers = [torch.nn.Linear(2048, 2048, bias=False) for _ in range(12)]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.02)
        torch.nn.init.orthogonal_(torch.empty(64, 64))
    return layers

def peak():
    status = open("/proc/self/status").read()  # getrusage would count the parent's
    return int(status.split("VmHWM:")[1].split()[0])

fastinit.normal_(torch.empty(1 << 20))
torch.empty(1 << 20).normal_()
with fastinit.deferred():
    torch.nn.init.normal_(torch.empty(1 << 20)).sum()
begin = peak()
scope = {"stock": nullcontext, "patch": fastinit.patch, "deferred": fastinit.deferred}[sys.argv[1]]
with scope():
    kept = model()
    inside = peak() - begin
print(inside, peak() - begin)
"""


def used(way: str) -> tuple[int, int]:
    """KiB of the peak, before and after the end of the scope."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    run = subprocess.run(
        [sys.executable, "-c", BUILD, way], check=True, capture_output=True, text=True
    )
    inside, after = map(int, run.stdout.split())
    return inside, after


def test_peak_memory() -> None:
    model = 12 * 2048 * 2048 * 4 // 1024
    allowed = 8 * 1024  # of small things
    stock_peak = used("stock")[1]
    assert stock_peak > 0.9 * model
    assert used("patch")[1] <= stock_peak + allowed
    untouched, peak = used("deferred")
    assert untouched <= allowed
    assert peak <= stock_peak + allowed


def test_the_compiler_may_be_imported_inside() -> None:
    code = "import fastinit\nwith fastinit.deferred(seed=0):\n    import torch._dynamo"
    subprocess.run([sys.executable, "-c", code], check=True)
