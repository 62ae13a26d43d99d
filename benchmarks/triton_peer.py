"""The straightforward Triton kernel: four normals a program element from tl.randn4x."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

BLOCK = 1024


@triton.jit
def _normal_kernel(out, count, seed, mean, std, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    base = tl.program_id(0).to(tl.int64) * BLOCK * 4
    lane = tl.arange(0, BLOCK)
    n0, n1, n2, n3 = tl.randn4x(seed, (tl.program_id(0) * BLOCK + lane).to(tl.uint32))
    at = out + base + lane
    left = count - base - lane
    tl.store(at, n0 * std + mean, mask=left > 0)
    tl.store(at + BLOCK, n1 * std + mean, mask=left > BLOCK)
    tl.store(at + 2 * BLOCK, n2 * std + mean, mask=left > 2 * BLOCK)
    tl.store(at + 3 * BLOCK, n3 * std + mean, mask=left > 3 * BLOCK)


def fill_normal(tensor: torch.Tensor, mean: float, std: float) -> None:
    count = tensor.numel()
    grid = (triton.cdiv(count, 4 * BLOCK),)
    _normal_kernel[grid](tensor, count, 1234, mean, std, BLOCK=BLOCK)
