"""Recipes: which rule a parameter gets, by which name, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from _recipes import Model, laws
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from fastinit.initializers import Constant, Kaiming, Keep, Native, Normal, Ones, Zeros
from fastinit.recipes import (
    PRESETS,
    Recipe,
    Role,
    bare_name,
    gpt2,
    layer,
    native,
    resolve_recipe,
)


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


@pytest.mark.parametrize(
    "make",
    [
        lambda: gpt2(),
        lambda: gpt2(depth={"encoder.**": 12, nn.Linear: 6}, roles={"re:a.*": "head"}),
        lambda: Recipe({(nn.Linear, "b*"): Zeros(), Role("head", under="a.*"): Ones()}, base="vit"),
        lambda: PRESETS["torch"](),
        lambda: PRESETS["siren"](),
    ],
)
def test_recipes_of_the_same_words_are_equal_and_travel(make: Any) -> None:
    """To other processes, as configurations do."""
    recipe = make()
    for other in (make(), copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
        assert other == recipe and hash(other) == hash(recipe) and repr(other) == repr(recipe)
    there = pickle.loads(pickle.dumps(Recipe({"**.weight": Ones(), nn.Linear: Zeros()}, gpt2())))
    assert laws(Model(), there)["lm_head.weight"] == Ones()
    assert make() != gpt2(depth={"encoder.**": 12, nn.Linear: 7})


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
