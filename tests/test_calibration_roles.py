"""Transformers are calibrated by the role of each weight: packed, tied, experts, depth."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _calibrating import batch, products, std
from _clients import timm, transformers
from torch import Tensor, nn

import fastinit
from fastinit.recipes import depth, sqrt


def gpt2() -> Any:
    package = transformers()
    config = package.GPT2Config(
        n_layer=3, n_embd=32, n_head=2, vocab_size=64, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    return package.GPT2LMHeadModel(config).eval()


def llama(**more: Any) -> Any:
    package = transformers()
    config = package.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    return package.LlamaForCausalLM(config).eval()


TOKENS = torch.arange(128).view(4, 32) * 37 % 64


def test_gpt2_by_role() -> None:
    model = gpt2()
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, {"input_ids": TOKENS})
    out = products(model, input_ids=TOKENS)
    for at in range(3):
        block = f"transformer.h.{at}"
        assert std(out[f"{block}.attn.c_proj"]) == pytest.approx(6**-0.5, rel=1e-4)
        assert std(out[f"{block}.mlp.c_proj"]) == pytest.approx(6**-0.5, rel=1e-4)
        assert std(out[f"{block}.mlp.c_fc"]) == pytest.approx(1.0, rel=1e-4)
        assert std(out[f"{block}.attn.c_attn"][..., 64:]) == pytest.approx(1.0, rel=1e-4)
        q_and_k = model.state_dict()[f"{block}.attn.c_attn.weight"][:, :64]
        assert torch.equal(q_and_k, before[f"{block}.attn.c_attn.weight"][:, :64])
    assert torch.equal(model.transformer.wte.weight, before["transformer.wte.weight"])
    assert model.lm_head.weight is model.transformer.wte.weight
    left = {record.name: record.note for record in result if record.target is None}
    assert left["transformer.wte.weight"] == left["lm_head.weight"] == "embedding"
    assert left["transformer.h.0.attn.c_attn.weight[0:32]"] == "sets the softmax"


def test_llama_by_role() -> None:
    model = llama()
    result = fastinit.calibrate_(model, TOKENS)
    targets = {record.name: record.target for record in result}
    layer = "model.layers.2"
    assert targets[f"{layer}.self_attn.q_proj.weight"] is None
    assert targets[f"{layer}.self_attn.v_proj.weight"] == 1.0
    assert targets[f"{layer}.self_attn.o_proj.weight"] == pytest.approx(8**-0.5)
    assert targets[f"{layer}.mlp.down_proj.weight"] == pytest.approx(8**-0.5)
    assert targets["lm_head.weight"] is None and targets["model.embed_tokens.weight"] is None
    out = products(model, TOKENS)
    assert std(out["model.layers.2.mlp.down_proj"]) == pytest.approx(8**-0.5, rel=1e-4)


def test_packed_projections_of_phi3_go_by_slices() -> None:
    package = transformers()
    config = package.Phi3Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = package.Phi3ForCausalLM(config).eval()
    fastinit.calibrate_(model, TOKENS)
    out = products(model, TOKENS)
    assert std(out["model.layers.0.self_attn.qkv_proj"][..., 48:]) == pytest.approx(1, rel=1e-4)
    halves = out["model.layers.0.mlp.gate_up_proj"].chunk(2, -1)
    assert [std(half) for half in halves] == pytest.approx([1.0, 1.0], rel=1e-4)


def test_slices_can_be_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 12)), batch(64, 8)
    fastinit.calibrate_(model, x, targets={"**": ((4, None), (2, 0.5), (6, 2.0))})
    out = products(model, x)["0"]
    assert [std(out[:, 4:6]), std(out[:, 6:])] == pytest.approx([0.5, 2.0], rel=1e-5)


def test_interleaved_heads_are_left_alone() -> None:
    package = transformers()
    config = package.GPTNeoXConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    result = fastinit.calibrate_(package.GPTNeoXForCausalLM(config).eval(), TOKENS)
    notes = {record.name: record.note for record in result}
    assert notes["gpt_neox.layers.0.attention.query_key_value.weight"] == "packed, order unknown"


@pytest.mark.parametrize("train", [True, False])
def test_torch_encoder(train: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(train)
    x = batch(8, 16, 32)
    fastinit.calibrate_(model, x)
    attention = model.layers[0].self_attn
    out = attention(x, x, x, need_weights=False)[0] - attention.out_proj.bias
    assert std(out) == pytest.approx(0.5, rel=1e-4)


def test_vit_of_timm() -> None:
    package = timm()
    torch.manual_seed(0)
    model = package.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=32, num_heads=2
    ).eval()
    x = batch(8, 3, 32, 32)
    fastinit.calibrate_(model, x)
    out = products(model, x)
    assert std(out["blocks.1.mlp.fc2"]) == pytest.approx(6**-0.5, rel=1e-4)
    assert std(out["blocks.1.attn.qkv"][..., 64:]) == pytest.approx(1.0, rel=1e-4)


def test_experts_with_few_rows_are_left_alone() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(8, 8)
            self.experts = nn.ModuleList([nn.ModuleDict({"w1": nn.Linear(8, 8)}) for _ in "ab"])

        def forward(self, x: Tensor) -> Tensor:
            x = self.q_proj(x)
            return torch.cat([self.experts[0]["w1"](x[:300]), self.experts[1]["w1"](x[300:])])

    torch.manual_seed(0)
    result = fastinit.calibrate_(Mixture(), batch(400, 8))
    found = {record.name: record for record in result}
    assert found["experts.0.w1.weight"].after == pytest.approx(1.0, rel=1e-5)
    assert found["experts.1.w1.weight"].target is None
    assert "100 rows" in found["experts.1.w1.weight"].note


def test_targets_take_expressions_and_depth_can_be_told() -> None:
    model = llama()
    rules = {"**.down_proj.weight": 1 / sqrt(depth)}
    result = fastinit.calibrate_(model, TOKENS, targets=rules, depth=16)
    targets = {record.name: record.target for record in result}
    assert targets["model.layers.0.mlp.down_proj.weight"] == pytest.approx(0.25)
    assert targets["model.layers.0.self_attn.o_proj.weight"] == pytest.approx(32**-0.5)


def test_an_ambiguous_depth_has_to_be_told() -> None:
    package = transformers()
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "vocab_size": 64}
    torch.manual_seed(0)
    config = package.T5Config(num_layers=3, decoder_start_token_id=0, **sizes)
    model = package.T5ForConditionalGeneration(config).eval()
    x = {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    with pytest.raises(ValueError, match="give depth="):
        fastinit.calibrate_(model, x)
    result = fastinit.calibrate_(model, x, depth={"encoder.**": 3, "decoder.**": 4.5})
    targets = {record.name: record.target for record in result}
    assert targets["encoder.block.0.layer.0.SelfAttention.o.weight"] == pytest.approx(6**-0.5)
    assert targets["decoder.block.2.layer.2.DenseReluDense.wo.weight"] == pytest.approx(9**-0.5)


def test_the_table_fits_a_terminal() -> None:
    text = str(fastinit.calibrate_(gpt2(), TOKENS))
    assert max(map(len, text.splitlines())) <= 80
    assert "transformer.h.0.attn.c_attn[64:96]" in text
