"""Gains where they are taken: fills, initializers, patch, compiled functions, DTensors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from _simulated import every_rank, own_part
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.torch_version import TorchVersion

import fastinit
from fastinit import initializers
from fastinit.initializers import Kaiming
from fastinit.initializers.base import Initializer


def own(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * x)


FILLS = [fastinit.kaiming_normal_, fastinit.kaiming_uniform_]
TAKEN: list[Any] = ["gelu", "swiglu", "elu", own, nn.Mish(), torch.tanh]


def named(nonlinearity: Any) -> str:
    """Its name in the tests' names, which hold no addresses: every process has the same tests."""
    return getattr(nonlinearity, "__name__", str(nonlinearity))


def scaled(fill: Any, gain: float, **options: Any) -> Tensor:
    """What the fill should give, in float64: that of a linear layer, times the gain."""
    return fill(torch.empty(48, 32, dtype=torch.float64), nonlinearity="linear", **options) * gain


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("nonlinearity", TAKEN, ids=named)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_kaiming(fill: Any, nonlinearity: Any, mode: str, device: str) -> None:
    gain = fastinit.gain(nonlinearity)
    w = torch.empty(48, 32, dtype=torch.float64, device=device)
    fill(w, 0.3, mode, nonlinearity, key=5)  # `a` is leaky_relu's alone, as in torch.nn.init
    torch.testing.assert_close(
        w.cpu(), scaled(fill, gain, mode=mode, key=5), rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("nonlinearity", TAKEN, ids=named)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_initializers(nonlinearity: Any, distribution: str) -> None:
    law = Kaiming(nonlinearity=nonlinearity, distribution=distribution)
    fill = getattr(fastinit, f"kaiming_{distribution}_")
    expected = fill(torch.empty(8, 6), nonlinearity=nonlinearity, key=3)
    assert torch.equal(law(torch.empty(8, 6), key=3), expected)
    assert law.numbers((8, 6)).std == pytest.approx(fastinit.calculate_gain(nonlinearity) / 6**0.5)
    if isinstance(nonlinearity, str):
        assert Initializer.from_dict(law.to_dict()) == law
        return
    assert law == Kaiming(nonlinearity=nonlinearity, distribution=distribution)
    with pytest.raises(ValueError, match="JSON cannot hold") as refusal:
        law.to_dict()
    told = re.search(r"VarianceScaling\(.*\)", str(refusal.value))
    assert told
    said = eval(told[0], vars(initializers))
    torch.testing.assert_close(said(torch.empty(8, 6), key=3), expected)


def test_calculate_gain_keeps_torchs_constants() -> None:
    for name in ["linear", "conv2d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"]:
        assert fastinit.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert fastinit.calculate_gain("tanh") == 5 / 3 != fastinit.gain("tanh")
    assert fastinit.calculate_gain("tanh", 3) == 5 / 3  # ignored, as in torch.nn.init
    assert fastinit.calculate_gain(torch.tanh) == fastinit.gain(torch.tanh)
    assert fastinit.calculate_gain("gelu") == fastinit.gain("gelu")
    assert fastinit.calculate_gain("elu", 0.5) == fastinit.gain("elu", 0.5)


@pytest.mark.parametrize("nonlinearity", TAKEN, ids=named)
def test_under_patch_and_deferred(nonlinearity: Any) -> None:
    expected = fastinit.kaiming_normal_(
        torch.empty(8, 6), nonlinearity=nonlinearity, key=fastinit.Key(3).fold_in(0)
    )
    for scope in (fastinit.patch, fastinit.deferred):
        with scope(seed=3):
            w = nn.init.kaiming_normal_(torch.empty(8, 6), nonlinearity=nonlinearity)
            assert nn.init.calculate_gain(nonlinearity) == fastinit.calculate_gain(nonlinearity)
        assert torch.equal(w, expected)
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        nn.init.calculate_gain("gelu")  # type: ignore[arg-type]


@pytest.mark.parametrize("nonlinearity", TAKEN, ids=named)
def test_compiled(nonlinearity: Any) -> None:
    if isinstance(nonlinearity, nn.Module) and TorchVersion(torch.__version__) < (2, 13):
        pytest.skip("this torch's compiler takes no module as a constant")
    torch.compiler.reset()

    def fill(w: Tensor) -> Tensor:
        fastinit.kaiming_normal_(w, nonlinearity=nonlinearity, key=3)
        return w * fastinit.gain(nonlinearity, direction="backward")

    function = torch.compile(fill, fullgraph=True, backend="aot_eager")
    assert torch.equal(function(torch.empty(8, 6)), fill(torch.empty(8, 6)))


@pytest.mark.usefixtures("no_process_group")
@pytest.mark.parametrize("nonlinearity", ["gelu", own])
def test_dtensors(nonlinearity: Any) -> None:
    whole = fastinit.kaiming_normal_(torch.empty(37, 19), nonlinearity=nonlinearity, key=4)
    for mesh in every_rank((2,)):
        placements = [Shard(0)]
        local = torch.empty_like(own_part(whole, mesh, placements))
        shard = DTensor.from_local(local, mesh, placements, shape=(37, 19), stride=(19, 1))
        fastinit.kaiming_normal_(shard, nonlinearity=nonlinearity, key=4)
        assert torch.equal(shard.to_local(), own_part(whole, mesh, placements))
