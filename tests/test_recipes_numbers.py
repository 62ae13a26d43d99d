"""Recipes: the depth, layer, width and fans of a parameter, its parts, and parametrizations."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from _recipes import Block, Model, filled, laws
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastinit.initializers import Constant, Normal, Uniform, Xavier, Zeros
from fastinit.recipes import Recipe, Role, depth, fan_in, fan_out, gpt2, layer, sqrt, width
from fastinit.recipes.names import written_type

# --------------------------------------------------------------------- depth, layer, width, fans

DEEP = {"**.weight": Normal(1 / depth), "**.bias": Constant(layer)}


def test_depth_and_layer_are_read_off() -> None:
    recipe = Recipe(
        {
            "layers.*.norm1.weight": Normal(depth),
            "**.norm1.bias": Constant(layer),
            "lm_head.weight": Normal(1 / depth),
            "**": Zeros(),
        }
    )
    found = laws(Model(5), recipe)
    assert found["layers.4.norm1.weight"] == Normal(5) and found["lm_head.weight"] == Normal(0.2)
    assert [found[f"layers.{i}.norm1.bias"].value for i in range(5)] == [0, 1, 2, 3, 4]
    experts = laws(Model(5, experts=4), recipe)
    assert experts["layers.3.norm1.bias"] == Constant(3)
    inner = Recipe({"**.experts.*.weight": Normal(1 / depth, mean=layer), "**": Zeros()})
    assert laws(Model(5, experts=4), inner)["layers.3.experts.2.weight"] == Normal(0.2, mean=3)
    assert laws(nn.ModuleList(nn.Linear(2, 2) for _ in range(8)), Recipe(DEEP))[
        "3.weight"
    ] == Normal(1 / 8)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Model(2)
        self.decoder = Model(3)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleDict({"blocks": nn.ModuleList(Block(4) for _ in range(n))}) for n in (2, 3)
        )


@pytest.mark.parametrize("model", [EncoderDecoder(), Nested()], ids=["two lists", "nested lists"])
@pytest.mark.parametrize("name", ["depth", "layer"])
def test_what_is_ambiguous_has_to_be_given(model: nn.Module, name: str) -> None:
    number = {"depth": depth, "layer": layer}[name]
    rules = {"**.norm1.bias": Constant(number), "**": Zeros()}
    with pytest.raises(
        ValueError, match=rf"{name} is ambiguous for .*norm1.bias: the model has .*, .*layers="
    ):
        laws(model, Recipe(rules))
    found = laws(model, Recipe(rules, layers="{*.layers,stages.*.blocks}"))
    first, last = (
        [law.value for law in found.values() if isinstance(law, Constant)][::3][0],
        [law.value for law in found.values() if isinstance(law, Constant)][-1],
    )
    assert (first, last) == ((2, 3) if name == "depth" else (0, 2))


def test_dimensions_that_are_given() -> None:
    rules = {"**.norm1.bias": Constant(depth), "**": Zeros()}
    told = Recipe(rules, depth={"encoder.**": 12, "**": 6})
    found = laws(EncoderDecoder(), told)
    assert found["encoder.layers.0.norm1.bias"] == Constant(12)
    assert found["decoder.layers.0.norm1.bias"] == Constant(6)
    assert laws(Model(), Recipe(rules, depth=40))["layers.0.norm1.bias"] == Constant(40)
    assert laws(Model(), gpt2(depth=50))["layers.0.attn.o_proj.weight"] == Normal(0.02 / 10)
    behind = Recipe({"lm_head.weight": Zeros()}, base=gpt2(depth=50))
    assert laws(Model(), behind)["layers.0.attn.o_proj.weight"] == Normal(0.02 / 10)


def test_a_stage_of_a_pipeline_does_not_tell_its_depth() -> None:
    model = nn.Module()
    model.layers = nn.ModuleDict({str(i): Block(4) for i in (2, 3)})
    rules = {"**.norm1.bias": Constant(depth), "**.norm1.weight": Constant(layer), "**": Zeros()}
    with pytest.raises(ValueError, match=r"layers holds the blocks 2 to 3 of a deeper model; give"):
        laws(model, Recipe(rules))
    found = laws(model, Recipe(rules, depth=4))
    assert found["layers.3.norm1.bias"] == Constant(4)
    assert found["layers.3.norm1.weight"] == Constant(3)

    class Config:
        num_hidden_layers = 4

    model.config = Config()
    assert laws(model, Recipe(rules))["layers.2.norm1.bias"] == Constant(4)
    model.layers = nn.ModuleDict({str(i): Block(4) for i in (0, 1)})  # the first stage
    assert laws(model, Recipe(rules))["layers.1.norm1.bias"] == Constant(4)
    assert laws(model, Recipe(rules, depth=6))["layers.1.norm1.bias"] == Constant(6)


def test_a_configuration_that_disagrees() -> None:
    class Config:
        num_hidden_layers = 7

    model = Model(3)
    model.config = Config()
    rules = {"**.norm1.bias": Constant(depth), "**": Zeros()}
    with pytest.raises(ValueError, match="layers has 3 blocks, but the configuration says 7"):
        laws(model, Recipe(rules))


def test_width() -> None:
    rules = {"lm_head.weight": Constant(width), "**": Zeros()}
    assert laws(Model(d=8), Recipe(rules))["lm_head.weight"] == Constant(8)
    assert laws(Model(d=8), Recipe(rules, width=5))["lm_head.weight"] == Constant(5)
    two = Model(d=8)
    two.embed_tokens2 = nn.Embedding(4, 6)
    with pytest.raises(ValueError, match=r"the width of the model is not known: .*\[6, 8\]; give"):
        laws(two, Recipe(rules))


def test_a_bias_has_the_fans_of_its_weight() -> None:
    rules = {"weight": Zeros(), "bias": Uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))}
    assert laws(nn.Linear(16, 4), Recipe(rules))["bias"] == Uniform(-0.25, 0.25)
    assert laws(nn.Conv2d(4, 6, 2), Recipe(rules))["bias"] == Uniform(-0.25, 0.25)


def test_modules_that_keep_in_and_out_exchanged() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(16, 48))

    assert laws(Conv1D(), Recipe({"weight": Normal(fan_in)}))["weight"].std == 16
    plain = Recipe({"weight": Normal(fan_in, transposed=False)})
    assert laws(Conv1D(), plain)["weight"].std == 48


def test_experts_by_role_have_a_first_axis() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Module()
            self.experts.down_proj = nn.Parameter(torch.empty(4, 6, 8))

    assert laws(Experts(), Recipe({Role("experts"): Normal(fan_in)}))["experts.down_proj"].std == 8
    by_name = Recipe({"**.down_proj": Normal(fan_in, batch_axis=0)})
    assert laws(Experts(), by_name)["experts.down_proj"].std == 8


# ------------------------------------------------------------------------- parts, parametrizations


def test_fused_and_unfused_start_from_the_same_weights() -> None:
    class Attention(nn.Module):
        def __init__(self, fused: bool) -> None:
            super().__init__()
            if fused:
                self.wqkv = nn.Linear(8, 16, bias=False)
            else:
                self.wq, self.wk = nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False)
                self.wv = nn.Linear(8, 4, bias=False)

    def build(fused: bool) -> nn.Module:
        return nn.ModuleDict({"attention": Attention(fused)})

    parts = {0: {"wq": 8, "wk": 4, "wv": fan_out / 4}}
    fused = build(True)
    records = list(Recipe({"**.wqkv.weight": Xavier(parts=parts)}).explain(fused, strict=True))
    assert [record.key for record in records] == [
        f"attention.{w}.weight" for w in ("wq", "wk", "wv")
    ]
    assert [record.shape for record in records] == [(8, 8), (4, 8), (4, 8)]
    assert {record.name for record in records} == {"attention.wqkv.weight"}
    filled(fused, Recipe({"**.wqkv.weight": Xavier(parts=parts)}), seed=5)
    apart = filled(build(False), Recipe({"**.{wq,wk,wv}.weight": Xavier()}), seed=5)
    whole = torch.cat([p for _, p in apart.named_parameters()])
    assert torch.equal(fused["attention"].wqkv.weight, whole)
    with pytest.raises(ValueError, match=r"attention.wqkv.weight, .*give extents that sum to 16"):
        Recipe({"**.weight": Xavier(parts={0: {"wq": 9}})}).explain(fused)


def test_parts_of_a_parameter_with_its_own_name() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.empty(4, 6, 8))

    law = Normal(1.0, batch_axis=0, parts={1: {"gate_proj": 3, "up_proj": 3}})
    model = nn.ModuleDict({"experts": Experts()})
    plan = Recipe({"**": law}).explain(model, strict=True)
    assert [record.key for record in plan] == ["experts.gate_proj", "experts.up_proj"]
    assert "experts.gate_up_proj[gate_proj] | 4 x 3 x 8" in str(plan)


def test_parametrized_weights_have_one_name() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    parametrizations.spectral_norm(model[1])
    recipe = Recipe({"**.weight": Normal(fan_in), "**.bias": Zeros()})
    records = {record.name: record for record in recipe.explain(model, strict=True)}
    assert set(records) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert records["0.weight"].parametrized and records["0.weight"].shape == (3, 4)
    assert records["1.weight"].resolved.std == 3

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gamma * x

    linear = nn.Linear(2, 2)
    parametrize.register_parametrization(linear, "weight", Scaled())
    names = {record.name for record in Recipe({"**": Zeros()}).explain(linear)}
    assert names == {"weight", "bias", "parametrizations.weight.0.gamma"}


def test_padding_is_noted() -> None:
    plan = Recipe({"**": Normal(1.0)}).explain(nn.Embedding(4, 2, padding_idx=1))
    assert next(iter(plan)).note == "row 1 is padding: 0"


def test_sharded_and_parametrized_modules_are_what_they_were() -> None:
    """fully_shard and parametrizations change the class of a module, and so its name."""

    def model() -> nn.Module:
        kinds = {name: type(name, (nn.Module,), {}) for name in ("GptOssExperts", "GemmaRMSNorm")}
        experts, norm, block = kinds["GptOssExperts"](), kinds["GemmaRMSNorm"](), nn.Module()
        experts.down_proj = nn.Parameter(torch.ones(2, 8, 4))
        norm.weight = nn.Parameter(torch.ones(4))
        block.experts, block.norm = experts, norm
        return nn.ModuleDict({"layers": nn.ModuleList([block])})

    recipe = Recipe({Role("experts"): Normal(fan_in), Role("centred_norm"): Zeros()})
    expected = laws(model(), recipe)
    assert expected["layers.0.experts.down_proj"].std == 8
    assert expected["layers.0.norm.weight"] == Zeros()
    sharded, derived = model(), model()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        for part in (sharded["layers"][0].experts, sharded["layers"][0].norm, sharded["layers"][0]):
            fully_shard(part, mesh=mesh)
        assert type(sharded["layers"][0].norm).__name__ == "FSDPGemmaRMSNorm"
        assert laws(sharded, recipe) == expected
    finally:
        dist.destroy_process_group()
    parametrize.register_parametrization(derived["layers"][0].experts, "down_proj", nn.Identity())
    assert laws(derived, recipe) == expected
    assert written_type(nn.Linear) is nn.Linear
