"""What `calibrate_` and `lsuv_` refuse, and that it leaves the model as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _calibrating import WIDTH, batch, mlp
from torch import nn
from torch.nn import functional as F

import fastinit


def refused(model: nn.Module, x: Any, kind: type[Exception], words: str, **more: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()} if model else {}
    for function in (fastinit.calibrate_, fastinit.lsuv_):
        with pytest.raises(kind, match=words):
            function(model, x, **more)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        assert not any(part._forward_hooks for part in model.modules())


def test_bad_batches() -> None:
    model = mlp()
    refused(model, batch(8, 5), RuntimeError, r"batch, of shape \(8, 5\)")
    refused(model, batch(1, WIDTH), ValueError, "two rows")
    refused(model, torch.tensor(1.0), ValueError, "two rows")
    refused(model, (), TypeError, "batch must be a tensor")
    refused(model, "text", TypeError, "batch must be a tensor")
    refused(model, {"wrong": batch(8, WIDTH)}, TypeError, "wrong")


def test_bad_targets() -> None:
    model, x = mlp(), batch(8, WIDTH)
    refused(model, x, ValueError, "matches nothing", targets={"nowhere.weight": 1.0})
    refused(model, x, ValueError, "above 0", targets={"**": -1.0})
    refused(model, x, TypeError, "number", targets={"**": "one"})
    refused(model, x, TypeError, "targets must map", targets=1.0)
    refused(model, x, ValueError, "slices of 3", targets={"0.weight": ((3, 1.0),)})


def test_modules_that_cannot_be_measured() -> None:
    x = batch(8, WIDTH)
    for function in (fastinit.calibrate_, fastinit.lsuv_):
        with pytest.raises(ValueError, match="no parameters"):
            function(nn.ReLU(), x)
        with pytest.raises(ValueError, match="lazy"):
            function(nn.LazyLinear(4), x)
        with pytest.raises(ValueError, match="meta"):
            function(nn.Linear(4, 4, device="meta"), x)
        with pytest.raises(TypeError, match="module must be"):
            function(F.relu, x)
        with pytest.raises(RuntimeError, match="before torch.compile"):
            function(torch.compile(mlp()), x)
        inside = mlp()
        inside[2].compile()
        with pytest.raises(RuntimeError, match="2 of module is compiled"):
            function(inside, x)


class OwnError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


def test_hooks_that_raise() -> None:
    model = mlp()

    def fails(*_: Any) -> None:
        raise OwnError(1, 2)

    handle = model[6].register_forward_hook(fails)
    before = copy.deepcopy(model.state_dict())
    for function in (fastinit.calibrate_, fastinit.lsuv_):
        with pytest.raises(OwnError):
            function(model, batch(8, WIDTH))
        assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
        assert sum(len(part._forward_hooks) for part in model.modules()) == 1
    handle.remove()
