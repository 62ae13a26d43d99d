"""Signals through depth: measured numbers by brute force, and theory against many networks.

Statistical tests fix their seeds and state alpha; each has a twin that a wrong gain fails.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import fastinit
from fastinit.diagnostics import Propagation, signal_propagation
from fastinit.diagnostics.signals.mean_field import Theory, function_in, measured, moments

ALPHA = 1e-4
WIDTH, DEPTH, ROWS, SEEDS = 192, 50, 96, 12

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "selu": nn.SELU, "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh, "softsign": nn.Softsign, "gelu": nn.GELU, "silu": nn.SiLU,
}  # fmt: skip
STABLE = ["elu", "selu", "tanh", "hardtanh", "softsign"]


def network(name: str, *, gain: float | None = None, seed: int = 0, depth: int = DEPTH) -> Any:
    """Layers without biases, at the gain of their activation or at another one."""
    gain = fastinit.gain(name) if gain is None else gain
    model = nn.Sequential()
    for at in range(depth):
        layer = nn.Linear(WIDTH, WIDTH, bias=False, device="meta").to_empty(device="cpu")
        key = fastinit.Key(seed).fold_in(at)
        fastinit.normal_(layer.weight, std=gain / math.sqrt(WIDTH), key=key)
        model.extend([layer, ACTIVATIONS[name]()])
    return model


def signal(name: str, seed: int) -> Tensor:
    """A batch as it comes out of the activation: the first layer starts at variance 1."""
    x = fastinit.normal_(torch.empty(ROWS, WIDTH), key=fastinit.Key(seed).fold_in("x"))
    return x / fastinit.gain(name)


@torch.no_grad()
def forward(model: nn.Sequential, x: Tensor) -> list[float]:
    """The second moment behind each layer, by hand."""
    found = []
    for part in model:
        x = part(x)
        if isinstance(part, nn.Linear):
            found.append(float(x.double().square().mean()))
    return found


# ------------------------------------------------------------------------------ what is measured


def test_numbers_are_those_of_brute_force() -> None:
    model, x = network("gelu", depth=6), signal("gelu", 0)
    result = signal_propagation(model, x, seed=7)
    values = [x.clone().requires_grad_()]
    for part in model:
        values.append(part(values[-1]))
        values[-1].retain_grad()
    values[-1].backward(fastinit.normal_(torch.empty_like(values[-1]), key=7))
    assert [r.name for r in result] == [str(at) for at in range(12)]
    assert [r.depth for r in result] == [at // 2 + 1 for at in range(12)]
    for record, value in zip(result, values[1:], strict=True):
        assert record.forward == pytest.approx(float(value.detach().square().mean()), rel=1e-5)
        assert record.backward == pytest.approx(float(value.grad.square().mean()), rel=1e-5)


def test_writing_in_place_changes_nothing() -> None:
    model = network("relu", depth=4)
    inplace = copy.deepcopy(model)
    for part in inplace:
        if isinstance(part, nn.ReLU):
            part.inplace = True
    x = signal("relu", 0)
    assert signal_propagation(inplace, x).records == signal_propagation(model, x).records


def test_all_else_is_left_as_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU())
    model[0].bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    x = torch.ones(4, 3, 8, 8)
    signal_propagation(model, x)
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters()) and x.grad is None
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_recipe_is_tried_on_a_copy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    result = signal_propagation(model, signal("relu", 0), recipe="native", seed=3)
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    fastinit.init_(model, seed=3)
    again = signal_propagation(model, signal("relu", 0), seed=3)
    assert again.records == result.records


def test_models_that_return_more_than_a_tensor() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(8, 8)
    result = signal_propagation(model, torch.ones(4, 3, 8))
    assert result.records[0].predicted is None and result.records[0].backward > 0


def test_integers_in_and_frozen_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 4)).requires_grad_(False)
    result = signal_propagation(model, torch.arange(8).view(4, 2))
    assert all(math.isnan(record.backward) for record in result)
    assert '"backward": null' in result.to_json()


# ------------------------------------------------------------------------------------ the theory


@pytest.mark.parametrize("name", STABLE)
def test_stable_activations_hold_the_variance(name: str) -> None:
    """To what a width of 192 allows: a factor exp(0.35), where 15 % of gain already make more."""
    found = torch.tensor([forward(network(name, seed=s), signal(name, s)) for s in range(3)])
    assert float(found.mean(0).log().abs().max()) < 0.35
    wrong = network(name, gain=0.85 * fastinit.gain(name))
    assert abs(math.log(forward(wrong, signal(name, 0))[-1])) > 0.35


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu"])
def test_the_mean_over_networks_is_the_predicted_one(name: str) -> None:
    """relu keeps its mean over networks and drifts in each; gelu and silu grow, as predicted.

    Student's t of 12 networks, alpha = 1e-4, at a quarter of the depth and at its end.
    """
    records = signal_propagation(network(name), signal(name, 0)).records[::2]
    predicted = [record.predicted for record in records]
    found = torch.tensor([forward(network(name, seed=s), signal(name, s)) for s in range(SEEDS)])
    for at in (11, DEPTH - 1):
        assert stats.ttest_1samp(found[:, at].numpy(), predicted[at]).pvalue > ALPHA
    least = {"relu": 0.8, "leaky_relu": 0.8, "gelu": 20.0, "silu": 800.0}
    assert predicted[-1] > least[name]
    gain = math.sqrt(2) if name in ("gelu", "silu") else 1.0
    wrong = [forward(network(name, gain=gain, seed=s), signal(name, s)) for s in range(3)]
    ends = [moments[-1] for moments in wrong]
    assert stats.ttest_1samp(ends, predicted[-1]).pvalue < ALPHA
    told = signal_propagation(network(name, gain=gain), signal(name, 0)).records[-2].predicted
    assert told < 1e-8 and abs(math.log(ends[0] / told)) < 8  # theory knows that too


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_calibration_holds_what_gains_cannot(name: str) -> None:
    model, x = network(name), signal(name, 0)
    drift = forward(model, x)
    fastinit.calibrate_(model, x)
    held = forward(model, x)
    assert max(abs(value - 1) for value in held) < 0.02
    assert max(abs(value - 1) for value in drift) > 1


def test_one_layer_is_exact() -> None:
    for name in ACTIVATIONS:
        second, _ = moments(function_in(ACTIVATIONS[name]()), torch.tensor([1.0]).double())
        assert float(second) == pytest.approx(fastinit.gain(name) ** -2, rel=1e-3)


def test_convolutions_norms_and_dropout_are_predicted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, stride=2, groups=4),
        nn.BatchNorm2d(64), nn.GELU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64 * 49, 128),
        nn.LayerNorm(128), nn.Tanh(), nn.Identity(), nn.Linear(128, 128),
    )  # fmt: skip
    result = signal_propagation(model, fastinit.normal_(torch.empty(64, 16, 16, 16), key=0))
    for record in result:
        assert record.predicted == pytest.approx(record.forward, rel=0.15), record


def test_own_activations_are_predicted_and_unknown_modules_start_anew() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(2 * x)

    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(-1) * 30

    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), Own(), nn.Linear(WIDTH, WIDTH), Mixing(), nn.Linear(192, 9)]
    result = signal_propagation(nn.Sequential(*layers), signal("relu", 0)).records
    assert result[1].predicted == pytest.approx(result[1].forward, rel=0.1)
    assert result[3].predicted is None
    assert result[4].predicted == pytest.approx(result[4].forward, rel=0.5)


def test_functions_called_without_a_module_start_anew() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(F.relu(self.one(x)) * 3)

    torch.manual_seed(0)
    result = signal_propagation(Net(), signal("relu", 0)).records
    assert result[1].predicted == pytest.approx(result[1].forward, rel=0.1)


def test_randn_weights_overflow_and_are_told() -> None:
    model = network("relu", gain=math.sqrt(WIDTH))
    records = signal_propagation(model, signal("relu", 0)).records
    assert not math.isfinite(records[-1].forward)
    assert 1e90 < records[-2].predicted < math.inf


def test_the_theory_is_deterministic() -> None:
    layer, rows = nn.Linear(WIDTH, WIDTH), measured(torch.ones(3))
    means = []
    for _ in range(2):
        theory, current = Theory(), rows
        for part in (layer, nn.ReLU(), layer, nn.ReLU(), layer):
            current = theory.through(part, current, torch.Size([3, WIDTH]))
        means.append(current.mean)
    assert means[0] == means[1]


# ------------------------------------------------------------------------------------- the result


def test_table_and_picture() -> None:
    result = signal_propagation(network("gelu", depth=4), signal("gelu", 0))
    assert isinstance(result, Propagation) and len(result) == 8
    lines = str(result).splitlines()
    assert lines[0].split() == ["module", "depth", "forward", "predicted", "backward"]
    assert max(map(len, lines)) <= 80
    pytest.importorskip("matplotlib")
    figure = result.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["second moment"] * 2
    drawn = [line.get_ydata() for line in figure.axes[0].lines[:2]]
    layers = [record for record in result if record.name in ("0", "2", "4", "6")]
    assert list(drawn[1]) == [record.forward for record in layers]
    assert list(drawn[0]) == [record.predicted for record in layers]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    result = signal_propagation(network("gelu", depth=2), signal("gelu", 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        result.plot()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        signal_propagation(nn.ReLU(), torch.ones(2, 2))
    with pytest.raises(ValueError, match="x must have at least two rows"):
        signal_propagation(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"x, of shape \(2, 3\)"):
        signal_propagation(nn.Linear(2, 2), torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="before torch.compile"):
        signal_propagation(torch.compile(nn.Linear(2, 2)), torch.ones(2, 2))
