"""What looks at networks, given what it cannot look at: refused with the remedy, or told of."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit.diagnostics import (
    ActivationMonitor,
    check,
    compare,
    gradient_report,
    signal_propagation,
    weight_report,
)

Looks = Callable[[nn.Module, Tensor], Any]


def watched(model: nn.Module, x: Tensor) -> Any:
    with ActivationMonitor(model) as monitor:
        model(x)
    return monitor.summary()


def compared(model: nn.Module, x: Tensor) -> Any:
    return compare(lambda: copy.deepcopy(model), (x, x[:, :1]), [None], epochs=1, seeds=1)


WITH_BATCH: dict[str, Looks] = {
    "calibrate_": lambda model, x: fastinit.calibrate_(model, x),
    "lsuv_": lambda model, x: fastinit.lsuv_(model, x, seed=0),
    "signal_propagation": lambda model, x: signal_propagation(model, x),
    "check": lambda model, x: check(model, x),
    "gradient_report": lambda model, x: gradient_report(model, x, lambda output: output.sum()),
    "ActivationMonitor": watched,
}
ALL: dict[str, Looks] = {
    **WITH_BATCH,
    "weight_report": lambda model, _: weight_report(model),
    "compare": compared,
}
looks = pytest.mark.parametrize("name", ALL)
with_batch = pytest.mark.parametrize("name", WITH_BATCH)


def batch(*shape: int) -> Tensor:
    return fastinit.normal_(torch.empty(shape or (64, 8)), key=0)


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    for at in (0, 2):
        fastinit.kaiming_normal_(model[at].weight, nonlinearity="relu", key=at)
    return model


def assert_json(result: Any) -> None:
    """Without the nan and inf that JSON lacks and Python's own module writes."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(result.to_json(), parse_constant=refuse)


def state_of(model: nn.Module) -> Any:
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for m in model.modules()
    ]
    values = [p.detach().clone() for p in model.parameters()]
    return hooks, values, [p.grad is None for p in model.parameters()], torch.get_rng_state()


def assert_untouched(model: nn.Module, before: Any) -> None:
    after = state_of(model)
    assert after[0] == before[0] and after[2] == before[2]
    assert all(map(torch.equal, after[1], before[1]))
    assert torch.equal(after[3], before[3])


@looks
def test_no_parameters(name: str) -> None:
    with pytest.raises(ValueError, match="no parameters"):
        ALL[name](nn.Sequential(nn.ReLU()), batch())


@looks
def test_lazy_parameters(name: str) -> None:
    with pytest.raises(ValueError, match="(?s)lazy.*(batch|once)"):
        ALL[name](nn.Sequential(nn.LazyLinear(4)), batch())


@looks
def test_parameters_on_meta(name: str) -> None:
    with pytest.raises(ValueError, match="meta"):
        ALL[name](nn.Sequential(nn.Linear(8, 4, device="meta")), batch())


@looks
def test_no_module(name: str) -> None:
    with pytest.raises(TypeError, match="Module|module"):
        ALL[name](torch.nn.functional.relu, batch())  # type: ignore[arg-type]


@with_batch
def test_a_batch_of_another_shape(name: str) -> None:
    model = network()
    before = state_of(model)
    with pytest.raises(RuntimeError, match=r"\(?64 ?[x,] ?3\)?") as refused:
        ALL[name](model, batch(64, 3))
    if name != "ActivationMonitor":  # the user's own call
        assert "batch" in str(refused.value) or "x, of shape" in str(refused.value)
    if name != "lsuv_":
        assert_untouched(model, before)


@with_batch
def test_a_batch_of_one_row(name: str) -> None:
    if name == "ActivationMonitor":  # one row has numbers, too
        assert len(ALL[name](network(), batch(1, 8))) > 0
        return
    model = network()
    before = state_of(model)
    with pytest.raises(ValueError, match="two rows"):
        ALL[name](model, batch(1, 8))
    assert_untouched(model, before)


@with_batch
def test_a_compiled_model(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"before torch.compile|_orig_mod"):
        ALL[name](torch.compile(network(), backend="eager"), batch())  # type: ignore[arg-type]


class OwnError(Exception):
    pass


@with_batch
def test_hooks_that_raise(name: str) -> None:
    def fail(*_: object) -> None:
        raise OwnError

    model = network()
    model[1].register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(OwnError):
        ALL[name](model, batch())
    if name == "lsuv_":
        return
    assert_untouched(model, before)


@with_batch
def test_activations_of_nan(name: str) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * math.nan

    model = nn.Sequential(nn.Linear(8, 8), Broken(), nn.Linear(8, 4))
    if name == "ActivationMonitor":
        with pytest.warns(UserWarning, match="nan or infinite"):
            assert any(r.nonfinite for r in ALL[name](model, batch()))
        return
    result = ALL[name](model, batch())
    assert "nan" in str(result).lower() or "not finite" in str(result)
    assert_json(result)


def test_compare_over_a_loss_of_nan() -> None:
    result = compared(nn.Sequential(nn.Linear(8, 1)), batch() * math.nan)
    assert "nan" in str(result.table()).lower()
    assert_json(result)
