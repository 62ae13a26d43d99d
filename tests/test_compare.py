"""compare: equal batches, and the ranking that the literature knows, on handwritten digits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit.diagnostics import compare
from fastinit.diagnostics.digits import load_digits
from fastinit.initializers import Kaiming, Normal, Zeros
from fastinit.recipes import Recipe

SGD = partial(torch.optim.SGD, lr=0.05)


def mlp(act: type[nn.Module] = nn.ReLU, depth: int = 8, width: int = 64) -> nn.Sequential:
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), act())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def weights(fill: Any) -> Any:
    def scheme(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            fill(module.weight)
            nn.init.zeros_(module.bias)

    return scheme


def test_digits_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    data = sklearn.load_digits()
    images, digits = load_digits()
    assert (digits.numpy() == data.target).all()
    pixels = torch.from_numpy(data.data).float()
    assert torch.allclose(images, (pixels - pixels.mean()) / pixels.std(), atol=1e-6)


def test_deep_relu_networks_rank_as_in_the_literature() -> None:
    """He et al. 2015: in deep rectifier networks Kaiming's scale learns, Xavier's is slower, and
    small normal weights (the custom before 2010) stall; equal weights never part.
    """
    schemes = {
        "kaiming": weights(partial(nn.init.kaiming_normal_, nonlinearity="relu")),
        "xavier": weights(nn.init.xavier_normal_),
        "0.01": Recipe({"**.bias": Zeros(), "**.weight": Normal(0.01)}),
        "constant": weights(partial(nn.init.constant_, val=0.05)),
    }
    result = compare(mlp, load_digits(), schemes, epochs=6, seeds=2, optimizer=SGD)
    final = {r.name: r.final_loss for r in result}
    assert final["kaiming"] < 0.5 * final["xavier"] < 0.5 * final["0.01"] + 0.01
    assert final["0.01"] == pytest.approx(math.log(10), abs=0.02)
    assert final["constant"] > 1.5
    reached = result.epochs_to(1.0)
    assert reached["kaiming"] < reached["xavier"] <= reached["0.01"] == math.inf
    norms = {name: runs[:, 0].mean().item() for name, runs in result.gradient_norms.items()}
    assert norms["0.01"] < 0.1 * norms["kaiming"]
    assert max(map(len, result.table().splitlines())) <= 80


def test_deep_tanh_networks_rank_as_in_the_literature() -> None:
    """Glorot and Bengio 2010: Xavier's scale beats the custom of 1 / sqrt(fan_in) uniform."""
    schemes = {
        "xavier": weights(nn.init.xavier_uniform_),
        "custom": weights(lambda w: nn.init.uniform_(w, -1 / 8, 1 / 8)),
    }
    images, digits = load_digits()
    data = images[:896], digits[:896]
    result = compare(partial(mlp, nn.Tanh), data, schemes, epochs=6, seeds=2, optimizer=SGD)
    xavier, custom = (r.final_loss for r in result)
    assert xavier < 0.7 * custom


class Seen(nn.Module):
    """Notes the batches and the noise of dropout."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.log = log
        log.append(("made", self.linear.weight.detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(("batch", x, torch.rand(2)))
        y: Tensor = self.linear(x)
        return y


def test_schemes_see_the_same_batches_in_the_same_order() -> None:
    log: list[Any] = []
    x = torch.randn(40, 3)
    schemes = {"a": None, "b": weights(nn.init.zeros_), "c": "torch"}
    result = compare(
        lambda: Seen(log), (x, x[:, :1]), schemes, epochs=3, seeds=[4, 7], batch_size=8
    )
    count = 1 + 3 * 5
    runs = [log[i : i + count] for i in range(0, len(log), count)]
    assert len(runs) == 6 and len(log) == 6 * count

    def same(one: Any, other: Any) -> bool:
        return all(
            torch.equal(a, b)
            for left, right in zip(one, other, strict=True)
            for a, b in zip(left[1:], right[1:], strict=True)
        )

    assert same(runs[0], runs[2]) and same(runs[0], runs[4]) and same(runs[1], runs[5])
    assert not same(runs[0], runs[1])
    first, second = runs[0][1:6], runs[0][6:11]
    assert not same(first, second)  # another order in the next epoch
    assert {tuple(b[1][0].tolist()) for b in first} == {tuple(b[1][0].tolist()) for b in second}
    assert result.losses["a"].shape == result.gradient_norms["b"].shape == (2, 3)
    assert result.seeds == (4, 7)


def test_the_losses_are_those_of_a_loop_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 4, generator=draw), torch.randint(0, 3, (20,), generator=draw)
    recipe = Recipe({"weight": Kaiming(), "bias": Zeros()})
    result = compare(lambda: nn.Linear(4, 3), [(x, y)], [recipe, None], epochs=3, seeds=[5])
    model = nn.Linear(4, 3)
    fastinit.init_(model, recipe, seed=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()  # type: ignore
        name = next(iter(result.losses))
        assert result.losses[name][0, epoch].item() == pytest.approx(loss.item(), rel=1e-6)
        assert result.gradient_norms[name][0, epoch].item() == pytest.approx(norm.item(), rel=1e-5)
        optimizer.step()
    assert list(result.losses)[1] == "as made"


def test_what_is_outside_stays() -> None:
    x = torch.randn(8, 2)
    state = torch.get_rng_state()
    compare(lambda: nn.Linear(2, 1), (x, x[:, :1]), [None], epochs=1, seeds=1)
    assert torch.equal(state, torch.get_rng_state())


def test_runs_that_diverge_are_shown() -> None:
    x = torch.randn(32, 4)
    schemes = {"huge": weights(partial(nn.init.constant_, val=1e30)), "as made": None}
    result = compare(lambda: nn.Linear(4, 1), (x, x[:, :1]), schemes, epochs=2, seeds=1)
    assert not math.isfinite(result.losses["huge"][0, -1].item())
    assert result.epochs_to(1e-9) == {"huge": math.inf, "as made": math.inf}
    assert "null" in result.to_json()


def test_the_picture(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    x = torch.randn(32, 4)
    figure = compare(lambda: nn.Linear(4, 1), (x, x[:, :1]), [None], epochs=2, seeds=2).plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss", "norm of the gradient"]
    figure.savefig(tmp_path / "picture.png")


X = torch.randn(8, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"schemes": {}}, ValueError, "schemes is empty"),
        ({"schemes": "gpt2"}, TypeError, "schemes"),
        ({"schemes": {"a": 3}}, TypeError, "schemes.'a'."),
        ({"schemes": [None, None]}, ValueError, "same names"),
        ({"schemes": ["nonesuch"]}, ValueError, "preset"),
        ({"data": (X, X[:3])}, ValueError, "8 inputs and 3 targets"),
        ({"data": []}, ValueError, "data is empty"),
        ({"data": [X]}, TypeError, "batch of"),
        ({"data": (X[:, :1], X)}, RuntimeError, r"data, of shape \(8, 1\)"),
        ({"seeds": 0}, ValueError, "seeds"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"make_model": lambda: 3}, TypeError, "make_model"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {
        "make_model": lambda: nn.Linear(2, 2), "data": (X, X), "schemes": [None], "epochs": 1,
        "seeds": 1, **arguments,
    }  # fmt: skip
    with pytest.raises(error, match=text):
        compare(**given)
