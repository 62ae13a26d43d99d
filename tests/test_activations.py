"""ActivationMonitor: numbers by brute force, no synchronization, constant memory."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from typing import Any

import pytest
import torch
from _moments import INF, assert_same, brute_force, cases, measured
from _watched import net
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinit import _C
from fastinit.diagnostics import ActivationMonitor
from fastinit.diagnostics.watching import moments
from fastinit.diagnostics.watching.moments import Bounds
from fastinit.diagnostics.watching.monitor import SLOTS


@pytest.fixture(params=_C.instruction_sets())
def instruction_set(request: Any) -> Any:
    _C.force_instruction_set(request.param)
    yield
    _C.force_instruction_set(None)


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.usefixtures("instruction_set")
def test_a_tensor_by_brute_force(case: str, dtype: torch.dtype, device: str) -> None:
    values, axis = cases()[case]
    values = values.to(device, dtype)
    bounds = Bounds(-0.97, 0.97)
    wanted = brute_force(values.cpu(), axis, bounds)
    assert_same(measured(values, axis, bounds), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_stream_is_that_of_all_values_at_once(dtype: torch.dtype, device: str) -> None:
    draw = torch.Generator().manual_seed(4)
    parts = [(torch.randn(n, 12, generator=draw) * n + n).to(device, dtype) for n in (3, 40, 1, 99)]
    parts[1] = parts[1].relu() * (torch.arange(12, device=device) > 3)
    rows = moments.rows_for(1, parts[0].device)[0]
    peaks = moments.peaks_for(12, parts[0].device)
    for part in parts:
        rows[0].zero_()  # a new step; the second row goes on
        moments.accumulate(rows, peaks, part, -1, Bounds())
    wanted = brute_force(torch.cat(parts).cpu(), -1)
    assert_same(moments.read(rows[1].tolist()), wanted)
    assert_same(moments.read(rows[0].tolist()), brute_force(parts[-1].cpu(), -1))


def test_dead_throughout_means_in_every_step() -> None:
    rows, peaks = (
        moments.rows_for(1, torch.device("cpu"))[0],
        moments.peaks_for(4, torch.device("cpu")),
    )
    for alive in (0, 1):
        rows[0].zero_()
        x = torch.zeros(5, 4)
        x[:, alive] = 1.0
        moments.accumulate(rows, peaks, x, -1, Bounds())
        assert moments.read(rows[0].tolist())["dead"] == 0.75
    assert moments.read(rows[1].tolist())["dead"] == 0.5


def outputs_of(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs of all modules and the gradients there, kept in full."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kept[name] = output[0] if isinstance(output, tuple) else output
            if isinstance(kept[name], Tensor):
                kept[name].retain_grad()

        return hook

    hooks = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if n]
    model(x)["logits"].square().sum().backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    grads = {n: v.grad for n, v in kept.items() if isinstance(v, Tensor) and v.grad is not None}
    return kept, grads


def test_every_module_by_brute_force(device: str) -> None:
    model, x = net(device)
    model.eval()
    outputs, grads = outputs_of(model, x)
    with ActivationMonitor(model, backward=True) as monitor:
        model(x)["logits"].square().sum().backward()
    records = monitor.records()
    parts = ["", ".up", ".act", ".down"]
    names = ["conv", "relu", *(f"blocks.{i}{part}" for i in (0, 1) for part in parts), "head"]
    assert [r.name for r in records if r.direction == "forward"] == names
    for r in records:
        values = (outputs if r.direction == "forward" else grads)[r.name].detach().cpu()
        axis = 1 if r.name in ("conv", "relu") else -1
        tanh = r.name.endswith("act") and r.direction == "forward"
        bound = 0.95**0.5 if tanh else INF
        found = {word: getattr(r, word) for word in brute_force(values, axis)}
        assert_same(found, brute_force(values, axis, Bounds(-bound, bound)))
        assert r.step == 0
    assert len(records) == 2 * len(names)


def test_saturation_is_where_the_slope_is_small() -> None:
    """Against autograd: the fraction of |f'| < 0.05."""
    torch.manual_seed(0)
    x = (torch.randn(4096, 8) * 4).requires_grad_()
    for act in (nn.Tanh(), nn.Sigmoid(), nn.Softsign(), nn.Hardsigmoid(), nn.Hardtanh(-2.0, 3.0)):
        with warnings.catch_warnings(), ActivationMonitor(nn.Sequential(nn.Linear(8, 8), act)) as m:
            warnings.simplefilter("ignore")
            hidden = m.module[0](x)  # type: ignore[index]
            m.module(x)
        hidden = hidden.detach().requires_grad_()
        (slope,) = torch.autograd.grad(act(hidden).sum(), hidden)
        wanted = (slope < 0.05).float().mean().item()
        assert m.records()[1].saturated == pytest.approx(wanted, abs=2e-4), act


# Steps, memory, synchronization.


def test_hooks_are_there_on_logged_steps_only() -> None:
    model, x = net()
    watched = [m for m in model.modules() if m is not model]
    seen = []
    model.head.register_forward_pre_hook(
        lambda *_: seen.append(sum(len(m._forward_hooks) for m in watched))
    )
    with ActivationMonitor(model, every=3) as monitor:
        for _ in range(7):
            model(x)
            assert sum(len(m._forward_hooks) for m in watched) == 0
    assert [n > 0 for n in seen] == [True, False, False, True, False, False, True]
    assert sorted({r.step for r in monitor.records()}) == [0, 3, 6]
    assert all(not m._forward_hooks for m in watched)
    assert not model._forward_hooks and not model._forward_pre_hooks


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for a device: a number for the host, a copy between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"), name
        moved = kwargs.get("device") if name in ("_to_copy", "to") else None
        first = next((a for a in args if isinstance(a, Tensor)), None)
        assert moved is None or first is None or first.device == torch.device(moved), name
        if name == "copy_":
            assert args[0].device == args[1].device, name
        return func(*args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_waits_for_the_device(dtype: torch.dtype, device: str) -> None:
    model, x = net(device)
    model.to(dtype)
    with ActivationMonitor(model, backward=True) as monitor:
        with NoWaiting():
            for _ in range(3):
                model(x.to(dtype))["logits"].square().sum().backward()
        with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
            x.sum().item()
    assert len({r.step for r in monitor.records()}) == 3


def tensors_alive() -> int:
    gc.collect()
    return sum(
        o.numel() * o.element_size() for o in gc.get_objects() if type(o) in (Tensor, nn.Parameter)
    )


def test_memory_is_constant_over_a_thousand_steps() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    kept = []  # the mean of each output, by brute force
    with ActivationMonitor(model) as monitor:
        for step in range(1000):
            kept.append(model(x + step)[:, 0].mean().item())
            if step == 300:
                before = tensors_alive()
        after = tensors_alive()
    assert after <= before
    assert len(monitor._kept) <= SLOTS
    steps = sorted({r.step for r in monitor.records()})
    assert steps[:3] == [0, 8, 16] and steps[-1] == 999 and len(steps) <= SLOTS
    for r in monitor.records():
        if r.name == "2":
            out = model(x + r.step)
            assert r.mean == pytest.approx(out.mean().item(), rel=1e-5)
    last = next(r for r in monitor.summary() if r.name == "2")
    assert last.count == 1000 * 32


def test_summary_merges_all_steps_and_calls() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    xs = [torch.randn(n, 8) for n in (3, 50, 7)]
    with ActivationMonitor(model, include=nn.Linear) as monitor:
        for x in xs:
            model(x)
    parts = [torch.cat([shared(x), shared(shared(x).relu())]).detach() for x in xs]
    for record, part in zip(monitor.records(), parts, strict=True):
        assert record.mean == pytest.approx(part.mean().item(), rel=1e-5)
        assert record.std == pytest.approx(part.std(correction=0).item(), rel=1e-5)
    (record,) = monitor.summary()
    whole = torch.cat(parts)
    assert record.std == pytest.approx(whole.std(correction=0).item(), rel=1e-5)
    assert record.count == whole.numel() and record.step == 2


def test_complex_outputs_count_both_parts() -> None:
    class Transform(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x)

    model = nn.Sequential(nn.Linear(8, 8), Transform())
    x = torch.randn(9, 8)
    with ActivationMonitor(model, backward=True) as monitor:
        y = model(x)
        y.abs().sum().backward()
    record = next(r for r in monitor.records() if r.name == "1")
    parts = torch.view_as_real(y.detach())
    assert record.count == parts.numel()
    assert record.std == pytest.approx(parts.std(correction=0).item(), rel=1e-5)


def test_the_time_it_takes() -> None:
    """Processor time of one thread, so that other programs matter little; the goal is a tenth, and
    docs/diagnostics.md has what was measured. torch's own reductions take several tenths.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 24, enable_nested_tensor=False)
    x = torch.randn(2, 64, 256)
    monitor = ActivationMonitor(model)

    def seconds() -> float:
        begin = time.process_time()
        with torch.no_grad():
            model(x)
        return time.process_time() - begin

    try:
        seconds()
        pairs = []
        for _ in range(5):
            plain = seconds()
            with warnings.catch_warnings(), monitor:
                warnings.simplefilter("ignore")
                pairs.append((plain, seconds()))
    finally:
        torch.set_num_threads(threads)
    assert statistics.median(watched / plain for plain, watched in pairs) < 1.25


def test_watching_changes_nothing(device: str) -> None:
    model, x = net(device)
    torch.manual_seed(1)
    plain = model(x)["logits"]
    state = torch.get_rng_state()
    torch.manual_seed(1)
    with ActivationMonitor(model, backward=True):
        watched = model(x)["logits"]
        watched.sum().backward()
    assert torch.equal(plain, watched)
    assert torch.equal(state, torch.get_rng_state())


def test_inference_mode_then_training() -> None:
    model, x = net()
    with ActivationMonitor(model, backward=True) as monitor:
        with torch.inference_mode():
            model(x)
        model(x)["logits"].sum().backward()
    assert {(r.step, r.direction) for r in monitor.records()} == {
        (0, "forward"), (1, "forward"), (1, "backward"),
    }  # fmt: skip


def test_in_place_activations_and_autocast() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))
    x = torch.randn(9, 8)
    linear = model[0](x).detach()
    with ActivationMonitor(model, backward=True) as monitor:
        model(x).sum().backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(x)
    first = monitor.records()[0]
    assert first.mean == pytest.approx(linear.mean().item(), rel=1e-5)
    assert len(monitor.records()) == 3 * 3


def test_include() -> None:
    model, x = net()
    wanted = {
        "blocks.*": ["blocks.0", "blocks.1"],
        "**.act": ["blocks.0.act", "blocks.1.act"],
        r"re:.*\d\.up": ["blocks.0.up", "blocks.1.up"],
        nn.Conv1d: ["conv"],
        (lambda name, part: name == "head"): ["head"],
    }
    for pattern, names in wanted.items():
        with ActivationMonitor(model, include=pattern) as monitor:  # type: ignore[arg-type]
            model(x)
        assert [r.name for r in monitor.records()] == names
    with ActivationMonitor(model, include=["conv", nn.Dropout]) as monitor:
        model(x)
    assert [r.name for r in monitor.records()] == ["conv", "drop"]


def test_a_single_layer() -> None:
    model = nn.Linear(4, 4)
    with ActivationMonitor(model) as monitor:
        model(torch.randn(5, 4))
    assert [r.name for r in monitor.records()] == ["Linear"]


def test_the_table() -> None:
    model, x = net()
    with ActivationMonitor(model) as monitor:
        model(x)
    text = str(monitor.summary())
    assert "blocks.1.act" in text and max(map(len, text.splitlines())) <= 80
    assert '"history"' in monitor.summary().to_json()
