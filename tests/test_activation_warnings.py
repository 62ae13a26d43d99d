"""ActivationMonitor: what it warns of, what it does not, and what it refuses."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from _moments import INF
from _watched import Net, net
from torch import nn

from fastinit import _C
from fastinit.diagnostics import ActivationMonitor, InitializationWarning

# What deserves a warning, and what does not.


def chain(act: nn.Module, depth: int = 20, std: float = 0.0, width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=std / width**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, act]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (chain(nn.ReLU(), std=1.0), "variance changes by a factor of .*fastinit.gain"),
        (chain(nn.ReLU(), std=2.5), "variance changes"),
        (chain(nn.Tanh(), std=9.0), "activations are saturated"),
    ],
)
def test_trouble_is_told(model: nn.Module, text: str) -> None:
    with pytest.warns(InitializationWarning, match=text), ActivationMonitor(model):
        model(torch.randn(1024, 64))


def test_vanishing_gradients_are_told() -> None:
    model = chain(nn.Sigmoid(), std=1.0)
    with (
        pytest.warns(InitializationWarning, match="variance of gradients"),
        ActivationMonitor(model, backward=True),
    ):
        model(torch.randn(256, 64)).sum().backward()


def test_dead_units_are_told() -> None:
    model = chain(nn.ReLU(), depth=1, std=1.4)
    nn.init.constant_(model[0].bias, -30.0)  # type: ignore[arg-type]
    with pytest.warns(InitializationWarning, match="100% of the units"), ActivationMonitor(model):
        model(torch.randn(1024, 64))


def test_nan_is_reported() -> None:
    model = chain(nn.ReLU(), depth=3, std=1.4)
    x = torch.randn(32, 64)
    x[3, 5] = math.nan
    with (
        pytest.warns(InitializationWarning, match="nan or infinite"),
        ActivationMonitor(model, backward=True) as monitor,
    ):
        model(x).sum().backward()
    assert monitor.records()[0].nonfinite == 64  # the whole row of that sample
    assert math.isfinite(monitor.records()[0].std)
    with pytest.warns(InitializationWarning), ActivationMonitor(model) as monitor:
        model(torch.full_like(x, math.nan))
    assert math.isnan(monitor.records()[0].mean)
    assert "null" in monitor.summary().to_json()


@pytest.mark.parametrize(
    "model", [chain(nn.ReLU(), std=2**0.5, width=256), chain(nn.Tanh(), std=5 / 3), net()[0]]
)
def test_sound_networks_are_not_warned_of(model: nn.Module) -> None:
    x = net()[1] if isinstance(model, Net) else torch.randn(1024, model[0].in_features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ActivationMonitor(model):
            model(x)


# What is refused.


def test_compiled_modules_are_refused() -> None:
    model, x = net()
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(RuntimeError, match="_orig_mod"):
        ActivationMonitor(compiled)
    with pytest.raises(RuntimeError, match="before torch.compile"):
        ActivationMonitor(nn.Sequential(compiled))
    monitor = ActivationMonitor(model)
    model.compile(backend="eager")
    with pytest.raises(RuntimeError, match="compiled"), monitor:
        model(x)


def test_a_compiled_copy_that_runs_instead_is_told() -> None:
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with (
        pytest.warns(InitializationWarning, match="no call of module was seen"),
        ActivationMonitor(model),
    ):
        compiled(x)


def test_a_step_that_raises_leaves_no_hook() -> None:
    model, x = net()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with ActivationMonitor(model) as monitor:
        handle = model.relu.register_forward_hook(fail)
        with pytest.raises(ZeroDivisionError):
            model(x)
        assert not model.conv._forward_hooks
        handle.remove()
        model(x)
    names = [[r.name for r in monitor.records() if r.step == step] for step in (0, 1)]
    assert names[0] in (["conv"], ["conv", "relu"]) and len(names[1]) > 8


def test_leaving_by_an_error_keeps_the_error() -> None:
    model, x = net()
    monitor = ActivationMonitor(model).__enter__()
    model(x * math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.__exit__(ZeroDivisionError, None, None) is None
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"every": 0}, ValueError, "every"),
        ({"every": 1.5}, ValueError, "every"),
        ({"include": "nothing.*"}, ValueError, "include .* conv"),
        ({"include": 3}, TypeError, "include"),
    ],
)
def test_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ActivationMonitor(net()[0], **arguments)


def test_modules_without_values_are_refused() -> None:
    with pytest.raises(ValueError, match="meta"):
        ActivationMonitor(nn.Linear(2, 2, device="meta"))
    with pytest.raises(TypeError):
        ActivationMonitor(torch.nn.functional.relu)  # type: ignore[arg-type]
    monitor = ActivationMonitor(net()[0])
    with pytest.raises(RuntimeError, match="entered"), monitor, monitor:
        pass
    assert monitor.records() == () and len(monitor.summary()) == 0


def test_the_operator_refuses_what_does_not_fit() -> None:
    rows, peaks = torch.zeros(2, 7, dtype=torch.float64), torch.zeros(2, 4)
    x = torch.ones(3, 4)
    for arguments, word in [
        ((rows.float(), peaks, x, 1), "rows"),
        ((rows, peaks[:1], x, 1), "peaks"),
        ((rows, peaks, x.int(), 1), "values"),
        ((rows, peaks, torch.ones(3, 8)[:, ::2], 1), "values"),
        ((rows, peaks, torch.ones(3, 5), 1), "inner"),
        ((rows, peaks, x, 0), "inner"),
    ]:
        with pytest.raises(ValueError, match=word):
            _C.measure_(*arguments, -INF, INF)
    assert not rows.any() and not peaks.any()
