"""Presets: the law of every parameter, against the real implementation or against the formula.

Each comparison fails a right preset with a chance of ALPHA (two-sample or one-sample KS, Holm over
the parameters; constants have to be equal), with fixed seeds. Each kind of comparison has a twin in
which the law is wrong in the way that people get it wrong, and is noticed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _clients import timm, transformers
from _recipes import departing, differing, filled
from scipy import stats
from torch import Tensor, nn

from fastinit.initializers import Normal
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
    t5,
    torchtitan,
    vit,
)
from fastinit.recipes import torch as torch_preset

L, D, F, V, HEADS = 3, 64, 160, 96, 4


def twin(model: nn.Module, recipe: Recipe, seed: int = 0) -> nn.Module:
    return filled(copy.deepcopy(model), recipe, seed)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


# ------------------------------------------------------------------------------------ transformers


def gpt2_model(**told: Any) -> nn.Module:
    tf = transformers()
    config = tf.GPT2Config(
        n_layer=L, n_embd=D, n_head=HEADS, vocab_size=V, n_positions=32, bos_token_id=0,
        eos_token_id=0, **told,
    )  # fmt: skip
    return built(lambda: tf.GPT2LMHeadModel(config))


def llama_model(cls: str = "Llama", **told: Any) -> nn.Module:
    tf = transformers()
    config = getattr(tf, f"{cls}Config")(
        hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=HEADS,
        num_key_value_heads=2, vocab_size=V, pad_token_id=3, bos_token_id=0, eos_token_id=0, **told,
    )  # fmt: skip
    return built(lambda: getattr(tf, f"{cls}ForCausalLM")(config))


def t5_model(**told: Any) -> nn.Module:
    tf = transformers()
    config = tf.T5Config(
        d_model=D, d_kv=24, d_ff=F, num_layers=2, num_heads=HEADS, vocab_size=V, **told
    )
    return built(lambda: tf.T5ForConditionalGeneration(config))


def bert_model() -> nn.Module:
    tf = transformers()
    config = tf.BertConfig(
        hidden_size=D, intermediate_size=F, num_hidden_layers=2, num_attention_heads=HEADS,
        vocab_size=V, pad_token_id=0,
    )  # fmt: skip
    return built(lambda: tf.BertForMaskedLM(config))


def opt_model() -> nn.Module:
    tf = transformers()
    config = tf.OPTConfig(
        hidden_size=D, ffn_dim=F, num_hidden_layers=2, num_attention_heads=HEADS, vocab_size=V,
        word_embed_proj_dim=D, max_position_embeddings=32,
    )  # fmt: skip
    return built(lambda: tf.OPTForCausalLM(config))


def vit_model() -> nn.Module:
    tf = transformers()
    config = tf.ViTConfig(
        hidden_size=D, intermediate_size=F, num_hidden_layers=2, num_attention_heads=HEADS,
        image_size=32, patch_size=8,
    )  # fmt: skip
    return built(lambda: tf.ViTForImageClassification(config))


REAL: list[tuple[str, Callable[[], nn.Module], Recipe]] = [
    ("GPT-2", gpt2_model, gpt2()),
    ("GPT-2, another range", lambda: gpt2_model(initializer_range=0.05), gpt2(std=0.05)),
    ("Llama", llama_model, llama()),
    ("Qwen3", lambda: llama_model("Qwen3"), llama()),
    ("Gemma 2", lambda: llama_model("Gemma2", head_dim=16), llama()),
    ("Mixtral", lambda: llama_model("Mixtral", num_local_experts=2), llama()),
    ("BERT", bert_model, llama()),
    ("OPT", opt_model, llama()),
    ("T5", t5_model, t5()),
    ("T5, gated, untied", lambda: t5_model(feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, initializer_factor=0.5), t5(0.5)),
    ("ViT", vit_model, vit("transformers")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "recipe"), [r[1:] for r in REAL], ids=[r[0] for r in REAL])
def test_as_transformers(make: Callable[[], nn.Module], recipe: Recipe) -> None:
    theirs = make()
    assert differing(twin(theirs, recipe), theirs) == []


@pytest.mark.parametrize(
    ("make", "wrong", "seen"),
    [
        (gpt2_model, llama(), "c_proj"),  # no scaling by depth
        (gpt2_model, gpt2(std=0.026), "wte"),
        (llama_model, gpt2(), "o_proj"),
        (t5_model, t5(head_dim=64), "SelfAttention.q"),
        (t5_model, t5(1.3), "shared"),
        (vit_model, vit("jax"), "mlp"),
    ],
    ids=["depth", "std", "depth too many", "head", "factor", "mode"],
)
def test_a_wrong_law_is_seen(make: Callable[[], nn.Module], wrong: Recipe, seen: str) -> None:
    theirs = make()
    assert any(seen in name for name in differing(twin(theirs, wrong), theirs))


# -------------------------------------------------------------------------------------------- timm


def timm_vit(mode: str, fix: bool = False) -> nn.Module:
    package = timm()
    return built(
        lambda: package.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=D, depth=3, num_heads=HEADS, num_classes=20,
            weight_init=mode, fix_init=fix,
        )
    )  # fmt: skip


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize("mode", ["", "jax", "jax_nlhb", "moco"])
def test_as_timm(mode: str, fix: bool) -> None:
    theirs = timm_vit(mode, fix)
    head_bias = -math.log(20) if mode == "jax_nlhb" else 0.0
    ours = twin(theirs, vit(mode, fix_init=fix, head_bias=head_bias))
    if mode == "jax_nlhb":
        assert torch.allclose(ours.head.bias, theirs.head.bias)
        theirs.head.bias.data.copy_(ours.head.bias)  # float32 of the same number, or one beside it
    assert differing(ours, theirs) == []


def test_a_wrong_mode_is_seen() -> None:
    wrong = differing(twin(timm_vit("moco"), vit("jax")), timm_vit("moco"))
    assert any("qkv.weight" in name for name in wrong) and "patch_embed.proj.weight" in wrong
    unfixed = differing(twin(timm_vit("", True), vit("")), timm_vit("", True))
    assert any("attn.proj.weight" in name for name in unfixed)


# ------------------------------------------------------------------------------------------- torch

MODULES: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(48, 32),
    lambda: nn.Conv2d(8, 16, 3, groups=2),
    lambda: nn.Conv1d(8, 16, 5),
    lambda: nn.Conv3d(4, 8, 3),
    lambda: nn.ConvTranspose2d(8, 12, 3, groups=2),
    lambda: nn.Bilinear(12, 20, 16),
    lambda: nn.LSTM(24, 20, num_layers=2, proj_size=12),
    lambda: nn.GRU(24, 20, bidirectional=True),
    lambda: nn.RNN(24, 20),
    lambda: nn.LSTMCell(24, 20),
    lambda: nn.GRUCell(24, 20),
    lambda: nn.RNNCell(24, 20),
    lambda: nn.Embedding(64, 16, padding_idx=3),
    lambda: nn.EmbeddingBag(64, 16),
    lambda: nn.MultiheadAttention(32, 4),
    lambda: nn.MultiheadAttention(32, 4, kdim=24, vdim=16, add_bias_kv=True),
    lambda: nn.TransformerEncoderLayer(32, 4, 64),
    lambda: nn.Transformer(32, 4, 1, 1, 64),
    lambda: nn.Sequential(nn.BatchNorm2d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.PReLU(3)),
    lambda: nn.Sequential(nn.InstanceNorm1d(4, affine=True), nn.RMSNorm(8)),
]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("make", MODULES, ids=[str(i) for i in range(len(MODULES))])
def test_as_torch(make: Callable[[], nn.Module]) -> None:
    theirs = built(make)
    assert differing(twin(theirs, torch_preset()), theirs) == []


def test_another_law_than_torchs_is_seen() -> None:
    theirs = built(lambda: nn.LSTM(48, 40))
    wrong = Recipe({"weight*": Normal((3 * 40) ** -0.5)}, base="torch")  # the same variance
    assert sorted(differing(twin(theirs, wrong), theirs)) == ["weight_hh_l0", "weight_ih_l0"]


# ---------------------------------------------------------------------------------------- formulas

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
    assert departing(unpadded(twin(llama_model(), recipe)), law) == []


def test_another_formula_is_seen() -> None:
    laws = {name: law for name, _, law in FORMULAS}
    wrong = departing(unpadded(twin(llama_model(), torchtitan())), laws["olmo llama"])
    assert any("o_proj" in name for name in wrong)
    untruncated = departing(unpadded(twin(llama_model(), llama(0.0215))), laws["olmo normal"])
    assert untruncated
    assert departing(unpadded(twin(llama_model(), mup(20, 0.04))), laws["mup"])


def test_gpt_oss_of_torchtitan() -> None:
    model = twin(llama_model("GptOss", head_dim=16, num_local_experts=2), torchtitan("gpt_oss"))

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
