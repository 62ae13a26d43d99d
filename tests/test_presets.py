"""Presets: the law of every parameter, against the implementation that a preset stands for.

Each comparison fails a right preset with a chance of ALPHA (two-sample or one-sample KS, Holm over
the parameters; constants have to be equal), with fixed seeds. Each kind of comparison has a twin in
which the law is wrong in the way that people get it wrong, and is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _clients import timm, transformers
from _recipes import HEADS, D, F, L, V, built, decoder, differing, twin
from torch import nn

from fastinit.initializers import Normal
from fastinit.recipes import (
    Recipe,
    gpt2,
    llama,
    t5,
    vit,
)
from fastinit.recipes import torch as torch_preset

# ------------------------------------------------------------------------------------ transformers


def gpt2_model(**told: Any) -> nn.Module:
    tf = transformers()
    config = tf.GPT2Config(
        n_layer=L, n_embd=D, n_head=HEADS, vocab_size=V, n_positions=32, bos_token_id=0,
        eos_token_id=0, **told,
    )  # fmt: skip
    return built(lambda: tf.GPT2LMHeadModel(config))


def t5_model(task: str = "ConditionalGeneration", **told: Any) -> nn.Module:
    tf = transformers()
    config = tf.T5Config(
        d_model=D, d_kv=24, d_ff=F, num_layers=2, num_heads=HEADS, vocab_size=V, **told
    )
    return built(lambda: getattr(tf, f"T5For{task}")(config))


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


def vit_model(masked: bool = False) -> nn.Module:
    tf = transformers()
    config = tf.ViTConfig(
        hidden_size=D, intermediate_size=F, num_hidden_layers=2, num_attention_heads=HEADS,
        image_size=32, patch_size=8,
    )  # fmt: skip
    if masked:
        return built(lambda: tf.ViTModel(config, use_mask_token=True))
    return built(lambda: tf.ViTForImageClassification(config))


MOE = {"num_experts": 3, "moe_intermediate_size": 48, "head_dim": 16}
MLA = {
    "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 48, "first_k_dense_replace": 1, "q_lora_rank": 24, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
REAL: list[tuple[str, Callable[[], nn.Module], Recipe]] = [
    ("GPT-2", gpt2_model, gpt2()),
    ("GPT-2, another range", lambda: gpt2_model(initializer_range=0.05), gpt2(std=0.05)),
    ("Llama", decoder, llama()),
    ("Qwen3", lambda: decoder("Qwen3"), llama()),
    ("Gemma 2", lambda: decoder("Gemma2", head_dim=16), llama()),
    ("Mixtral", lambda: decoder("Mixtral", num_local_experts=2), llama()),
    ("GPT-OSS", lambda: decoder("GptOss", head_dim=16, num_local_experts=2), llama()),
    ("Qwen3 MoE", lambda: decoder("Qwen3Moe", **MOE), llama()),
    ("DeepSeek-V3", lambda: decoder("DeepseekV3", **MLA), llama()),
    ("BERT", bert_model, llama()),
    ("OPT", opt_model, llama()),
    ("T5", t5_model, t5()),
    ("T5, gated, untied", lambda: t5_model(feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, initializer_factor=0.5), t5(0.5)),
    ("T5, questions", lambda: t5_model("QuestionAnswering"), t5()),
    ("T5, classes of sequences", lambda: t5_model("SequenceClassification"), t5()),
    ("T5, classes of tokens", lambda: t5_model("TokenClassification"), t5()),
    ("ViT", vit_model, vit("transformers")),
    ("ViT, masked", lambda: vit_model(True), vit("transformers")),
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
        (decoder, gpt2(), "o_proj"),
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
@pytest.mark.parametrize("mode", ["", "jax", "jax_nlhb", "moco", "reset"])
def test_as_timm(mode: str, fix: bool) -> None:
    theirs = timm_vit(mode, fix)
    ours = twin(theirs, vit(mode, fix_init=fix))
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
