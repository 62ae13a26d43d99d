"""`lsuv_`: orthogonal, of unit variance, keyed by name; groups apart."""

from __future__ import annotations

import pytest
import torch
from _calibrating import WIDTH, batch, mlp, products, std
from torch import nn

import fastinit


def test_lsuv_is_orthogonal_and_of_unit_variance() -> None:
    model, x = mlp(nn.Tanh), batch(256, WIDTH)
    fastinit.lsuv_(model, x, seed=3)
    for value in products(model, x).values():
        assert std(value) == pytest.approx(1.0, rel=1e-5)
    weight = model[4].weight.detach().double()
    square = weight @ weight.T
    assert torch.allclose(square / square[0, 0], torch.eye(WIDTH).double(), atol=1e-5)


def test_lsuv_is_keyed_by_name() -> None:
    one, other, x = mlp(), mlp(), batch(256, WIDTH)
    fastinit.lsuv_(one, x, seed=3)
    torch.manual_seed(9)
    fastinit.lsuv_(other, x, seed=3)
    assert torch.equal(one[2].weight, other[2].weight)
    key = fastinit.Key(3).fold_in("0.weight")
    expected = fastinit.orthogonal_(torch.empty(WIDTH, WIDTH), key=key)
    ratio = one[0].weight / expected
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


def test_lsuv_draws_from_the_generator() -> None:
    models = [mlp(), mlp()]
    for model in models:
        generator = torch.Generator().manual_seed(5)
        fastinit.lsuv_(model, batch(64, WIDTH), generator=generator)
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    with pytest.raises(ValueError, match="exclude"):
        fastinit.lsuv_(models[0], batch(64, WIDTH), seed=1, generator=generator)


def test_lsuv_of_groups() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(8, 16, 1, groups=4)), batch(32, 8, 4, 4)
    fastinit.lsuv_(model, x, seed=0)
    parts = products(model, x)["0"].unflatten(1, (4, -1)).unbind(1)
    assert [std(part) for part in parts] == pytest.approx([1.0] * 4, rel=1e-4)
    group = model[0].weight[:4, :, 0, 0]
    square = group.T @ group
    assert torch.allclose(square / square[0, 0], torch.eye(2), atol=1e-5)
