"""Mistakes that real code has made, each in a small model that has it, and what tells of it.

Every model initializes itself, as the code did in which the mistake was found, so that the report
of `native` has to see it; a sound twin of each raises no remark.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _bits import assert_same_bits
from _clients import timm, transformers
from _recipes import decoder
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.testing._internal.distributed.fake_pg import FakeStore

import fastinit
from fastinit.initializers import Kaiming, Normal
from fastinit.recipes import Recipe, llama

D, F, L = 64, 160, 3
Init = Callable[[nn.Module, int], None]
trunc = nn.init.trunc_normal_


class Model(nn.Module):
    """With torchtitan's names; `init` writes one block."""

    def __init__(self, init: Init) -> None:
        super().__init__()
        self.init = init

        def block() -> nn.Module:
            attention = {name: nn.Linear(D, D, bias=False) for name in ("wq", "wo")}
            ffn = {name: nn.Linear(D, F, bias=False) for name in ("w1", "w3")}
            ffn["w2"] = nn.Linear(F, D, bias=False)
            parts = {"attention": nn.ModuleDict(attention), "feed_forward": nn.ModuleDict(ffn)}
            return nn.ModuleDict(parts)

        self.layers = nn.ModuleList(block() for _ in range(L))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for i, layer in enumerate(self.layers):
            self.init(layer, i)


def by_name(stds: Callable[[str, int], float], cut: float | None = 3.0) -> Init:
    """Truncated at `cut` std, or as torch's default is, at +-2 in units of the weights."""

    def init(layer: nn.Module, i: int) -> None:
        for name, weight in layer.named_parameters():
            std = stds(name.split(".")[1], i)
            bound = 2.0 if cut is None else cut * std
            trunc(weight, std=std, a=-bound, b=bound)

    return init


def deep(i: int) -> float:
    return 0.02 / math.sqrt(2 * (i + 1))


def base_bounds(layer: nn.Module, i: int) -> None:
    """The bounds of all are those of the std before wo's was scaled, as in lingua."""
    for name, weight in layer.named_parameters():
        trunc(weight, std=deep(i) if "wo" in name else 0.02, a=-0.06, b=0.06)


def widened(layer: nn.Module, i: int) -> None:
    """Made up for a cut at two std that these bounds never are, as in xformers."""
    for weight in layer.parameters():
        trunc(weight, std=weight.shape[1] ** -0.5 / 0.87962566103423978, a=-9, b=9)


MODELS: dict[str, tuple[Init, Init, list[str]]] = {
    "bounds that never act": (
        by_name(lambda name, i: 0.02, None), by_name(lambda name, i: 0.02),
        ["never act", "100 std"]),
    "a correction for such bounds": (
        widened, by_name(lambda name, i: 0.02), ["never act", "13.7% too large"]),
    "bounds of the unscaled std": (
        base_bounds, by_name(lambda name, i: deep(i) if name in ("wo", "w2") else 0.02),
        ["look like multiples of a std that was scaled afterwards"]),
    "depth on the wrong projection": (
        by_name(lambda name, i: deep(i) if name in ("wo", "w2", "w3") else 0.02),
        by_name(lambda name, i: deep(i) if name in ("wo", "w2") else 0.02),
        ["feed_forward.w3.weight has the std of layers.2.attention.wo.weight"]),
    "depth on one branch": (
        by_name(lambda name, i: 0.02 / math.sqrt(2 * L) if name == "w2" else 0.02),
        by_name(lambda name, i: 0.02 / math.sqrt(2 * L) if name in ("w2", "wo") else 0.02),
        ["w2.weight has a std scaled by depth, 0.00816, and layers.2.attention.wo.weight has not"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MODELS)
def test_laws(mistake: str) -> None:
    wrong, sound, sentences = MODELS[mistake]
    warnings = fastinit.init_(Model(wrong), seed=0).warnings
    assert all(any(sentence in told for told in warnings) for sentence in sentences), warnings
    assert fastinit.init_(Model(sound), seed=0).warnings == ()


def test_the_bounds_of_a_real_model() -> None:
    vision = timm().models.vision_transformer.VisionTransformer
    model = vision(img_size=16, patch_size=8, embed_dim=D, depth=2, num_heads=4, num_classes=5)
    (told,) = fastinit.init_(model, "vit", seed=0).warnings
    assert "never act" in told and "pos_embed" in told and "100 std out" in told
    # By its own code, which ends where the normal distribution of float64 does.
    own = [told for told in fastinit.init_(model, seed=0).warnings if "never act" in told]
    assert len(own) == 1 and "pos_embed" in own[0]


class Decay(nn.Module):
    """The logarithm of a decay for each head, drawn from `low` to 16."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low
        self.A_log = nn.Parameter(torch.empty(8))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        rate = torch.empty(8).uniform_(self.low, 16)
        with torch.no_grad():
            self.A_log.copy_(torch.log(rate))


class Made(nn.Module):
    """The same, in a constructor alone."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low
        rate = torch.empty(8).uniform_(self.low, 16)
        self.A_log = nn.Parameter(torch.log(rate))


@pytest.mark.parametrize("kind", [Decay, Made])
def test_a_logarithm_of_zero(kind: type[nn.Module]) -> None:
    """Too rare to show in the values: once in 2^24 of them, as in OLMo-core."""
    (told,) = fastinit.init_(nn.ModuleDict({"mixer": kind(0)}), seed=0).warnings
    assert told.startswith("mixer takes the logarithm of values drawn from 0 to 16: that of 0")
    sound = nn.ModuleDict({"mixer": kind(1)})
    assert fastinit.init_(sound, seed=0).warnings == ()
    assert sound["mixer"].A_log.isfinite().all() and sound["mixer"].A_log.max() > 1


def test_a_norm_that_nothing_initializes() -> None:
    """It would keep what memory held, as llm-foundry's did after meta."""

    class Norm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(width))

    with torch.device("meta"):
        model = nn.ModuleDict({"proj": nn.Linear(4, 4), "norm": Norm(4)})
    with pytest.raises(ValueError, match=r"no code of the model initializes norm\.weight"):
        fastinit.materialize_(model, "cpu", seed=0)
    with pytest.raises(ValueError, match=r"(?s)no rule for 1 parameter:\s+norm\.weight, \(4,\)"):
        fastinit.materialize_(model, "cpu", Recipe({nn.Linear: Normal(1.0)}), seed=0)
    assert model["proj"].weight.is_meta  # nothing was done


def test_a_stale_flag_of_transformers() -> None:
    """Set where weights were on meta, it made every later initialization do nothing."""
    model, fresh = decoder(), decoder()
    for one in [*model.modules(), *model.parameters(), *model.buffers()]:
        one._is_hf_initialized = True
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    fastinit.init_(model, seed=1)
    fastinit.init_(fresh, seed=1)
    for (name, ours), theirs in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert not (ours == 7.0).any(), name
        assert_same_bits(ours.detach(), theirs.detach())


def test_parameters_that_sharding_has_taken() -> None:
    """ZeRO-3 leaves tensors of no elements, on which every initialization does nothing."""
    model = nn.ModuleDict({"lm_head": nn.Linear(4, 4, bias=False)})
    model["lm_head"].weight.data = torch.empty(0)
    (told,) = fastinit.init_(model, "llama", seed=0).warnings
    assert told == "nothing is written to lm_head.weight: the shape has no elements"
    with pytest.raises(ValueError, match=r"lm_head"):
        fastinit.init_(model, "native", seed=0)
    model["lm_head"].weight.ds_shape = torch.Size((4, 4))
    for refused in (
        lambda: llama().explain(model),
        lambda: fastinit.init_(model, "llama", seed=0),
        lambda: fastinit.init_(model, seed=0),
    ):
        with pytest.raises(ValueError, match=r"parameters without storage: lm_head\.weight;"):
            refused()


@pytest.fixture
def two_ranks() -> Any:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("two_ranks")
def test_fans_of_a_shard() -> None:
    """LoRA's A, cut along what it sums over: its std came out sqrt(ranks) too large."""
    adapter = nn.ModuleDict({"lora_A": nn.Linear(32, 8, bias=False)})
    recipe = Recipe({"lora_A.weight": Kaiming(5**0.5, distribution="uniform")})
    assert fastinit.init_(adapter, recipe, seed=0).warnings == ()
    adapter["lora_A"].weight.tensor_model_parallel = True  # as Megatron marks it
    for one in (recipe, "native"):
        (told,) = fastinit.init_(adapter, one, seed=0).warnings
        assert told.startswith("tensor parallelism has cut lora_A.weight, filled as if whole")


@pytest.mark.parametrize("recipe", ["native", "gpt2"])
def test_replicas_start_alike(recipe: str) -> None:
    """Whatever their generators did before."""
    replicas = []
    for rank in range(2):
        torch.manual_seed(rank)
        model = decoder()
        fastinit.init_(model, recipe, seed=5)
        replicas.append(model)
    pairs = zip(replicas[0].parameters(), replicas[1].parameters(), strict=True)
    for ours, theirs in pairs:
        assert_same_bits(ours.detach(), theirs.detach())
    torch.manual_seed(1)
    stock = nn.Linear(4, 4).weight
    torch.manual_seed(2)
    assert not torch.equal(stock, nn.Linear(4, 4).weight)


def test_patterns_under_activation_checkpointing() -> None:
    """Names that a wrapper had changed fitted no pattern, and nothing said so."""
    plain, wrapped = decoder(), decoder()
    for i, block in enumerate(wrapped.model.layers):
        wrapped.model.layers[i] = checkpoint_wrapper(block)
    recipe = Recipe({"model.layers.*.mlp.down_proj.weight": Normal(0.5)}, base=llama())
    ours, theirs = (fastinit.init_(model, recipe, seed=2) for model in (wrapped, plain))
    assert [(r.name, r.key, r.std) for r in ours] == [(r.name, r.key, r.std) for r in theirs]
    wrong = Recipe({"model.layers.*.mlp.down_porj.weight": Normal(0.5)}, base=llama())
    with pytest.raises(ValueError, match=r"matches nothing; nearest names: .*down_proj"):
        fastinit.init_(wrapped, wrong, seed=2)


def test_presets_that_are_sound_raise_no_remark() -> None:
    assert transformers() is not None
    for name in ("gpt2", "llama", "megatron", "mitchell", "neox", "mup", "deepnorm"):
        assert fastinit.init_(decoder(), name, seed=0).warnings == (), name
