"""Data-dependent scales: exact after one pass, for every kind of layer, and nothing else.

The oracle is always a second pass of the model with plain hooks, after `calibrate_` is through.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from _calibrating import WIDTH, batch, mlp, products, std
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit

# ------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_has_its_target(dtype: torch.dtype) -> None:
    model, x = mlp().to(dtype), batch(256, WIDTH).to(dtype)
    stds = {name: std(value) for name, value in products(model, x).items()}
    result = fastinit.calibrate_(model, x)
    after = products(model, x)
    assert [std(value) for value in after.values()] == pytest.approx([1.0] * 6, rel=1e-5)
    assert stds["10"] < 0.5  # it was not so before
    assert [record.after for record in result] == pytest.approx([1.0] * 6, rel=1e-5)
    assert result.records[0].before == pytest.approx(stds["0"], rel=1e-5)


def test_scales_are_those_of_the_weights() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(256, WIDTH))
    for record in result:
        now = model.state_dict()[record.name]
        assert torch.allclose(now, before[record.name] * record.scale, rtol=1e-6)
        bias = record.name.replace("weight", "bias")
        assert torch.equal(model.state_dict()[bias], before[bias])


def test_what_runs_in_the_pass_is_the_calibrated_model() -> None:
    """The hook's output is that of the scaled weights: later passes see the same."""
    model, x = mlp(), batch(256, WIDTH)
    during: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: during.append(output))
    fastinit.calibrate_(model, x)
    handle.remove()
    assert torch.allclose(model(x), during[0], rtol=1e-4, atol=1e-5)


def test_a_wrong_scale_is_noticed() -> None:
    model, x = mlp(), batch(256, WIDTH)
    fastinit.calibrate_(model, x)
    with torch.no_grad():
        model[4].weight *= 1.03
    stds = [std(value) for value in products(model, x).values()]
    assert stds != pytest.approx([1.0] * 6, rel=1e-2)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(8, 12, 3), (64, 8, 20)),
        (lambda: nn.Conv2d(8, 12, 3, padding=1), (16, 8, 6, 6)),
        (lambda: nn.Conv3d(4, 6, 2), (8, 4, 5, 5, 5)),
        (lambda: nn.ConvTranspose1d(8, 12, 3), (64, 8, 20)),
        (lambda: nn.ConvTranspose2d(8, 12, 3, bias=False), (16, 8, 6, 6)),
        (lambda: nn.ConvTranspose3d(4, 6, 2), (8, 4, 5, 5, 5)),
        (lambda: nn.Linear(8, 12), (16, 5, 8)),
    ],
)
def test_layers(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(make()), batch(*shape)
    fastinit.calibrate_(model, x)
    assert std(products(model, x)["0"]) == pytest.approx(1.0, rel=1e-5)


def test_bilinear() -> None:
    torch.manual_seed(0)
    model = nn.Bilinear(6, 7, 8)
    fastinit.calibrate_(model, (batch(64, 6), batch(64, 7, key=1)))
    out = model(batch(64, 6), batch(64, 7, key=1)) - model.bias
    assert std(out) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(8, 24, 3, groups=4),
        lambda: nn.ConvTranspose2d(8, 24, 3, groups=4),
        lambda: nn.Conv2d(8, 8, 3, groups=8),
    ],
)
def test_each_group_has_the_target(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make())
    x = batch(32, 8, 6, 6) * torch.arange(1.0, 9.0).view(-1, 1, 1)  # the groups differ
    result = fastinit.calibrate_(model, x)
    groups = model[0].groups
    parts = products(model, x)["0"].unflatten(1, (groups, -1)).unbind(1)
    assert [std(part) for part in parts] == pytest.approx([1.0] * groups, rel=1e-4)
    assert result.records[0].after == pytest.approx(1.0, rel=1e-5)


def test_groups_with_few_rows_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(4, 8, 6, 6))
    assert "fewer than 256" in result.records[0].note and result.records[0].target is None
    assert torch.equal(model[0].weight, before["0.weight"])
    assert result.records[1].after == pytest.approx(1.0, rel=1e-5)


# ------------------------------------------------------------------------------ what is left alone


def test_what_a_norm_follows_is_left_alone_and_the_norm_sees_it_unscaled() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(2),
        nn.LayerNorm(16), nn.Linear(16, 4),
    )  # fmt: skip
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    before = copy.deepcopy(model.state_dict())
    x = batch(8, 3, 8, 8)
    result = fastinit.calibrate_(model, x)
    assert [record.note for record in result] == ["a norm follows", "a norm follows", ""]
    for name in ("0.weight", "3.weight"):
        assert torch.equal(model.state_dict()[name], before[name])
    assert torch.equal(seen[0], model[0](x))  # reshaped or not, it is the very output
    assert result.records[2].after == pytest.approx(1.0, rel=1e-5)


def test_a_shortcut_around_the_norm_sees_it_unscaled_too() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.norm(x))

    torch.manual_seed(0)
    model, x = Residual(), batch(64, 8)
    out: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: out.append(output))
    result = fastinit.calibrate_(model, x)
    assert [record.note for record in result] == ["a norm follows", ""]
    assert torch.allclose(model(x), out[0], atol=1e-5)


def test_a_norm_behind_an_activation_does_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.LayerNorm(8))
    assert fastinit.calibrate_(model, batch(64, 8)).records[0].note == ""


def test_asked_targets_win() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    x = batch(64, 8)
    result = fastinit.calibrate_(model, x, targets={"0.weight": 0.5, "2.*": None})
    assert [record.target for record in result] == [0.5, None]
    assert std(products(model, x)["0"]) == pytest.approx(0.5, rel=1e-5)


def test_frozen_parametrized_and_recurrent_weights_are_reported() -> None:
    torch.manual_seed(0)
    frozen = nn.Linear(8, 8).requires_grad_(False)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(frozen, normed, nn.GRU(8, 8))
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(64, 8))
    notes = {record.name: record.note for record in result}
    assert notes["0.weight"] == "frozen"
    assert "parametrized" in notes.values() and notes["2.weight_ih_l0"] == "recurrent"
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())


# --------------------------------------------------------------------------- sharing, precision


def test_a_module_called_twice_is_scaled_at_its_first_use() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    torch.manual_seed(0)
    model, x = Twice(), batch(128, 16)
    out: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: out.append(output))
    result = fastinit.calibrate_(model, x)
    assert std(model.layer(x) - model.layer.bias) == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(model(x), out[0], atol=1e-5)
    assert "called 2 times" in result.records[0].note


def test_layers_that_share_a_weight_are_scaled_once() -> None:
    model = mlp(nn.Tanh, 2)
    model[2].weight = model[0].weight
    x = batch(128, WIDTH)
    result = fastinit.calibrate_(model, x)
    assert len(result) == 1 and "2 layers share it" in result.records[0].note
    assert std(products(model, x)["0"]) == pytest.approx(1.0, rel=1e-5)
    assert model[2].weight is model[0].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype) -> None:
    model, x = mlp(), batch(256, WIDTH)
    with torch.autocast("cpu", dtype):
        fastinit.calibrate_(model, x)
        stds = [std(value) for value in products(model, x).values()]
    assert stds == pytest.approx([1.0] * 6, rel=0.01)
    assert model[0].weight.dtype == torch.float32


def test_narrow_weights() -> None:
    model, x = mlp().to(torch.bfloat16), batch(256, WIDTH).to(torch.bfloat16)
    fastinit.calibrate_(model, x)
    stds = [std(value) for value in products(model, x).values()]
    assert stds == pytest.approx([1.0] * 6, rel=0.02)


# -------------------------------------------------------------------------- all else as it was


def test_all_else_is_left_as_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.ReLU()
    )
    model[2].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    handle = model[3].register_forward_hook(lambda *_: None)
    hooks = {
        name: (list(part._forward_hooks), list(part._forward_pre_hooks))
        for name, part in model.named_modules()
    }
    training = [part.training for part in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    same = {name: id(value) for name, value in model.named_buffers()}
    parameters = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    fastinit.calibrate_(model, batch(8, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == training
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert {name: id(value) for name, value in model.named_buffers()} == same
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == parameters
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert hooks == {
        name: (list(part._forward_hooks), list(part._forward_pre_hooks))
        for name, part in model.named_modules()
    }
    handle.remove()


class Reads(TorchDispatchMode):
    """Fails where the host would wait for the device: a number is read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        names = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")
        self.reads += func._schema.name.split("::")[1] in names
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[Reads]:
    with Reads() as counted:
        yield counted


def test_nothing_is_read_from_the_device_during_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastinit.diagnostics.calibration import run as module

    model, x = mlp(count=20), batch(256, WIDTH)
    counts = []
    inner = module._pass

    def counted(*args: Any) -> None:
        with reads() as seen:
            inner(*args)
        counts.append(seen.reads)

    monkeypatch.setattr(module, "_pass", counted)
    fastinit.calibrate_(model, x)
    assert counts == [0]
    with reads() as seen:  # the guard does see one
        float(x.sum())
    assert seen.reads == 1


def test_values_that_are_not_finite_are_reported() -> None:
    model = mlp()
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(64, WIDTH))
    notes = {record.name: record.note for record in result}
    assert notes["2.weight"] == "" and notes["4.weight"] == notes["10.weight"] == "not finite"
    assert "not finite: 4.weight, the first of 4" in str(result)
    assert torch.equal(model[6].weight, before["6.weight"])


def test_layers_without_signal_are_reported() -> None:
    model = mlp()
    nn.init.zeros_(model[4].weight)
    result = fastinit.calibrate_(model, batch(64, WIDTH))
    assert {r.name: r.note for r in result}["4.weight"] == "no signal"
    assert not model[4].weight.any()
