"""The CUDA kernels behind ActivationMonitor: emulated thread by thread, and on a device.

Where no GPU is, `test_standin.py` runs those that need one on compiled kernels.
"""

from __future__ import annotations

import ctypes
import warnings
from typing import Any

import pytest
import torch
from _bits import short
from _moments import FREE, INF, assert_same, brute_force, cases, measured
from test_cuda_bodies import emulated
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinit._fill.extension import native
from fastinit.diagnostics import ActivationMonitor
from fastinit.diagnostics.watching import moments
from fastinit.diagnostics.watching.moments import Bounds

FUSED = [torch.float32, torch.bfloat16, torch.float16]
GRIDS = [(1, 1), (3, 5), (2, 64), (40, 33)]
BOUNDS = Bounds(-0.97, 0.97)
# All sums are in double: what is left is the rounding of either side's last steps.
TOLERANCE = 1e-10

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def add_emulated(rows: Tensor, peaks: Tensor, values: Tensor, axis: int, grid: Any) -> None:
    in_order, inner = moments._in_memory_order(values, axis)
    with emulated(*grid):
        native.measure_(rows, peaks, in_order, inner, *BOUNDS)


def emptied(units: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    there = torch.device(device)
    return moments.rows_for(1, there)[0], moments.peaks_for(units, there)


# The bodies, emulated.


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", FUSED, ids=short)
@pytest.mark.parametrize("case", cases())
def test_the_bodies_by_brute_force(case: str, dtype: torch.dtype, grid: Any) -> None:
    values, axis = cases()[case]
    values = values.to(dtype)
    rows, peaks = emptied(values.shape[axis])
    add_emulated(rows, peaks, values, axis, grid)
    assert torch.equal(rows[0], rows[1])
    found = moments.read(rows[0].tolist())
    assert_same(found, brute_force(values, axis, BOUNDS), TOLERANCE)


SHAPES = {
    "one row of many units": ((1, 5000), -1),
    "many rows of one unit": ((5000, 1), -1),
    "one long unit": ((1, 1, 9000), 1),
    "few units, long": ((2, 3, 71, 67), 1),
    "many units, short": ((5, 301, 2), 1),
    "more units than strips": ((1, 140_000), -1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_strips_of_every_kind(shape: str) -> None:
    """Each element once, and each unit's peak its own."""
    sizes, axis = SHAPES[shape]
    draw = torch.Generator().manual_seed(6)
    values = torch.randn(sizes, generator=draw).relu()
    alone = values.movedim(axis, 0).flatten(1).amax(1)
    rows, peaks = emptied(values.shape[axis])
    add_emulated(rows, peaks, values, axis, (3, 7))
    assert torch.equal(peaks, alone.expand(2, -1))
    found = moments.read(rows[0].tolist())
    assert_same(found, brute_force(values, axis, BOUNDS), TOLERANCE)


def test_rows_that_go_on() -> None:
    """A new step empties the first row alone, whose peaks begin anew."""
    draw = torch.Generator().manual_seed(4)
    parts = [torch.randn(n, 12, generator=draw).relu() * n for n in (40, 3, 99)]
    rows, peaks = emptied(12)
    for part in parts:
        rows[0].zero_()
        add_emulated(rows, peaks, part, -1, (2, 5))
    assert_same(moments.read(rows[1].tolist()), brute_force(torch.cat(parts), -1, BOUNDS))
    assert_same(moments.read(rows[0].tolist()), brute_force(parts[-1], -1, BOUNDS))
    assert torch.equal(peaks[0], parts[-1].amax(0))
    assert torch.equal(peaks[1], torch.cat(parts).amax(0))


def test_the_emulation_is_not_the_engine() -> None:
    """A test of the tests: the CPU's engine has no float16."""
    rows, peaks = emptied(4)
    with pytest.raises(ValueError, match="on CUDA, float16"):
        native.measure_(rows, peaks, torch.ones(3, 4).half(), 1, -INF, INF)
    add_emulated(rows, peaks, torch.ones(3, 4).half(), -1, (1, 1))
    assert rows[0, 0] == 12


# On a device.


@needs_cuda
@pytest.mark.parametrize("dtype", FUSED, ids=short)
@pytest.mark.parametrize("case", cases())
def test_on_a_cuda_device(case: str, dtype: torch.dtype) -> None:
    values, axis = cases()[case]
    values = values.to(dtype)
    found = measured(values.cuda(), axis, BOUNDS)
    assert_same(found, brute_force(values, axis, BOUNDS), TOLERANCE)
    assert_same(measured(values.cuda(), axis), brute_force(values, axis, FREE), TOLERANCE)


@needs_cuda
@pytest.mark.parametrize("shape", SHAPES)
def test_strips_on_a_cuda_device(shape: str) -> None:
    sizes, axis = SHAPES[shape]
    values = torch.randn(sizes, generator=torch.Generator().manual_seed(6)).relu()
    assert_same(measured(values.cuda(), axis), brute_force(values, axis), TOLERANCE)


class Recorded(TorchDispatchMode):
    """The names of all operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


@needs_cuda
@pytest.mark.parametrize("dtype", FUSED, ids=short)
def test_one_operator_a_module_and_nothing_waits(dtype: torch.dtype) -> None:
    """The host has gone on while the stream that the values come from still works on them."""
    values = torch.randn(64, 48).to(dtype)
    there, (rows, peaks) = values.cuda(), emptied(48, "cuda")
    moments.accumulate(rows, peaks, there, -1, FREE)  # loads the kernels
    rows.zero_()
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with Recorded() as recorded:
            torch.cuda._sleep(50_000_000)
            for _ in range(3):
                moments.accumulate(rows, peaks, there, -1, FREE)
            waiting = not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert waiting
    assert [name for name in recorded.names if "detach" not in name] == ["fastinit.measure_"] * 3
    wanted = brute_force(values.repeat(3, 1), -1)
    assert_same(moments.read(rows[0].tolist()), wanted, TOLERANCE)


@needs_cuda
def test_the_monitor_on_a_cuda_device() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x = torch.randn(7, 3, 8, 8)
    seen: dict[str, list[dict[str, Any]]] = {}
    for device in ("cpu", "cuda"):
        model.to(device)
        with warnings.catch_warnings(), ActivationMonitor(model, backward=True) as monitor:
            warnings.simplefilter("ignore")
            for step in range(3):
                model(x.to(device) * (step + 1)).square().sum().backward()
        seen[device] = [
            {word: getattr(r, word) for word in brute_force(torch.ones(1, 1), -1)}
            for r in [*monitor.records(), *monitor.summary()]
        ]
    for on_cpu, on_cuda in zip(seen["cpu"], seen["cuda"], strict=True):
        assert_same(on_cuda, on_cpu, 1e-4)  # of two devices' convolutions


class Split(nn.Module):
    """Its second layer on another device."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.places = first, second
        self.a, self.b = nn.Linear(8, 16, device=first), nn.Linear(16, 4, device=second)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.to(self.places[0])).relu().to(self.places[1]))


@needs_cuda
@pytest.mark.parametrize("places", [("cuda:0", "cuda:1"), ("cuda:0", "cpu"), ("cpu", "cuda:0")])
def test_a_model_on_two_devices(places: tuple[str, str]) -> None:
    if torch.cuda.device_count() < 2 and "cuda:1" in places:
        pytest.skip("needs two CUDA devices")
    model, x = Split(*places), torch.randn(30, 8)
    with ActivationMonitor(model, backward=True) as monitor:
        y = model(x)
        y.square().sum().backward()
    records = {(r.name, r.direction): r for r in monitor.records()}
    assert len(records) == 4
    assert records["b", "forward"].std == pytest.approx(y.std(correction=0).item(), rel=1e-5)
    gradient = (2 * y).detach()
    assert records["b", "backward"].std == pytest.approx(
        gradient.std(correction=0).item(), rel=1e-5
    )


@needs_cuda
def test_a_captured_step_counts_at_each_replay() -> None:
    values = torch.randn(50, 20).cuda()
    rows, peaks = emptied(20, "cuda")
    moments.accumulate(rows, peaks, values, -1, FREE)
    rows.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        moments.accumulate(rows, peaks, values, -1, FREE)
    for _ in range(3):
        graph.replay()
    found = moments.read(rows[0].tolist())
    assert_same(found, brute_force(values.cpu().repeat(3, 1), -1), TOLERANCE)


@needs_cuda
def test_failed_launches_are_told() -> None:
    runtime = ctypes.CDLL(None)
    if not hasattr(runtime, "standin_fail_next_launch"):
        pytest.skip("needs a device that fails on demand: the stand-in")
    values, (rows, peaks) = torch.ones(3, 4).cuda(), emptied(4, "cuda")
    runtime.standin_fail_next_launch()
    with pytest.raises(RuntimeError, match="CUDA error"):
        moments.accumulate(rows, peaks, values, -1, FREE)
    moments.accumulate(rows, peaks, values, -1, FREE)
    assert rows[0, 0] == 12


@needs_cuda
def test_the_operator_refuses_another_device() -> None:
    rows, peaks = emptied(4)
    with pytest.raises(ValueError, match="rows must be .* on cuda"):
        native.measure_(rows, peaks.cuda(), torch.ones(3, 4).cuda(), 1, -INF, INF)
    with pytest.raises(ValueError, match="peaks must be .* on cuda"):
        native.measure_(rows.cuda(), peaks, torch.ones(3, 4).cuda(), 1, -INF, INF)
    assert not rows.any() and not peaks.any()
