"""The child of a process that has filled in parallel: it has no threads, and must not wait for any.

libgomp's child would wait for ever for the pool of its parent; so may other parallel operators of
torch. Each test runs in a process of its own, under a timeout.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

PROGRAM = """
import os, sys, torch, fastinit
torch.set_num_threads(4)
def fill():
    many = [fastinit.normal_(torch.empty(1 << 20), key=k) for k in range(2)]
    return [w.numpy().tobytes() for w in many]
before = fill() if sys.argv[1] == "parallel" else None
child = os.fork()
if child == 0:
    grandchild = os.fork()
    ok = before is None or fill() == before
    if grandchild == 0:
        os._exit(0 if ok and fill() else 1)
    _, status = os.waitpid(grandchild, 0)
    os._exit(0 if ok and status == 0 and fill() else 1)
_, status = os.waitpid(child, 0)
assert fill() == (before or fill())  # the parent goes on with its threads
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("parent", ["parallel", "idle"])
def test_a_fork_can_fill(parent: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, parent],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
