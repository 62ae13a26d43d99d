"""What torch promises of its initializers holds for the patched ones, asked by their old names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init

stats = pytest.importorskip("scipy.stats")

import fastinit  # noqa: E402

ALPHA = 1e-4  # chance that a right sampler is rejected, in each test

SHAPES = [(40, 60), (16, 9, 3), (12, 8, 3, 3), (6, 5, 2, 3, 3)]


@pytest.fixture(autouse=True)
def _patched() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        with fastinit.patch():
            yield


def p_value(tensor: Tensor, law: Any) -> float:
    return float(stats.kstest(tensor.double().flatten().numpy(), law.cdf).pvalue)


def normal(mean: float, std: float) -> Any:
    return stats.norm(mean, std)


def uniform(bound: float) -> Any:
    return stats.uniform(-bound, 2 * bound)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


# ------------------------------------------------------------------------------------------- laws

PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "uniform_": (lambda t: init.uniform_(t, -3.0, 2.0), stats.uniform(-3, 5)),
    "normal_": (lambda t: init.normal_(t, 1.5, 0.3), normal(1.5, 0.3)),
    "trunc_normal_": (
        lambda t: init.trunc_normal_(t, 0.5, 2.0, -1.0, 3.0),
        stats.truncnorm(-0.75, 1.25, 0.5, 2.0),
    ),
    "trunc_normal_ in a tail": (
        lambda t: init.trunc_normal_(t, 0.0, 1.0, 1.5, 4.0),
        stats.truncnorm(1.5, 4.0),
    ),
    "constant_": (lambda t: init.constant_(t, 2.0), None),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shape", [(5000,), (70, 80), (3, 40, 50)])
def test_plain_laws(name: str, shape: tuple[int, ...]) -> None:
    fill, law = PLAIN[name]
    tensor = torch.zeros(shape)
    assert fill(tensor) is tensor
    if law is None:
        assert (tensor == 2.0).all()
    else:
        assert p_value(tensor, law) > ALPHA
        assert p_value(tensor * 1.1, law) < ALPHA  # so that it could have failed


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_xavier(shape: tuple[int, ...], gain: float) -> None:
    std = gain * math.sqrt(2 / sum(fans(shape)))
    tensor = torch.empty(shape)
    assert p_value(init.xavier_normal_(tensor, gain=gain), normal(0, std)) > ALPHA
    assert p_value(init.xavier_uniform_(tensor, gain=gain), uniform(std * 3**0.5)) > ALPHA


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(("nonlinearity", "a"), [("relu", 0), ("leaky_relu", 0.7), ("tanh", 0)])
def test_kaiming(shape: tuple[int, ...], mode: str, nonlinearity: Any, a: float) -> None:
    fan = fans(shape)[mode == "fan_out"]
    std = init.calculate_gain(nonlinearity, a) / math.sqrt(fan)
    options: dict[str, Any] = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    tensor = torch.empty(shape)
    assert p_value(init.kaiming_normal_(tensor, **options), normal(0, std)) > ALPHA
    assert p_value(init.kaiming_uniform_(tensor, **options), uniform(std * 3**0.5)) > ALPHA


def test_gains_are_stocks() -> None:
    expected = {"linear": 1, "conv3d": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": 2**0.5}
    for name, gain in {**expected, "selu": 0.75}.items():
        assert init.calculate_gain(name) == gain  # type: ignore[arg-type]
    assert init.calculate_gain("leaky_relu", 0.5) == pytest.approx(math.sqrt(1.6))
    with pytest.raises(ValueError, match="not a valid number"):
        init.calculate_gain("leaky_relu", "steep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Unsupported"):
        init.calculate_gain("no such")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- structure


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (4, 3, 5), (3, 2, 2, 2)])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_orthogonal(shape: tuple[int, ...], gain: float) -> None:
    matrix = init.orthogonal_(torch.empty(shape), gain=gain).flatten(1)
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    torch.testing.assert_close(gram, gain**2 * torch.eye(min(rows, columns)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.61, 1.0])
def test_sparse(sparsity: float) -> None:
    matrix = init.sparse_(torch.empty(60, 90), sparsity, std=0.3)
    zeros = math.ceil(sparsity * 60)
    assert ((matrix == 0).sum(dim=0) == zeros).all()
    if zeros < 60:
        assert p_value(matrix[matrix != 0], normal(0, 0.3)) > ALPHA


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dirac_passes_the_input_on(groups: int, dims: int) -> None:
    weight = init.dirac_(torch.empty(6, 6 // groups, *(3,) * dims), groups)
    signal = torch.randn(2, 6, *(8,) * dims)
    convolved = getattr(F, f"conv{dims}d")(signal, weight, padding=1, groups=groups)
    torch.testing.assert_close(convolved, signal)


def test_eye_ones_and_zeros() -> None:
    assert torch.equal(init.eye_(torch.empty(3, 5)), torch.eye(3, 5))
    assert torch.equal(init.ones_(torch.empty(4)), torch.ones(4))
    assert torch.equal(init.zeros_(torch.empty(4)), torch.zeros(4))


# ------------------------------------------------------------------------------------- generators

DRAWS: list[tuple[str, dict[str, Any]]] = [
    ("uniform_", {}),
    ("normal_", {}),
    ("trunc_normal_", {}),
    ("xavier_uniform_", {}),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {}),
    ("kaiming_normal_", {}),
    ("orthogonal_", {}),
    ("sparse_", {"sparsity": 0.2}),
]


@pytest.mark.parametrize(("name", "options"), DRAWS)
def test_generators(name: str, options: dict[str, Any]) -> None:
    def draw(generator: torch.Generator | None) -> Tensor:
        return getattr(init, name)(torch.empty(9, 8), generator=generator, **options)

    default = torch.get_rng_state()
    first, again = (draw(torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), default)
    moving = torch.Generator().manual_seed(1)
    assert torch.equal(draw(moving), first) and not torch.equal(draw(moving), first)
    torch.manual_seed(1)
    from_default = draw(None)
    torch.manual_seed(1)
    assert torch.equal(draw(None), from_default)
    assert not torch.equal(torch.get_rng_state(), default)


# --------------------------------------------------------------------------- refusals and no-ops


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_kaiming_of_nothing_warns(name: str) -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        getattr(init, name)(torch.empty(0, 3))


@pytest.mark.parametrize(
    "name",
    ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"],
)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_fans_need_two_dimensions(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        getattr(init, name)(torch.empty(shape))


@pytest.mark.parametrize(
    "call",
    [
        lambda: init.sparse_(torch.empty(3), 0.1),
        lambda: init.eye_(torch.empty(3)),
        lambda: init.dirac_(torch.empty(3, 3)),
        lambda: init.dirac_(torch.empty(5, 3, 3), groups=2),
        lambda: init.kaiming_normal_(torch.empty(3, 3), mode="fan_avg"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()


def test_trunc_normal_warns_of_a_mean_far_out() -> None:
    with pytest.warns(UserWarning, match="mean is more than 2 std"):
        init.trunc_normal_(torch.empty(3), mean=9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init.trunc_normal_(torch.empty(3), mean=1.0)


@pytest.mark.parametrize("old", ["uniform", "normal", "kaiming_normal", "xavier_uniform"])
def test_old_names_warn_and_work(old: str) -> None:
    tensor = torch.zeros(9, 9)
    with pytest.warns(FutureWarning, match="deprecated"):
        getattr(init, old)(tensor)
    assert np.unique(tensor.numpy()).size > 70
