"""Recipes on whole models: what `init_` and `materialize_` write, and what they refuse.

The oracle is a plain loop over the records of `explain`: each fills its parameter by its own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _bits import assert_same_bits
from _models import Net, on_meta
from _recipes import filled
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import fastinit
from fastinit.initializers import (
    Constant,
    Dirac,
    Eye,
    Kaiming,
    Keep,
    Native,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncNormal,
    Uniform,
    Zeros,
)
from fastinit.models import steps as steps_module
from fastinit.recipes import PRESETS, Recipe, depth, fan_in, layer, sqrt


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attn = nn.ModuleDict({w: nn.Linear(d, d) for w in ("q_proj", "o_proj")})
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(d, 2 * d), "down_proj": nn.Linear(2 * d, d)})


class Model(nn.Module):
    """A language model: a padding row, a tie, names that the presets know."""

    def __init__(self, n: int = 3, d: int = 8) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(16, d, padding_idx=5)
        self.layers = nn.ModuleList(Block(d) for _ in range(n))
        self.lm_head = nn.Linear(d, 16, bias=False)
        self.lm_head.weight = self.embed_tokens.weight


def state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in [*model.named_parameters(), *model.named_buffers()]}


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    assert state(a).keys() == state(b).keys()
    for name, tensor in state(a).items():
        assert_same_bits(tensor, state(b)[name])


# ----------------------------------------------------------------------------- what is written


NEEDS = {"t5": {"head_dim": 4.0}}  # what a model without a configuration does not tell


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"native"}))
def test_every_preset_by_name(name: str) -> None:
    def make() -> nn.Module:
        if name == "siren":
            return nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1))
        # These have a law of their own for each side of the tie, or none for an embedding.
        return Model().layers if name in ("torch", "vit") else Model()

    preset = Recipe({}, base=name, **NEEDS.get(name, {}))
    recipe = preset if name in NEEDS else name
    expected, model, meta = filled(make(), preset, seed=7), make(), on_meta(make)
    fastinit.init_(model, recipe, seed=7)
    fastinit.materialize_(meta, "cpu", recipe, seed=7)
    for made in (model, meta):
        assert_same_state(made, expected)
        assert len(list(made.parameters())) == len(list(expected.parameters()))


EVERY_LAW = Recipe(
    {
        "a.weight": Normal(0.5),
        "a.bias": Uniform(-0.1, 0.2),
        "b.weight": Kaiming(),
        "b.bias": Constant(0.25),
        "c.weight": Orthogonal(),
        "c.bias": TruncNormal(0.1, cut=1.5),
        "d.weight": Eye(),
        "d.bias": Ones(),
        "e.weight": Dirac(),
        "e.bias": Zeros(),
        "f.weight": Sparse(0.5, 0.1),
        "f.bias": Keep(),
    }
)


def every_law() -> nn.ModuleDict:
    layers: dict[str, nn.Module] = {name: nn.Linear(6, 5) for name in "abcdf"}
    return nn.ModuleDict({**layers, "e": nn.Conv2d(3, 4, 3)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_every_law(dtype: torch.dtype) -> None:
    made, expected = every_law().to(dtype), every_law().to(dtype)
    expected.load_state_dict(made.state_dict())
    report = fastinit.init_(made, EVERY_LAW, seed=3)
    assert_same_state(made, filled(expected, EVERY_LAW, seed=3))
    again = json.loads(json.dumps(report.manifest()))
    for name, tensor in made.named_parameters():
        assert_same_bits(fastinit.regenerate(again, name), tensor.detach())
        rows = (slice(1, 4),)
        assert_same_bits(fastinit.regenerate(again, name, rows), tensor.detach()[rows])
    assert fastinit.verify(made, again) == []


def test_one_call_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fill = steps_module.laws.fill
    monkeypatch.setattr(
        steps_module.laws, "fill", lambda batch: calls.append(len(batch)) or fill(batch)
    )
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(50)))
    fastinit.init_(model, Recipe({"**.weight": Normal(0.02), "**.bias": Uniform(0, 1)}), seed=0)
    assert calls == [100]


def test_the_report_says_what_explain_said() -> None:
    recipe = Recipe({"**.o_proj.weight": Normal(0.02 / sqrt(2 * depth)),
                     "**.down_proj.weight": TruncNormal(0.1 / sqrt(layer + 1), cut=3),
                     "**.up_proj.weight": Uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))},
                    base="gpt2")  # fmt: skip
    model = Model()
    told, report = recipe.explain(model), fastinit.init_(model, recipe, seed=5)
    assert len(told) == len(report) == len(list(model.named_parameters()))
    for expected, record in zip(told, report, strict=True):
        for word in (
            "name",
            "shape",
            "dtype",
            "device",
            "initializer",
            "std",
            "low",
            "high",
            "rule",
        ):
            assert getattr(record, word) == getattr(expected, word)
        if record.key is not None:
            assert record.key == fastinit.Key(5).fold_in(record.name)
    line = next(line for line in str(report).splitlines() if "1.attn.o_proj.weight" in line)
    assert "Normal(0.02 / sqrt(2 * depth) = 0.00816)" in line and "**.o_proj.weight" in line
    assert "row 5 is padding: 0; tied: lm_head.weight" in str(report)
    data = json.loads(report.to_json())
    assert [one["name"] for one in data["records"]] == [one.name for one in told]
    assert report.to_markdown().startswith("| name | shape |")


def test_a_padding_row_of_a_tie_is_zero() -> None:
    model = Model()
    fastinit.init_(model, "gpt2", seed=0)
    assert (model.lm_head.weight[5] == 0).all()
    assert (model.embed_tokens.weight != 0).any(1).sum() == 15
    key = fastinit.Key(0).fold_in("embed_tokens.weight")
    expected = fastinit.normal_(torch.empty(16, 8), std=0.02, key=key)
    assert_same_bits(model.embed_tokens.weight.detach()[6:], expected[6:])


def test_parts_have_the_keys_of_what_they_stand_for() -> None:
    fused, plain = nn.ModuleDict({"wqkv": nn.Linear(8, 24, bias=False)}), nn.ModuleDict(
        {name: nn.Linear(8, 8, bias=False) for name in ("wq", "wk", "wv")}
    )  # fmt: skip
    parts = Recipe({"wqkv.weight": Kaiming(parts={0: {"wq": 8, "wk": 8, "wv": 8}})})
    report = fastinit.init_(fused, parts, seed=0)
    fastinit.init_(plain, Recipe({"**": Kaiming()}), seed=0)
    joined = torch.cat([layer.weight.detach() for layer in plain.values()])
    assert_same_bits(fused.wqkv.weight.detach(), joined)
    assert [(one.name, one.shape, one.note) for one in report] == [
        ("wqkv.weight", (8, 8), f"part {name}") for name in ("wq", "wk", "wv")
    ]
    manifest = json.loads(json.dumps(report.manifest()))
    rows = (slice(5, 19), slice(2, 7))
    assert_same_bits(
        fastinit.regenerate(manifest, "wqkv.weight", rows), fused.wqkv.weight.detach()[rows]
    )


def test_a_rule_may_leave_a_parameter_to_the_models_own_code() -> None:
    recipe = Recipe({"blocks.0.**": Native(), "head.weight": Keep(), "words.weight": Keep(),
                     "**.weight": Normal(0.3), "**": Zeros()})  # fmt: skip
    model, own, other = Net(), Net(), Net()
    fastinit.init_(own, seed=4)
    fastinit.init_(other, Recipe({"**.weight": Normal(0.3), "**": Zeros()}), seed=4)
    before = model.words.weight.detach().clone()
    report = fastinit.init_(model, recipe, seed=4)
    for name, tensor in model.named_parameters():
        source = own if name.startswith("blocks.0.") else other
        expected = before if name == "words.weight" else source.get_parameter(name).detach()
        assert_same_bits(tensor.detach(), expected)
    assert report["blocks.0.down.weight"].rule == "blocks.0.**"


def test_buffers_of_a_model_on_meta_are_computed_for_a_recipe_too() -> None:
    recipe = Recipe({"**.weight": Normal(0.3), "**": Zeros()})
    meta, made = on_meta(Net), Net()
    fastinit.materialize_(meta, "cpu", recipe, seed=4)
    fastinit.init_(made, recipe, seed=4)
    assert_same_state(meta, made)


PARAMETRIZED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("kind", PARAMETRIZED)
def test_parametrized_weights_are_written_through_right_inverse(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": PARAMETRIZED[kind](nn.Linear(6, 6)), "b": nn.Linear(6, 6)})
    model.eval()
    originals = dict(model.named_parameters())
    law = Orthogonal() if kind == "orthogonal" else Normal(0.3)
    recipe = Recipe({"a.weight": law, "**": Zeros()})
    report = fastinit.init_(model, recipe, seed=0)
    assert [one.name for one in report] == ["a.bias", "a.weight", "b.weight", "b.bias"]
    expected = law(torch.empty(6, 6), key=fastinit.Key(0).fold_in("a.weight"))
    if kind == "spectral_norm":  # what is written is divided by its norm
        assert_same_bits(model.a.parametrizations.weight.original.detach(), expected)
    else:
        assert torch.allclose(model.a.weight, expected, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter is originals[name]
    assert fastinit.verify(model, json.loads(json.dumps(report.manifest()))) == []


def test_no_other_state_is_touched() -> None:
    model = Model()
    before = torch.get_rng_state()
    fastinit.init_(model, "gpt2", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------ what is refused


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def two_towers() -> nn.Module:
    model = nn.Module()
    model.encoder = nn.ModuleDict({"layers": nn.ModuleList(Block(8) for _ in range(2))})
    model.decoder = nn.ModuleDict({"layers": nn.ModuleList(Block(8) for _ in range(3))})
    return model


def with_integers() -> nn.Module:
    model = Model()
    model.codes = nn.Parameter(torch.zeros(3, dtype=torch.int32), requires_grad=False)
    return model


def without_right_inverse() -> nn.Module:
    model = Model()
    parametrize.register_parametrization(model.layers[1].mlp["up_proj"], "weight", Doubled())
    return model


def with_a_lazy_one() -> nn.Module:
    model = Model()
    model.extra = nn.LazyLinear(3)
    return model


def without_storage() -> nn.Module:
    model = Model()
    model.layers[0].norm1.weight.untyped_storage().resize_(0)
    return model


ALL = {"**": Normal(1.0)}
BAD: dict[str, tuple[Callable[[], nn.Module], Any, type[Exception], str]] = {
    "unknown preset": (Model, "lama", ValueError, "'lama'; nearest: llama"),
    "no recipe": (Model, {"**": Normal(1.0)}, TypeError, r"recipe must be.*Recipe\(mapping\)"),
    "no match": (Model, Recipe({"**.w_proj.weight": Ones(), **ALL}), ValueError,
                 r"'\*\*\.w_proj\.weight' matches nothing; nearest names: .*proj"),
    "uncovered": (Model, Recipe({"**.weight": Ones()}), ValueError,
                  r"no rule for 15 parameters:(?s:.*)norm1\.bias(?s:.*)speak of: \*\*\.weight"),
    "tie": (Model, Recipe({"embed_tokens.weight": Ones(), "lm_head.weight": Zeros(), **ALL}),
            ValueError, r"embed_tokens\.weight has Ones.*lm_head\.weight has Zeros"),
    "depth": (two_towers, Recipe({"**.weight": Normal(1 / sqrt(depth)), "**": Zeros()}),
              ValueError, r"depth is ambiguous.*encoder\.layers \(2\), decoder\.layers \(3\)"),
    "dtype": (with_integers, Recipe(ALL), TypeError, r"codes.*no law fills torch\.int32"),
    "lazy": (with_a_lazy_one, Recipe(ALL), ValueError, r"lazy.*extra\.weight"),
    "storage": (without_storage, Recipe(ALL), ValueError, r"storage: layers\.0\.norm1\.weight"),
    "right_inverse": (without_right_inverse, Recipe(ALL), ValueError,
                      r"layers\.1\.mlp\.up_proj\.weight \(Doubled has no right_inverse\)"),
    "shape": (Model, Recipe({"**.bias": Orthogonal(), **ALL}), ValueError, r"norm1\.bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_nothing_is_written(case: str) -> None:
    make, recipe, error, match = BAD[case]
    model = make()
    versions = [p._version for p in model.parameters()]
    with pytest.raises(error, match=match):
        fastinit.init_(model, recipe, seed=0)
    assert [p._version for p in model.parameters()] == versions
    if case not in ("storage", "lazy", "right_inverse", "dtype"):
        meta = on_meta(make)
        with pytest.raises(error, match=match):
            fastinit.materialize_(meta, "cpu", recipe, seed=0)
        assert all(p.is_meta for p in meta.parameters())


def test_a_refusal_by_right_inverse_is_named_and_comes_first() -> None:
    layer = parametrizations.orthogonal(nn.Linear(4, 4), use_trivialization=False)
    model = nn.Sequential(nn.Linear(4, 4), layer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"1\.weight is parametrized.*_Orthogonal.*Keep\(\)"):
        fastinit.init_(model, Recipe({"**.weight": Normal(1.0), "**": Zeros()}), seed=0)
    for name, p in model.named_parameters():
        assert_same_bits(p.detach(), before[name])


def test_not_strict_means_warned() -> None:
    model = Model()
    before = state(model)["layers.0.norm1.bias"].clone()
    recipe = Recipe({"**.weight": Normal(1.0), "**.nothing": Ones()})
    report = fastinit.init_(model, recipe, seed=0, strict=False)
    told = "\n".join(report.warnings)
    assert "no rule for 15 parameters" in told and "'**.nothing' matches nothing" in told
    assert told in str(report).replace("warning: ", "")
    assert_same_bits(model.layers[0].norm1.bias.detach(), before)
    assert report["layers.0.norm1.bias"].initializer == Keep()


def test_odd_laws_are_warned_of_whoever_has_them() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)
            nn.init.trunc_normal_(self.linear.weight, std=0.02)

    cut = Recipe({"**.weight": TruncNormal(0.02, cut=100), "**": Zeros()})
    for recipe in ("native", cut):
        model = Cut()
        (warning,) = fastinit.init_(model, recipe, seed=0).warnings
        assert "the bounds of linear.weight never act" in warning and "100 std" in warning


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler, also where the shell has it ignored, as in `make test &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_whole_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes between the draws and the zero of a padding row waits for that."""
    whole, model = Model(), Model()
    fastinit.init_(whole, "gpt2", seed=0)
    fill = steps_module.laws.fill

    def interrupted(batch: Any) -> None:
        fill(batch)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(steps_module.laws, "fill", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fastinit.init_(model, "gpt2", seed=0)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (model.embed_tokens.weight[5] == 0).all()
    monkeypatch.setattr(steps_module.laws, "fill", fill)
    fastinit.init_(model, "gpt2", seed=0)
    assert_same_state(model, whole)
    meta = on_meta(Net)
    monkeypatch.setattr(steps_module.laws, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastinit.materialize_(meta, "cpu", seed=0)
    monkeypatch.setattr(steps_module.laws, "fill", fill)
    fastinit.materialize_(meta, "cpu", seed=0)
    made = Net()
    fastinit.init_(made, seed=0)
    assert_same_state(meta, made)
