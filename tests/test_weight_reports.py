"""weight_report and gradient_report: numbers against scipy and by hand; wrong laws are told."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import fastinit
from fastinit._fill.laws import Law
from fastinit.diagnostics import gradient_report, weight_report
from fastinit.diagnostics.distributions import cdf, density, ks_p_value, std_of
from fastinit.initializers import Normal, TruncNormal, Uniform, Zeros
from fastinit.recipes import Recipe

LAWS: dict[str, tuple[Law, Any]] = {
    "uniform": (Law(0, 0.0, 1.0, -0.3, 0.1, None), stats.uniform(-0.3, 0.4)),
    "normal": (Law(1, 0.5, 0.02, 0.0, 0.0, None), stats.norm(0.5, 0.02)),
    "truncated": (Law(2, 0.1, 0.02, 0.06, 0.14, None), stats.truncnorm(-2, 2, 0.1, 0.02)),
    "one-sided": (Law(2, 0.0, 1.0, 0.5, 9.0, None), stats.truncnorm(0.5, 9.0)),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_against_scipy(name: str) -> None:
    law, oracle = LAWS[name]
    x = torch.from_numpy(oracle.ppf(np.linspace(0.001, 0.999, 999)))
    assert std_of(law) == pytest.approx(oracle.std(), rel=1e-9)
    assert np.allclose(cdf(law, x), oracle.cdf(x), atol=1e-12)
    assert np.allclose(density(law, x), oracle.pdf(x), rtol=1e-9)
    assert density(law, torch.tensor([50.0])).item() == 0.0


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("n", [20, 1000, 60_000])
def test_p_values_against_scipy(name: str, n: int) -> None:
    law, oracle = LAWS[name]
    sample = oracle.rvs(n, random_state=n)
    for shift in (0.0, 0.02, 0.2):
        x = sample + shift * oracle.std()
        wanted = stats.kstest(x, oracle.cdf).pvalue
        assert ks_p_value(torch.from_numpy(x), law) == pytest.approx(
            wanted, abs=0.02 if n < 100 else 0.005
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rounded_samples_fit_and_wrong_ones_do_not(dtype: torch.dtype) -> None:
    """alpha = 1e-4 a tensor, fixed keys; a law 5 % too wide is the wrong sampler."""
    for key in range(20):
        w = fastinit.normal_(torch.empty(256, 300, dtype=dtype), 0.0, 0.02, key=key)
        assert ks_p_value(w, Law(1, 0.0, 0.02, 0.0, 0.0, None)) > 1e-4
        assert ks_p_value(w, Law(1, 0.0, 0.021, 0.0, 0.0, None)) < 1e-4
        assert ks_p_value(w, Law(0, 0.0, 1.0, -0.035, 0.035, None)) < 1e-4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64, padding_idx=3)
        self.conv = nn.Conv1d(64, 32, 3)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.embed(x).transpose(1, 2)).mean(2)
        return self.head(self.norm(y))


def test_a_model_fits_its_own_code() -> None:
    torch.manual_seed(0)
    records = {r.name: r for r in weight_report(Net())}
    assert list(records) == [name for name, _ in Net().named_parameters()]
    assert records["head.weight"].expected_std == pytest.approx(1 / math.sqrt(3 * 32))
    assert records["embed.weight"].expected_std == 1.0
    assert records["norm.weight"].expected_std == 0.0 and records["norm.weight"].p_value is None
    assert all(r.p_value is None or r.p_value > 1e-4 for r in records.values())
    for name, p in Net().named_parameters():
        assert records[name].shape == tuple(p.shape)


def test_moments_by_hand() -> None:
    model = Net()
    for r, (_, p) in zip(weight_report(model), model.named_parameters(), strict=True):
        if r.name != "embed.weight":  # whose padding is not the law's
            assert r.mean == pytest.approx(p.double().mean().item(), rel=1e-9, abs=1e-12)
            assert r.std == pytest.approx(p.double().std(correction=0).item(), rel=1e-9, abs=1e-12)
        if r.std > 0:
            widths = np.diff(r.histogram.edges)
            assert np.sum(widths * np.array(r.histogram.density)) == pytest.approx(1.0, rel=1e-5)


def test_recipes_and_wrong_recipes() -> None:
    recipe = Recipe({"**.bias": Zeros(), "norm.*": Normal(0.5), "**": TruncNormal(0.02)})
    wrong = Recipe({"**.bias": Zeros(), "norm.*": Normal(0.5), "**": Uniform(-0.04, 0.04)})
    model = Net()
    fastinit.init_(model, recipe, seed=1)
    fits = {r.name: r.p_value for r in weight_report(model, recipe)}
    assert all(p is None or p > 1e-4 for p in fits.values())
    assert {n for n, p in fits.items() if p is None} == {"conv.bias", "norm.bias", "head.bias"} or (
        fits["norm.bias"] is not None
    )
    told = {r.name: r.p_value for r in weight_report(model, wrong)}
    assert told["conv.weight"] is not None and told["conv.weight"] < 1e-6
    head = next(r for r in weight_report(model, recipe) if r.name == "head.weight")
    assert head.expected_std == pytest.approx(0.02 * 0.87962566103, rel=1e-9)


def test_values_that_are_not_finite() -> None:
    model = nn.Linear(8, 8)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    record = weight_report(model).records[0]
    assert record.p_value == 0.0 and math.isfinite(record.std)


def test_a_report_changes_nothing() -> None:
    model = Net()
    before = {n: p.clone() for n, p in model.named_parameters()}
    weight_report(model)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_weight_reports_refuse() -> None:
    with pytest.raises(ValueError, match="meta"):
        weight_report(nn.Linear(2, 2, device="meta"))
    with pytest.raises(TypeError):
        weight_report("model")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="preset"):
        weight_report(Net(), "nonesuch")


# Gradients.


def test_gradients_by_autograd() -> None:
    model = Net()
    batch = torch.randint(0, 50, (16, 9)), torch.randint(0, 10, (16,))
    model.head.weight.grad = torch.ones_like(model.head.weight)
    report = gradient_report(model, batch, F.cross_entropy, lr=0.1)
    assert model.conv.weight.grad is None and model.head.weight.grad.eq(1).all()
    model.zero_grad()
    value = F.cross_entropy(model(batch[0]), batch[1])
    value.backward()
    assert report.loss == pytest.approx(value.item(), rel=1e-6)
    for r, (name, p) in zip(report, model.named_parameters(), strict=True):
        g = p.grad
        assert g is not None and r.name == name
        assert r.std == pytest.approx(g.double().std(correction=0).item(), rel=1e-5, abs=1e-12)
        assert r.norm == pytest.approx(g.norm().item(), rel=1e-5)
        weight = p.detach().norm().item()
        assert r.update_ratio == pytest.approx(
            0.1 * g.norm().item() / weight if weight else math.inf, rel=1e-5
        )
    assert "loss" in str(report) and max(map(len, str(report).splitlines())) <= 80


def test_losses_of_one_argument_and_modules() -> None:
    model, x = nn.Linear(4, 2), torch.randn(8, 4)
    one = gradient_report(model, x, lambda output: output.square().mean())
    two = gradient_report(model, (x, torch.zeros(8, 2)), nn.MSELoss())
    assert one.records == two.records


def test_buffers_and_generators_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    state, mean = torch.get_rng_state(), model[1].running_mean.clone()
    gradient_report(model, torch.randn(8, 4, generator=torch.Generator()), lambda y: y.sum())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(mean, model[1].running_mean)


@pytest.mark.parametrize(
    ("batch", "loss", "error", "text"),
    [
        (torch.ones(8, 5), lambda y: y.sum(), RuntimeError, r"batch, of shape \(8, 5\)"),
        (torch.ones(1, 4), lambda y: y.sum(), ValueError, "two rows"),
        (torch.ones(8, 4), F.mse_loss, TypeError, "pair"),
        (torch.ones(8, 4), "mse", TypeError, "loss"),
        (torch.ones(8, 4), lambda y: y, ValueError, "one number"),
        (torch.ones(8, 4), lambda y: y.detach().sum(), ValueError, "depends"),
    ],
)
def test_gradient_reports_refuse(batch: Any, loss: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        gradient_report(nn.Linear(4, 2), batch, loss)
    with pytest.raises(ValueError, match="unfreeze"):
        gradient_report(nn.Linear(4, 2).requires_grad_(False), torch.ones(8, 4), lambda y: y.sum())


# Pictures.


def test_pictures_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    report = weight_report(nn.Linear(4, 4))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        report.plot()
    assert "weight" in str(report)


def test_pictures_have_labels(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    model = Net()
    batch = torch.randint(0, 50, (16, 9)), torch.randint(0, 10, (16,))
    with fastinit.diagnostics.ActivationMonitor(model, backward=True) as monitor:
        for _ in range(3):
            F.cross_entropy(model(batch[0]), batch[1]).backward()
    figures = [
        weight_report(model).plot(),
        gradient_report(model, batch, F.cross_entropy).plot(),
        monitor.plot(),
    ]
    for i, figure in enumerate(figures):
        labelled = [axes.get_ylabel() for axes in figure.axes] + [figure.get_supylabel()]
        assert any(labelled)
        figure.savefig(tmp_path / f"{i}.png")
