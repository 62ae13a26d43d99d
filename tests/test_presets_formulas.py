"""Presets: the law of every parameter, against the formula of its source.

Each comparison fails a right preset with a chance of ALPHA (two-sample or one-sample KS, Holm over
the parameters; constants have to be equal), with fixed seeds. Each kind of comparison has a twin in
which the law is wrong in the way that people get it wrong, and is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _recipes import D, F, L, V, decoder, departing, filled, twin
from scipy import stats
from torch import Tensor, nn

from fastinit.recipes import (
    Recipe,
    deepnorm,
    gpt2,
    llama,
    megatron,
    mitchell,
    mup,
    neox,
    olmo,
    siren,
    spectral,
    torchtitan,
)

Law = Callable[[str, Tensor], Any]


def cut(std: float, at: float = 3.0) -> Any:
    return stats.truncnorm(-at, at, 0, std)


def normal(std: float) -> Any:
    return stats.norm(0, std)


def block_of(name: str) -> int:
    return next(int(step) for step in name.split(".") if step.isdigit())


def by_name(**laws: Any) -> Law:
    """The law whose key is in a Llama's name; norms are 1."""

    def law(name: str, tensor: Tensor) -> Any:
        if tensor.ndim == 1:
            return 1.0
        found = next((laws[word] for word in laws if word in name), laws.get("rest"))
        return found(name) if callable(found) and not hasattr(found, "cdf") else found

    return law


def local(name: str) -> float:
    return 1 / math.sqrt(2 * (block_of(name) + 1))


deep = 1 / math.sqrt(2 * L)
XAVIER = {w: math.sqrt(2 / (a + b)) for w, a, b in [("o", D, D), ("f", D, F), ("kv", D, D / 2)]}
BETA = (8 * L) ** -0.25

FORMULAS: list[tuple[str, Recipe, Law]] = [
    ("gpt2 openai", gpt2(variant="openai"), by_name(rest=normal(0.02))),
    ("gpt2 nanogpt", gpt2(variant="nanogpt"), by_name(
        o_proj=normal(0.02 * deep), down_proj=normal(0.02 * deep), rest=normal(0.02))),
    ("torchtitan", torchtitan(), by_name(
        embed=normal(1), lm_head=cut(D**-0.5), o_proj=lambda n: normal(0.02 * local(n)),
        down=lambda n: normal(0.02 * local(n)), up_proj=lambda n: normal(0.02 * local(n)),
        rest=normal(0.02))),
    ("torchtitan qwen3", torchtitan("qwen3"), by_name(
        o_proj=normal(0.02 * deep), rest=normal(0.02))),
    ("megatron", megatron(0.03, embedding_std=1.0), by_name(
        embed=normal(1), o_proj=normal(0.03 * deep), down=normal(0.03 * deep), rest=normal(0.03))),
    ("megatron mup", megatron(base_width=16), by_name(
        embed=normal(0.02), lm_head=normal(0.02), o_proj=normal(0.01 * deep),
        down=normal(0.01 * deep), rest=normal(0.01))),
    ("megatron hybrid", megatron(hybrid=True), by_name(
        o_proj=normal(0.02 / L**0.5), down=normal(0.02 / L**0.5), rest=normal(0.02))),
    ("olmo normal", olmo(), by_name(rest=cut(0.02))),
    ("olmo llama", olmo("llama"), by_name(
        embed=normal(1), lm_head=cut(D**-0.5), o_proj=cut(0.02 * deep), down=cut(0.02 * deep),
        up_proj=cut(0.02 * deep), rest=cut(0.02))),
    ("olmo llama_depth", olmo("llama_depth"), by_name(
        embed=normal(1), lm_head=cut(D**-0.5), o_proj=lambda n: cut(0.02 * local(n)),
        down=lambda n: cut(0.02 * local(n)), up_proj=lambda n: cut(0.02 * local(n)),
        rest=cut(0.02))),
    ("olmo fan_in", olmo("fan_in", embed_scale=4), by_name(
        embed=normal(0.25), down=cut(F**-0.5), rest=cut(D**-0.5))),
    ("olmo full_megatron", olmo("full_megatron"), by_name(
        lm_head=cut(D**-0.5), o_proj=cut(0.02 * deep), down=cut(0.02 * deep), rest=cut(0.02))),
    ("mitchell", mitchell(), by_name(
        o_proj=lambda n: cut(D**-0.5 * local(n)), down=lambda n: cut(F**-0.5 * local(n)),
        rest=cut(D**-0.5))),
    ("neox", neox(), by_name(
        o_proj=normal(2 / (L * D**0.5)), down=normal(2 / (L * D**0.5)),
        rest=normal(math.sqrt(2 / (5 * D))))),
    ("mup", mup(16, 0.04), by_name(embed=normal(0.04), lm_head=normal(0.04), rest=normal(0.02))),
    ("mup zeros", mup(16, 0.04, scale_out=True, zero_query=True, zero_head=True), by_name(
        embed=normal(0.04), lm_head=0.0, q_proj=0.0, o_proj=normal(0.02 * deep),
        down=normal(0.02 * deep), rest=normal(0.02))),
    ("spectral", spectral(), by_name(
        embed=normal(1), down=normal(F**-0.5 * (D / F) ** 0.5), k_proj=normal((2 * D) ** -0.5),
        v_proj=normal((2 * D) ** -0.5), rest=normal(D**-0.5))),
    ("deepnorm", deepnorm(), by_name(
        embed=normal(D**-0.5), lm_head=normal(math.sqrt(2 / (D + V))), q_proj=normal(XAVIER["o"]),
        k_proj=normal(math.sqrt(2 / (1.5 * D))), v_proj=normal(BETA * math.sqrt(2 / (1.5 * D))),
        o_proj=normal(BETA * XAVIER["o"]), rest=normal(BETA * XAVIER["f"]))),
]  # fmt: skip


def unpadded(model: nn.Module) -> nn.Module:
    """Without the row of zeros, which is no sample of the law."""
    embed = model.model.embed_tokens
    embed.weight = nn.Parameter(embed.weight[torch.arange(V) != 3].detach())
    return model


@pytest.mark.parametrize(("recipe", "law"), [f[1:] for f in FORMULAS], ids=[f[0] for f in FORMULAS])
def test_as_the_formula(recipe: Recipe, law: Law) -> None:
    assert departing(unpadded(twin(decoder(), recipe)), law) == []


def test_another_formula_is_seen() -> None:
    laws = {name: law for name, _, law in FORMULAS}
    wrong = departing(unpadded(twin(decoder(), torchtitan())), laws["olmo llama"])
    assert any("o_proj" in name for name in wrong)
    untruncated = departing(unpadded(twin(decoder(), llama(0.0215))), laws["olmo normal"])
    assert untruncated
    assert departing(unpadded(twin(decoder(), mup(20, 0.04))), laws["mup"])


class Experts(nn.Module):
    """Of three matrices for each expert, (experts, out, in)."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("w1", (3, F, D)), ("w2", (3, D, F)), ("w3", (3, F, D))):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))


def mixture() -> nn.Module:
    """Mixture-of-experts layers with names as in torchtitan, two of them."""

    def layer() -> nn.Module:
        router = nn.Linear(D, 8, bias=True)
        shared = nn.ModuleDict({"w1": nn.Linear(D, F, False), "w2": nn.Linear(F, D, False)})
        parts = {"router": router, "experts": Experts(), "shared_experts": shared}
        return nn.ModuleDict({"moe": nn.ModuleDict(parts)})

    return nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(2))})


LawsByPart = dict[str, Callable[[str], Any]]
MIXTURES: list[tuple[str, Recipe, LawsByPart]] = [
    ("torchtitan", torchtitan("deepseek_v3"), {
        "bias": lambda n: 0.0, "w1": lambda n: normal(0.02),
        "": lambda n: normal(0.02 * local(n))}),
    ("torchtitan qwen3", torchtitan("qwen3"), {
        "bias": lambda n: 0.0, "s.w2.w": lambda n: normal(0.02), "w2": lambda n: normal(0.01),
        "": lambda n: normal(0.02)}),
    ("megatron", megatron(), {
        "w2": lambda n: normal(0.01), "": lambda n: normal(0.02)}),
    ("olmo llama_depth", olmo("llama_depth"), {
        "bias": lambda n: 0.0, "shared_experts.w1": lambda n: cut(0.02),
        "": lambda n: cut(0.02 * local(n))}),
    ("olmo fan_in", olmo("fan_in"), {
        "bias": lambda n: 0.0, "w2": lambda n: cut(F**-0.5), "": lambda n: cut(D**-0.5)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "laws"), [m[1:] for m in MIXTURES], ids=[m[0] for m in MIXTURES]
)
def test_mixtures_of_experts(recipe: Recipe, laws: LawsByPart) -> None:
    model = filled(mixture(), recipe)

    def law(name: str, tensor: Tensor) -> Any:
        return next(law(name) for part, law in laws.items() if part in name)

    assert departing(model, law) == []
    wrong = departing(model, lambda n, t: law(n, t) if "experts.w2" not in n else normal(0.0229))
    assert wrong and all("w2" in name for name in wrong)


def test_experts_that_keep_in_and_out_exchanged() -> None:
    MoEMLP = type("MoEMLP", (Experts,), {})  # as OLMo-core's: (experts, in, out)
    model = filled(nn.ModuleDict({"experts": MoEMLP()}), olmo("fan_in"))
    stds = {"w1": F**-0.5, "w2": D**-0.5, "w3": F**-0.5}  # here the last axis is out
    assert departing(model, lambda name, _: cut(stds[name[-2:]])) == []


def test_gpt_oss_of_torchtitan() -> None:
    model = twin(decoder("GptOss", head_dim=16, num_local_experts=2), torchtitan("gpt_oss"))

    def law(name: str, tensor: Tensor) -> Any:
        if "norm" in name:
            return 1.0
        if "embed" in name:
            return normal(0.02)
        if "lm_head" in name:
            return cut(D**-0.5)
        if name.endswith("bias") and "experts" not in name:
            return 0.0
        return normal(0.02 * local(name))

    unpadded(model)
    assert departing(model, law) == []
    assert departing(model, lambda n, t: law(n, t) if t.ndim < 3 else normal(0.02))


def test_deepnorm_of_an_encoder_and_a_decoder() -> None:
    model = nn.ModuleDict(
        {
            kind: nn.ModuleDict({w: nn.Linear(64, 64, bias=False) for w in ("q_proj", "fc1")})
            for kind in ("encoder", "decoder")
        }
    )
    filled(model, deepnorm(encoder_layers=6, decoder_layers=2))
    gains = {
        "encoder.q_proj.weight": 1.0,
        "encoder.fc1.weight": 0.87 * (6**4 * 2) ** (-1 / 16),
        "decoder.q_proj.weight": 1.0,
        "decoder.fc1.weight": 24**-0.25,
    }
    assert departing(model, lambda name, _: normal(gains[name] / 8)) == []
    wrong = departing(model, lambda name, _: normal(1 / 8))
    assert sorted(wrong) == ["decoder.fc1.weight", "encoder.fc1.weight"]


def test_siren() -> None:
    make = [nn.Linear(8, 64), *(nn.Linear(64, 64) for _ in range(2)), nn.Linear(64, 8)]
    model = filled(nn.Sequential(*make), siren())

    def law(name: str, tensor: Tensor) -> Any:
        n = 8 if name.startswith("0.") else 64
        bound = {"bias": n**-0.5, "weight": 1 / n if n == 8 else math.sqrt(6 / n) / 30}
        return stats.uniform(-bound[name[2:]], 2 * bound[name[2:]])

    assert departing(model, law) == []
    assert "0.weight" in departing(model, lambda n, t: law("1" + n[1:], t))
