"""Runs each CUDA kernel a few times on small tensors: something for compute-sanitizer and ncu.

Run: compute-sanitizer --tool memcheck python -m benchmarks.exercise
     ncu --set basic python -m benchmarks.exercise --large
"""

from __future__ import annotations

import argparse

import torch

import fastinit
from fastinit._fill.extension import DTYPES, native


def small() -> None:
    """Every distribution, dtype and path, sizes and alignments at random places."""
    for dtype in DTYPES:
        for size in (1, 5, 1000, 100_003):
            buffer = torch.zeros(size + 40, dtype=dtype, device="cuda")
            for begin in (0, 1, 3):
                target = buffer[begin : begin + size]
                fastinit.uniform_(target, -1.0, 1.0)
                fastinit.normal_(target)
                fastinit.trunc_normal_(target)
        matrix = torch.zeros(67, 45, dtype=dtype, device="cuda")
        for view in (matrix, matrix.t(), matrix[:, 3:20]):
            fastinit.uniform_(view, -1.0, 1.0)
            fastinit.trunc_normal_(view)
            fastinit.sparse_(view, 0.3)
            fastinit.kaiming_normal_(view)
        tensors = [torch.zeros(n, dtype=dtype, device="cuda") for n in range(1, 300)]
        count = len(tensors)
        law = ([i % 3 for i in range(count)], [0.0] * count, [1.0] * count)
        native.multi_fill_(tensors, *law, [-1.0] * count, [1.0] * count, [7] * 2 * count)
    target = torch.zeros(100, 100, device="cuda")
    scale, key = torch.ones((), device="cuda"), torch.ones(2, dtype=torch.uint64, device="cuda")
    fastinit.normal_(target, std=scale, key=key)
    fastinit.sparse_(target, 0.3, std=scale, key=key)
    fastinit.normal_(torch.zeros([2] * 9 + [3], device="cuda").permute(*range(9, -1, -1)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # copies the table by value
        native.multi_fill_(tensors, *law, [-1.0] * count, [1.0] * count, [7] * 2 * count)
        fastinit.normal_(target)
    graph.replay()
    torch.cuda.synchronize()


def large() -> None:
    """The main kernels at a size that fills the device."""
    tensor = torch.empty(2**28, device="cuda")
    for target in (tensor, tensor.view(torch.bfloat16)):
        fastinit.uniform_(target, -1.0, 1.0)
        fastinit.normal_(target)
        fastinit.trunc_normal_(target)
    torch.cuda.synchronize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    large() if parser.parse_args().large else small()
