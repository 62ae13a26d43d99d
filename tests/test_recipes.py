"""Recipes: which rule a parameter gets, what is refused, and what a plan says."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from _recipes import filled
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize

import fastinit
from fastinit.initializers import (
    Constant,
    Kaiming,
    Keep,
    Native,
    Normal,
    Ones,
    TruncNormal,
    Uniform,
    Xavier,
    Zeros,
)
from fastinit.recipes import (
    PRESETS,
    Recipe,
    Role,
    bare_name,
    depth,
    fan_in,
    fan_out,
    gpt2,
    layer,
    native,
    resolve_recipe,
    sqrt,
    width,
)


class Block(nn.Module):
    def __init__(self, d: int, experts: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attn = nn.ModuleDict({w: nn.Linear(d, d) for w in ("q_proj", "o_proj")})
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(d, 2 * d), "down_proj": nn.Linear(2 * d, d)})
        if experts:
            self.experts = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(experts))


class Model(nn.Module):
    def __init__(self, n: int = 3, d: int = 8, experts: int = 0) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(16, d)
        self.layers = nn.ModuleList(Block(d, experts) for _ in range(n))
        self.lm_head = nn.Linear(d, 16, bias=False)


def laws(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    return {record.name: record.resolved for record in recipe.explain(model, strict=True)}


def one(pattern: Any, rest: Any = Keep()) -> Recipe:  # noqa: B008  (a frozen value)
    return Recipe({pattern: Ones(), "**": rest})


def matched(model: nn.Module, pattern: Any) -> set[str]:
    return {name for name, law in laws(model, one(pattern)).items() if law == Ones()}


# --------------------------------------------------------------------------------------- patterns

ALL = {name for name, _ in Model().named_parameters()}
OUT = {name for name in ALL if name.endswith(("o_proj.weight", "down_proj.weight"))}
BIASES = {name for name in ALL if name.endswith("proj.bias")}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("lm_head.weight", {"lm_head.weight"}),
        ("**.lm_head.weight", {"lm_head.weight"}),
        ("*.weight", {"lm_head.weight", "embed_tokens.weight"}),
        ("**norm1.bias", {f"layers.{i}.norm1.bias" for i in range(3)}),
        ("layers.1.**", {name for name in ALL if name.startswith("layers.1.")}),
        ("layers.{0,2}.norm1.b*", {f"layers.{i}.norm1.bias" for i in (0, 2)}),
        ("layers.?.norm1.weight", {f"layers.{i}.norm1.weight" for i in range(3)}),
        ("layers.[!1].norm1.weight", {f"layers.{i}.norm1.weight" for i in (0, 2)}),
        ("**.{o_proj,down_proj}.weight", OUT),
        ("**proj.b*", BIASES),
        (r"re:layers\.[01]\.norm1\.weight", {f"layers.{i}.norm1.weight" for i in (0, 1)}),
        (nn.Embedding, {"embed_tokens.weight"}),
        (nn.LayerNorm, {name for name in ALL if ".norm1." in name}),
        ((nn.Linear, "bias"), BIASES),
        (lambda name, module, p: p.ndim == 1 and isinstance(module, nn.Linear), BIASES),
        (Role("head"), {"lm_head.weight"}),
        (Role("residual_out"), OUT),
        (Role("residual_out", under="layers.1.**"), {n for n in OUT if n.startswith("layers.1.")}),
    ],
    ids=str,
)  # fmt: skip
def test_patterns(pattern: Any, expected: set[str]) -> None:
    model = Model()
    assert matched(model, pattern) == expected
    recipe = one(pattern)
    for name, parameter in model.named_parameters():
        rule = recipe.match(name, model.get_submodule(name.rpartition(".")[0]), parameter)
        assert rule is not None and (rule.initializer == Ones()) == (name in expected)


def test_two_digit_blocks_are_blocks() -> None:
    model = Model(12, 2)
    assert len(matched(model, "layers.*.norm1.weight")) == 12
    assert matched(model, "layers.1*.norm1.weight") == {
        f"layers.{i}.norm1.weight" for i in (1, 10, 11)
    }
    assert matched(model, "layers.11.norm1.weight") == {"layers.11.norm1.weight"}


def test_the_first_match_wins_whatever_its_kind() -> None:
    recipe = Recipe(
        [
            (nn.Linear, Constant(1)),
            ("lm_head.weight", Constant(2)),
            ("**", Constant(3)),
        ]
    )
    found = laws(Model(), recipe)
    assert found["lm_head.weight"] == Constant(1) and found["embed_tokens.weight"] == Constant(3)


def test_base_stands_behind() -> None:
    recipe = Recipe({"lm_head.weight": Normal(3)}, base=gpt2(std=0.01))
    found = laws(Model(), recipe)
    assert found["lm_head.weight"] == Normal(3) and found["embed_tokens.weight"] == Normal(0.01)
    assert laws(Model(), Recipe({}, base="gpt2")) == laws(Model(), gpt2())
    assert recipe.name == "gpt2" and recipe.explain(Model()).warnings == ()


def test_roles_can_be_added_and_corrected() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frobnicate = nn.Linear(4, 4, bias=False)
            self.lm_head = nn.Linear(4, 4, bias=False)

    with pytest.raises(
        ValueError, match=r"(?s)no rule for 1 parameter:\n  frobnicate.weight, \(4, 4\)"
    ):
        laws(Odd(), gpt2())
    roles = {"frobnicate.*": "ffn_out", "lm_head.weight": "embedding"}
    found = Recipe({Role("ffn_out"): Ones(), Role("embedding"): Zeros()}, roles=roles)
    assert laws(Odd(), found) == {"frobnicate.weight": Ones(), "lm_head.weight": Zeros()}
    numbered = Recipe(
        {Role("head"): Ones(), "**": Zeros()}, roles={"layers.1.attn.o_proj.weight": "head"}
    )
    assert {n for n, law in laws(Model(), numbered).items() if law == Ones()} == {
        "lm_head.weight", "layers.1.attn.o_proj.weight",
    }  # fmt: skip


def test_a_recipe_is_a_value() -> None:
    recipe = Recipe({"**.weight": Normal(0.02), nn.Linear: Zeros()})
    assert recipe == Recipe([("**.weight", Normal(0.02)), (nn.Linear, Zeros())])
    assert hash(recipe) == hash(Recipe({"**.weight": Normal(0.02), nn.Linear: Zeros()}))
    assert recipe != Recipe({nn.Linear: Zeros(), "**.weight": Normal(0.02)})
    assert "nn.Linear: Zeros()" in repr(recipe)


# ------------------------------------------------------------------------------------------ names


def test_names_know_no_wrappers() -> None:
    recipe = Recipe({"layers.*.mlp.up_proj.weight": Normal(0.5), "**": Zeros()})
    expected = laws(Model(), recipe)
    wrapped = Model()
    for i, block in enumerate(wrapped.layers):
        wrapped.layers[i] = checkpoint_wrapper(block)
    wrapped.layers[0] = torch.compile(wrapped.layers[0])
    outer = nn.DataParallel(torch.compile(wrapped))
    assert laws(outer, recipe) == expected
    names = [bare_name(outer, name) for name, _ in outer.named_parameters()]
    assert names == list(expected)


def test_module_is_a_name_where_no_wrapper_is() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    assert list(laws(Holder(), Recipe({"**": Zeros()}))) == ["module.weight", "module.bias"]
    assert bare_name(Holder(), "module.weight") == "module.weight"


# --------------------------------------------------------------------------- refusals and remarks


def test_both_sides_are_listed() -> None:
    recipe = Recipe({"**.down_porj.weight": Normal(0.1), "embed_tokens.weight": Normal(1.0)})
    with pytest.raises(ValueError) as error:
        recipe.explain(Model(), strict=True)
    text = str(error.value)
    assert (
        "no rule for 31 parameters" in text and "layers.0.norm1.weight and 2 like it, (8,)" in text
    )
    assert "the rules speak of: **.down_porj.weight, embed_tokens.weight" in text
    assert (
        "'**.down_porj.weight' matches nothing; nearest names: layers.0.mlp.down_proj.weight"
        in text
    )
    plan = recipe.explain(Model())
    assert len(plan.warnings) == 2 and "matches nothing" in plan.warnings[1]
    kept = next(record for record in plan if record.name == "lm_head.weight")
    assert kept.initializer == Keep() and kept.note == "no rule: left as it is" and kept.rule == ""


def test_a_shadowed_rule_is_a_warning() -> None:
    recipe = Recipe({"**": Zeros(), "**.weight": Normal(1.0)})
    assert recipe.explain(Model(), strict=True).warnings == (
        "the rule '**.weight' never acts: earlier rules match all that it does",
    )


def test_presets_serve_models_that_lack_what_they_speak_of() -> None:
    assert gpt2().explain(Model(), strict=True).warnings == ()


def test_ties() -> None:
    model = Model()
    model.lm_head.weight = model.embed_tokens.weight
    records = {record.name: record for record in gpt2().explain(model, strict=True)}
    assert records["embed_tokens.weight"].tied == ("lm_head.weight",)
    assert "lm_head.weight" not in records
    # By role it is an embedding, under either name.
    recipe = Recipe({Role("head"): Zeros(), Role("embedding"): Normal(1.0), "**": Ones()})
    assert laws(model, recipe)["embed_tokens.weight"] == Normal(1.0)
    with pytest.raises(ValueError) as error:
        laws(model, Recipe({nn.Embedding: Normal(1.0), nn.Linear: Zeros(), "**": Ones()}))
    assert (
        "embed_tokens.weight has Normal(1) (rule 'nn.Embedding'), lm_head.weight has Zeros()"
        in str(error.value)
    )
    same = Recipe({nn.Embedding: Normal(1.0), "lm_head.*": Normal(1.0), "**": Ones()})
    assert laws(model, same)["embed_tokens.weight"] == Normal(1.0)


def test_lazy_and_empty_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="lazy parameters have no shape yet: 0.weight"):
        Recipe({"**": Zeros()}).explain(nn.Sequential(nn.LazyLinear(3)))
    linear = nn.Linear(2, 2)
    linear.weight.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="parameters without storage: weight; sharding has freed"):
        Recipe({"**": Zeros()}).explain(linear)


def test_a_law_that_a_parameter_does_not_have() -> None:
    linear = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^bias, \(2,\), rule 'nn.Linear': "):
        Recipe({nn.Linear: Kaiming()}).explain(linear)
    with pytest.raises(ValueError, match=r"^weight, .*needs layer|lies in no list"):
        Recipe({"weight": Normal(0.1 / (layer + 1)), "bias": Zeros()}).explain(linear)
    counts = nn.Module()
    counts.n = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(TypeError, match="^n, .*no law fills torch.int64; it takes one of bfloat16"):
        Recipe({"n": Normal(1.0)}).explain(counts)
    assert laws(counts, Recipe({"n": Zeros()})) == {"n": Zeros()}


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Recipe({"a": 0.02}), TypeError, "the rule for a must be an initializer, got 0.02"),
        (lambda: Recipe({1: Zeros()}), TypeError, "a pattern must be a glob"),
        (lambda: Recipe({int: Zeros()}), TypeError, "a pattern must be a glob"),
        (lambda: Recipe("gpt2"), TypeError, "rules must be a mapping"),
        (lambda: Recipe([1]), TypeError, "rules must be a mapping"),
        (lambda: Recipe({"": Zeros()}), ValueError, "a pattern must not be empty"),
        (lambda: Recipe({"{a": Zeros()}), ValueError, "a brace without its partner"),
        (lambda: Recipe({"re:(": Zeros()}), ValueError, "is no regular expression"),
        (lambda: Recipe({Role("hed"): Zeros()}), ValueError, "role must be one of .*nearest: head"),
        (lambda: Recipe({}, roles={"a": "linear"}), ValueError, "got the group 'linear'"),
        (lambda: Recipe({}, roles={"a": "hed"}), ValueError, "nearest: head"),
        (lambda: Recipe({}, depth="12"), TypeError, "depth must be a number or a mapping"),
        (lambda: Recipe({}, depth=0), ValueError, "depth must be above 0"),
        (lambda: Recipe({}, layers=3), TypeError, "layers must be a glob"),
        (
            lambda: Recipe({}, base="gtp2"),
            ValueError,
            "base must be a preset's name.*nearest: gpt2",
        ),
        (lambda: resolve_recipe("lama"), ValueError, "recipe must be .*nearest: llama"),
        (lambda: resolve_recipe({"a": 1}), TypeError, "a mapping becomes one by"),
        (lambda: gpt2(variant="gpt3"), ValueError, "variant must be one of .*openai"),
        (lambda: Recipe({}).explain("model"), TypeError, "module must be a torch.nn.Module"),
    ],
)
def test_bad_input(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_every_preset_by_name() -> None:
    assert {"native", "torch", "gpt2", "llama", "torchtitan", "megatron", "olmo", "mitchell"} | {
        "neox", "t5", "vit", "mup", "deepnorm", "siren",
    } <= set(PRESETS)  # fmt: skip
    for name, preset in PRESETS.items():
        assert resolve_recipe(name) == preset() and resolve_recipe(name).name == name
        assert "Source:" in (preset.__doc__ or "") or name == "native"
    assert laws(Model(), native())["lm_head.weight"] == Native()
    mixed = laws(Model(), Recipe({"lm_head.weight": Zeros()}, base="native"))
    assert mixed["lm_head.weight"] == Zeros() and mixed["embed_tokens.weight"] == Native()


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


# ---------------------------------------------------------------------------------------- remarks


def test_cuts_that_never_act() -> None:
    rules = {"**.up_proj.weight": TruncNormal(0.02, cut=100), "**": Zeros()}
    (told,) = Recipe(rules).explain(Model()).warnings
    assert told.startswith(
        "the bounds of 3 parameters (layers.0.mlp.up_proj.weight, ...) never act"
    )
    assert "100 std out" in told
    for cut in (2, 3):
        assert (
            not Recipe({"**.weight": TruncNormal(0.02, cut=cut), "**": Zeros()})
            .explain(Model())
            .warnings
        )


def test_a_correction_for_a_cut_that_never_acts() -> None:
    widened = 1 / sqrt(fan_in) / 0.87962566103423978
    rules = {"**.up_proj.weight": TruncNormal(widened, cut=50), "**": Zeros()}
    assert any("13.7% too large" in told for told in Recipe(rules).explain(Model()).warnings)
    right = {"**.up_proj.weight": TruncNormal(1 / sqrt(fan_in), corrected=True), "**": Zeros()}
    assert not Recipe(right).explain(Model()).warnings


def test_bounds_of_a_std_that_was_scaled_afterwards() -> None:
    std = 0.02 / sqrt(2 * (layer + 1))
    rules = {"**.o_proj.weight": TruncNormal(std, cut=3 * 0.02 / std), "**": Zeros()}
    (told,) = Recipe(rules).explain(Model()).warnings
    assert told.startswith("the bounds +-0.06 are those of 3 parameters") and "4.24 to 7.35" in told
    assert (
        not Recipe({"**.o_proj.weight": TruncNormal(std, cut=3), "**": Zeros()})
        .explain(Model())
        .warnings
    )


def test_depth_on_what_does_not_write() -> None:
    scaled = Normal(0.02 / sqrt(2 * depth))
    rules = {
        "**.{o_proj,down_proj,up_proj}.weight": scaled,
        "**.weight": Normal(0.02),
        "**": Zeros(),
    }
    (told,) = Recipe(rules).explain(Model()).warnings
    assert told.startswith("layers.2.mlp.up_proj.weight has the std of layers.2.attn.o_proj.weight")


# ------------------------------------------------------------------------------------ what it says


def test_the_table() -> None:
    with torch.device("meta"):
        model = Model()
    plan = gpt2().explain(model)
    lines = str(plan).splitlines()
    assert lines[0].split(" | ")[0].strip() == "name"
    out = next(line for line in lines if line.startswith("layers.0-2.attn.o_proj.weight"))
    assert "| 8 x 8  | Normal(0.02 / sqrt(2 * depth) = 0.00816) | role attention_out" in out
    assert len(lines) < len(plan)
    assert plan.to_markdown().splitlines()[1] == "| --- | --- | --- | --- | --- |"
    data = json.loads(plan.to_json())
    assert [row["name"] for row in data["records"]] == [record.name for record in plan]
    row = next(row for row in data["records"] if row["name"] == "layers.1.attn.o_proj.weight")
    assert row["initializer"] == {"law": "Normal", "std": "0.02 / sqrt(2 * depth)"}
    assert row["std"] == row["resolved"]["std"] == pytest.approx(0.02 / 6**0.5)
    assert (row["dtype"], row["device"], row["shape"]) == ("float32", "meta", [8, 8])
    assert row["key"] == row["name"] and row["low"] is None


def test_records_fill_as_their_laws() -> None:
    model = filled(Model(), gpt2(), seed=3)
    expected = Normal(0.02)(torch.empty(16, 8), key=fastinit.Key(3).fold_in("lm_head.weight"))
    assert torch.equal(model.lm_head.weight, expected)
    deeper = filled(Model(n=5), gpt2(), seed=3)  # adding layers changes no other parameter
    assert torch.equal(model.lm_head.weight, deeper.lm_head.weight)
    assert torch.equal(
        model.layers[1].attn["q_proj"].weight, deeper.layers[1].attn["q_proj"].weight
    )


def test_many_small_layers() -> None:
    """Within a multiple of what listing the parameters costs, so that no machine matters much."""
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8000)))
    recipe = Recipe({(nn.Linear, "weight"): Kaiming(), "**.bias": Zeros()})

    def seconds(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    pairs = [
        (seconds(lambda: recipe.explain(model)), seconds(lambda: list(model.named_parameters())))
        for _ in range(5)
    ]
    assert min(ours for ours, _ in pairs) < 15 * min(theirs for _, theirs in pairs)
    assert len(recipe.explain(model)) == 16000
