"""Moments of tensors by brute force, and tensors that are hard to measure."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastinit.diagnostics.watching import moments
from fastinit.diagnostics.watching.moments import Bounds

INF = math.inf
FREE = Bounds()


def brute_force(values: Tensor, axis: int, bounds: Bounds = FREE) -> dict[str, Any]:
    """Every number of a record, one NumPy-like step after the other, in double."""
    x = values.double()
    finite = x[x.isfinite()]
    units = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    beyond = ((x <= bounds.low) | (x >= bounds.high)).sum().item() if bounds != FREE else 0
    return {
        "count": x.numel(),
        "mean": finite.mean().item(),
        "std": finite.std(correction=0).item() if len(finite) else math.nan,
        "abs_max": finite.abs().max().item() if len(finite) else math.nan,
        "dead": sum(bool((unit == 0).all()) for unit in units) / len(units),
        "saturated": beyond / x.numel(),
        "nonfinite": x.numel() - finite.numel(),
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for word, value in wanted.items():
        if math.isnan(value):
            assert math.isnan(found[word]), (word, found, wanted)
            continue
        near = 1e-12 if word in ("dead", "saturated") else tolerance
        scale = max(abs(wanted["mean"]), wanted["std"]) if word == "mean" else abs(value)
        assert abs(found[word] - value) <= near * scale + 1e-30, (word, found, wanted)


def measured(values: Tensor, axis: int, bounds: Bounds = FREE) -> dict[str, Any]:
    rows = moments.rows_for(1, values.device)[0]
    peaks = moments.peaks_for(values.shape[axis], values.device)
    moments.accumulate(rows, peaks, values, axis, bounds)
    assert torch.equal(rows[0], rows[1])
    return moments.read(rows[0].tolist())


def cases() -> dict[str, tuple[Tensor, int]]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(67, 41, generator=draw)
    dead = x.relu() * (torch.arange(41) % 3 > 0)
    ill = x.clone()
    ill[3, 5], ill[4, 6], ill[5, 7] = math.nan, INF, -INF
    return {
        "normal": (x, -1),
        "far from zero": (x * 1e-3 + 700, -1),
        "an outlier first": (torch.cat([torch.full((1, 41), 1e4), x]), -1),
        "units dead": (dead, -1),
        "all zero": (torch.zeros(5, 7), -1),
        "nan and inf": (ill, -1),
        "large": (x * 1e30, -1),
        "small": (x * 1e-30, -1),
        "images": (torch.randn(3, 5, 17, 19, generator=draw).relu() - 0.1, 1),
        "images, channels last": (
            torch.randn(3, 5, 17, 19, generator=draw).contiguous(memory_format=torch.channels_last),
            1,
        ),
        "tokens": (torch.randn(3, 130, 70, generator=draw), -1),
        "tokens, transposed": (torch.randn(3, 70, 130, generator=draw).transpose(1, 2), -1),
        "strided": (torch.randn(64, 64, generator=draw)[::2, ::3], -1),
        "several threads": (torch.randn(700, 300, generator=draw), -1),
        "wide": (torch.randn(3, 9001, generator=draw), -1),
        "one value": (torch.tensor([0.3]), 0),
    }
