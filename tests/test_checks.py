"""Findings: each rule is set off by a network that is broken on purpose, and by no sound one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _sound import SOUND
from torch import Tensor, nn

import fastinit
from fastinit.diagnostics import Findings, check
from fastinit.initializers import Normal, Ones, TruncNormal, Zeros
from fastinit.recipes import Recipe

WIDTH = 64


def batch(rows: int = 64, width: int = WIDTH) -> Tensor:
    return fastinit.normal_(torch.empty(rows, width), key=0)


def mlp(activation: Callable[[], nn.Module], gain: float, depth: int = 30) -> nn.Sequential:
    model = nn.Sequential()
    for at in range(depth):
        layer = nn.Linear(WIDTH, WIDTH)
        fastinit.normal_(layer.weight, std=gain / math.sqrt(WIDTH), key=at)
        nn.init.zeros_(layer.bias)
        model.extend([layer, activation()])
    return model


def sound() -> nn.Sequential:
    return mlp(nn.ReLU, math.sqrt(2), 6)


def found(findings: Findings, words: str) -> Any:
    """The one finding with these words in it."""
    matching = [f for f in findings if words in f.what]
    assert len(matching) == 1, str(findings)
    assert matching[0].remedy
    return matching[0]


# ------------------------------------------------------------------------------------ sound ones


def test_there_are_thirty_sound_models() -> None:
    assert len(SOUND) >= 30


@pytest.mark.parametrize("name", SOUND)
def test_no_errors_in_sound_models(name: str) -> None:
    torch.manual_seed(0)
    model, x = SOUND[name]()
    findings = check(model, x)
    assert [f for f in findings if f.severity == "error"] == []


@pytest.mark.parametrize(
    ("activation", "name"),
    [(nn.ReLU, "relu"), (nn.Tanh, "tanh"), (nn.SELU, "selu"), (nn.ELU, "elu"), (nn.GELU, "gelu")],
)
def test_nothing_in_networks_with_their_gain(activation: Any, name: str) -> None:
    assert len(check(mlp(activation, fastinit.gain(name), 12), batch())) == 0


# ----------------------------------------------------------------------------------- the weights


def test_nan_in_a_norm() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    nn.init.constant_(model[1].weight, float("nan"))
    finding = found(check(model), "NaN or infinity")
    assert (finding.severity, finding.name) == ("error", "1.weight")


def test_nan_in_a_buffer_but_not_infinity() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("mask", torch.full((4,), -math.inf))
    assert len(check(model)) == 0
    model.mask[0] = math.nan
    assert found(check(model), "NaN").name == "mask"


def test_garbage_memory() -> None:
    model = sound()
    with torch.no_grad():
        model[2].weight[3, 5] = 1e19
    finding = found(check(model), "nobody wrote")
    assert (finding.severity, finding.name) == ("error", "2.weight")


def test_zero_weights() -> None:
    model = sound()
    nn.init.zeros_(model[10].weight)
    assert found(check(model), "starts at zero").severity == "info"
    for part in model:
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.weight)
    assert found(check(model), "zero alone").severity == "error"


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 8), lambda: nn.ConvTranspose2d(4, 8, 3)])
def test_units_that_are_alike(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Linear(8, 8))
    assert len(check(model)) == 0
    nn.init.constant_(model[0].weight, 0.1)
    finding = found(check(model), "same weights")
    assert (finding.severity, finding.name) == ("error", "0.weight")
    model[0].weight.requires_grad_(False)  # a fixed filter is no mistake
    assert len(check(model)) == 0


def test_layers_with_one_seed() -> None:
    model = sound()
    with torch.no_grad():
        model[4].weight.copy_(model[0].weight)
    finding = found(check(model), "very values")
    assert (finding.severity, finding.name) == ("warning", "0.weight")
    tied = sound()
    tied[4].weight = tied[0].weight
    assert len(check(tied)) == 0


def test_randn_weights() -> None:
    model = nn.Sequential(nn.Linear(256, 256))
    nn.init.normal_(model[0].weight)
    finding = found(check(model), "gain of 1")
    assert finding.severity == "warning" and "kaiming_normal_" in finding.remedy


def test_padding_rows() -> None:
    model = nn.Sequential(nn.Embedding(8, 4, padding_idx=2))
    assert len(check(model)) == 0
    nn.init.normal_(model[0].weight)
    assert found(check(model), "row 2 stands for padding").name == "0.weight"


def test_running_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert len(check(model)) == 0
    model[1].running_var.zero_()
    assert found(check(model), "running variance").severity == "error"


def test_narrow_frequencies() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("inv_freq", torch.ones(4))
    assert len(check(model)) == 0
    model.inv_freq = model.inv_freq.bfloat16()
    assert found(check(model), "rotary frequencies").severity == "warning"


# ------------------------------------------------------------------------------------ the signals


@pytest.mark.parametrize(
    ("activation", "gain", "word"),
    [
        (nn.GELU, math.sqrt(2), "shrinks"),  # relu's gain in front of gelu and silu
        (nn.SiLU, math.sqrt(2), "shrinks"),
        (nn.ReLU, 1.0, "shrinks"),  # Xavier in front of relu
        (nn.ReLU, 2.0, "grows"),
    ],
)
def test_wrong_gains(activation: Any, gain: float, word: str) -> None:
    x = batch() / fastinit.gain(activation())
    finding = found(check(mlp(activation, gain, 50), x), f"the signal {word}")
    assert finding.severity == "error" and "calibrate_" in finding.remedy
    assert f"{activation.__name__} needs {fastinit.gain(activation()):.5g}" in finding.what


def test_a_wrong_gain_is_told_before_it_shows() -> None:
    model = mlp(nn.GELU, math.sqrt(2), 12)
    finding = found(check(model, batch()), "the gain is not that of the activation")
    assert finding.severity == "warning" and "GELU needs 1.5335" in finding.what


def test_a_milder_drift_is_a_warning() -> None:
    finding = found(check(mlp(nn.ReLU, 1.0, 8), batch()), "the signal shrinks")
    assert finding.severity == "warning"


def test_randn_through_depth_overflows() -> None:
    finding = found(check(mlp(nn.ReLU, 30.0), batch()), "the first to do so")
    assert finding.severity == "error" and finding.name


def test_gradients_that_are_not_finite() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x.sqrt(), 0.0)  # 0 times the slope at x < 0, which is NaN

    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Root(), nn.Linear(WIDTH, 4))
    fastinit.init_(model, seed=0)
    finding = found(check(model, batch()), "the gradient at its output is NaN or infinite")
    assert (finding.severity, finding.name) == ("error", "0")


def test_vanishing_gradients() -> None:
    model = mlp(nn.Sigmoid, 1.0)
    finding = found(check(model, batch()), "gradients vanish")
    assert finding.severity == "error" and finding.name == "0"


def test_exploding_gradients() -> None:
    finding = found(check(mlp(nn.Tanh, 2.5), batch()), "gradients explode")
    assert finding.severity in ("warning", "error")


def test_a_norm_between_ends_a_stretch() -> None:
    model = mlp(nn.ReLU, 1.0)
    parts: list[nn.Module] = []
    for part in model:
        parts += [part, nn.LayerNorm(WIDTH)] if isinstance(part, nn.Linear) else [part]
    assert [f for f in check(nn.Sequential(*parts), batch()) if "signal" in f.what] == []


def test_dead_units() -> None:
    model = sound()
    nn.init.constant_(model[4].bias, -20.0)
    finding = found(check(model, batch(1024)), "zero on every input")
    assert (finding.severity, finding.name) == ("error", "5")
    assert not [f for f in check(model, batch(512)) if "zero on every" in f.what]


@pytest.mark.parametrize(("dead", "severity"), [(38, "error"), (20, "warning"), (3, None)])
def test_how_many_units_are_dead(dead: int, severity: str | None) -> None:
    model = sound()
    nn.init.constant_(model[0].bias[:dead], -20.0)
    told = [f.severity for f in check(model, batch(1024)) if "zero on every input" in f.what]
    assert told == ([severity] if severity else [])


def test_saturation() -> None:
    finding = found(check(mlp(nn.Tanh, 8.0, 4), batch()), "saturated")
    assert finding.severity == "error"


def test_large_outputs() -> None:
    model = sound()
    model.append(nn.Linear(WIDTH, 10))
    nn.init.normal_(model[-1].weight, std=5)
    assert found(check(model, batch()), "model's output").severity == "warning"


class Attention(nn.Module):
    def __init__(self, scale: float, normed: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q_proj, self.k_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.v_proj, self.o_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        self.k_norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        for at, part in enumerate((self.q_proj, self.k_proj, self.v_proj, self.o_proj)):
            fastinit.normal_(part.weight, std=scale / 8 if at < 2 else 1 / 8, key=at)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k = self.q_norm(self.q_proj(h)), self.k_norm(self.k_proj(h))
        a = (q @ k.transpose(-1, -2) / 8).softmax(-1)
        return x + self.o_proj(a @ self.v_proj(h))


def test_attention_that_is_too_sharp() -> None:
    x = fastinit.normal_(torch.empty(4, 16, WIDTH), key=0)
    assert len(check(Attention(1.0), x)) == 0
    assert found(check(Attention(3.0), x), "logits").name == "q_proj"
    assert [f for f in check(Attention(3.0, normed=True), x) if "logits" in f.what] == []


def test_tokens_that_have_become_alike() -> None:
    x = fastinit.normal_(torch.empty(4, 1, WIDTH), key=0).expand(4, 16, WIDTH)
    x = x + 0.05 * fastinit.normal_(torch.empty(4, 16, WIDTH), key=1)
    assert found(check(Attention(1.0), x), "tokens have become alike").severity == "warning"


def test_batches_that_are_not_finite() -> None:
    x = batch()
    x[3, 4] = math.nan
    assert found(check(sound(), x), "x itself").severity == "error"


# --------------------------------------------------------------------------------------- the laws


def test_values_that_do_not_follow_the_recipe() -> None:
    recipe = Recipe({"**.weight": Normal(0.05), "**.bias": Zeros()})
    model = sound()
    for at, part in enumerate(model):
        if isinstance(part, nn.Linear):
            fastinit.normal_(part.weight, std=0.05, key=100 + at)
    assert [f for f in check(model, recipe=recipe) if f.severity == "error"] == []
    with torch.no_grad():
        model[6].weight *= 1.2
    finding = found(check(model, recipe=recipe), "not that of the recipe")
    assert (finding.severity, finding.name) == ("error", "6.weight")


def test_truncated_laws_are_held_to_the_std_behind_the_cut() -> None:
    recipe = Recipe({"**.weight": TruncNormal(0.05, cut=1.0), "**.bias": Zeros()})
    model = sound()
    for at, part in enumerate(model):
        if isinstance(part, nn.Linear):
            fastinit.trunc_normal_(part.weight, std=0.05, a=-0.05, b=0.05, key=100 + at)
    assert [f for f in check(model, recipe=recipe) if f.severity == "error"] == []


def test_remarks_on_the_recipe_are_findings() -> None:
    recipe = Recipe({"**.weight": TruncNormal(0.02, cut=100.0), "**.bias": Zeros()})
    assert any("never act" in f.what for f in check(sound(), recipe=recipe))
    uncovered = Recipe({"**.weight": Ones()})
    assert any("no rule" in f.what for f in check(sound(), recipe=uncovered))


# -------------------------------------------------------------------------------------- the result


def test_the_gravest_come_first_and_fit_a_terminal() -> None:
    model = mlp(nn.ReLU, 1.0)
    nn.init.zeros_(model[-2].weight)
    findings = check(model, batch())
    order = ["error", "warning", "info"]
    ranks = [order.index(f.severity) for f in findings]
    assert ranks == sorted(ranks) and ranks[0] == 0
    assert max(map(len, str(findings).splitlines())) <= 80
    assert str(check(sound())) == "nothing found"
    assert '"severity": "error"' in findings.to_json()


def test_the_model_is_left_as_found() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check(model, batch())
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        check(nn.ReLU())
    with pytest.raises(ValueError, match="two rows"):
        check(sound(), batch(1))
    with pytest.raises(RuntimeError, match="x, of shape"):
        check(sound(), batch(4, 3))
    with pytest.raises(ValueError, match="recipe must be a preset"):
        check(sound(), recipe="gpt3")
    with pytest.raises(RuntimeError, match="before torch.compile"):
        check(torch.compile(sound()), batch())
