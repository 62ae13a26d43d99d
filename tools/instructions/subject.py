"""What is counted: run by callgrind, which counts only what stands between two marks.

Prints nothing; `__main__.py` reads callgrind's own files, two for each subject.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import torch

import fastinit

# The difference between two numbers of calls has nothing but calls in it.
CALLS = tuple(map(int, sys.argv[1:])) or (2, 12)


def fill(function: Callable[..., object], dtype: torch.dtype) -> Callable[[], object]:
    """A call that fills 2^16 elements, whose kernel is nearly all of it."""
    tensor = torch.empty(1 << 16, dtype=dtype)
    return lambda: function(tensor, key=1)


def small() -> Callable[[], object]:
    """A call whose way to the kernel is nearly all of it."""
    tensor = torch.empty(16, 16)
    return lambda: fastinit.kaiming_normal_(tensor, key=1)


SUBJECTS: dict[str, Callable[[], object]] = {
    "uniform_ float32": fill(fastinit.uniform_, torch.float32),
    "normal_ float32": fill(fastinit.normal_, torch.float32),
    "normal_ bfloat16": fill(fastinit.normal_, torch.bfloat16),
    "trunc_normal_ float64": fill(fastinit.trunc_normal_, torch.float64),
    "kaiming_normal_ 16x16": small(),
}


def control(*arguments: str) -> None:
    """Have callgrind do something to this process."""
    command = ["callgrind_control", *arguments, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Each subject, warm, by the smaller and by the larger number of calls."""
    torch.set_num_threads(1)
    for call in SUBJECTS.values():
        for _ in range(20):
            call()
    for call in SUBJECTS.values():
        for calls in CALLS:
            control("-i", "on")
            for _ in range(calls):
                call()
            control("-i", "off")
            control("-d")


if __name__ == "__main__":
    main()
