"""A whole model from meta takes the memory of its parameters, and little beside them.

In processes of their own, where no memory is left over that could be used again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILL = """
import sys, torch, fastinit
from torch import nn
from fastinit.initializers import Normal
from fastinit.recipes import Recipe

def peak():
    status = open("/proc/self/status").read()  # getrusage would count the parent's
    return int(status.split("VmHWM:")[1].split()[0]) << 10

recipe = {"native": "native", "normal": Recipe({"**": Normal(0.02)})}[sys.argv[1]]
dtype = getattr(torch, sys.argv[2])
with torch.device("meta"):
    small = nn.Sequential(nn.Linear(512, 512))  # what first calls take for good
fastinit.materialize_(small, "cpu", recipe, seed=0, dtype=dtype)
fastinit.fingerprint(small)
with torch.device("meta"):
    model = nn.Sequential(*(nn.Linear(3000, 3000) for _ in range(4)))
begin = peak()
if sys.argv[3] == "ours":
    fastinit.materialize_(model, "cpu", recipe, seed=0, dtype=dtype)
else:
    for parameter in model.to_empty(device="cpu").parameters():
        nn.init.normal_(parameter)
    model.to(dtype)
filled = peak()
fastinit.fingerprint(model)
print(sum(p.numel() for p in model.parameters()) * dtype.itemsize, filled - begin, peak() - filled)
"""
SMALL = 16 << 20  # some panels, and Python's objects; a layer more would be 36 MB in float32


def used(recipe: str, dtype: str, way: str) -> tuple[int, int, int]:
    """Bytes of the parameters, of the peak of the fill beside what was there, of a fingerprint."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    command = [sys.executable, "-c", FILL, recipe, dtype, way]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    held, peak, fingerprint = map(int, run.stdout.split())
    return held, peak, fingerprint


@pytest.mark.parametrize(("recipe", "dtype"), [("native", "float32"), ("normal", "bfloat16")])
def test_a_model_takes_its_own_memory(recipe: str, dtype: str) -> None:
    held, peak, fingerprint = used(recipe, dtype, "ours")
    assert 0.9 * held < peak < held + SMALL
    assert fingerprint < SMALL


def test_a_float32_copy_is_noticed() -> None:
    """What `to_empty`, a loop and `to` take."""
    held, peak, _ = used("normal", "bfloat16", "stock")
    assert peak > held + SMALL
