"""Roles: the names that libraries give their parameters, and what part each plays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _clients import transformers
from torch import nn

from fastinit.recipes.names import template_of
from fastinit.recipes.roles import GROUPS, ROLES, TRANSPOSED_TYPES, known_role, roles_of

# As each library spells them, in the order of its forward pass.
NAMES = {
    "torchtitan": """
        tok_embeddings.weight                               embedding
        layers.0.attention.wq.weight                        query
        layers.0.attention.wq_a.weight                      query
        layers.0.attention.wkv_a.weight                     qkv
        layers.0.attention.kv_norm.weight                   norm
        layers.0.attention.qkv_linear.wq.weight             query
        layers.0.attention.qkv_linear.wkv.weight            qkv
        layers.0.attention.qkv_linear.wqkv.weight           qkv
        layers.0.attention.sinks                            sink
        layers.0.attention.wo.weight                        attention_out
        layers.0.attention_norm.weight                      norm
        layers.0.feed_forward.w1.weight                     ffn_gate
        layers.0.feed_forward.w2.weight                     ffn_out
        layers.0.feed_forward.w3.weight                     ffn_in
        layers.0.moe.router.gate.weight                     router
        layers.0.moe.router.gate.bias                       bias
        layers.0.moe.experts.w1                             expert_gate
        layers.0.moe.experts.w1_EFD                         expert_gate
        layers.0.moe.experts.w2_EDF                         expert_out
        layers.0.moe.experts.w3_EFD                         expert_in
        layers.0.moe.experts.mlp1_weight_EGD                expert_in
        layers.0.moe.experts.mlp1_bias_EG                   bias
        layers.0.moe.experts.mlp2_weight_EDF                expert_out
        layers.0.moe.shared_experts.w2.weight               ffn_out
        output.weight                                       head
        lm_head.weight                                      head""",
    "Megatron": """
        embedding.word_embeddings.weight                    embedding
        embedding.position_embeddings.weight                position
        embedding.tokentype_embeddings.weight               embedding
        decoder.layers.0.self_attention.linear_qkv.layer_norm_weight  norm
        decoder.layers.0.self_attention.linear_qkv.weight   qkv
        decoder.layers.0.self_attention.linear_q_down_proj.weight     query
        decoder.layers.0.self_attention.linear_kv_up_proj.weight      qkv
        decoder.layers.0.self_attention.linear_proj.weight  attention_out
        decoder.layers.0.mlp.linear_fc1.weight              ffn_in
        decoder.layers.0.mlp.linear_fc2.weight              ffn_out
        decoder.layers.0.mlp.linear_fc2.bias                bias
        decoder.layers.0.mlp.router.weight                  router
        decoder.layers.0.mlp.experts.linear_fc1.weight0     expert_in
        decoder.layers.0.mlp.experts.linear_fc2.weight7     expert_out
        decoder.layers.0.mlp.experts.linear_fc2.bias7       bias
        decoder.layers.0.mlp.experts.local_experts.3.linear_fc2.weight  expert_out
        decoder.layers.0.mlp.shared_experts.linear_fc2.weight           ffn_out
        decoder.final_layernorm.weight                      norm
        output_layer.weight                                 head""",
    "OLMo-core": """
        embeddings.weight                                   embedding
        blocks.0.attention_norm.weight                      norm
        blocks.0.attention.w_q.weight                       query
        blocks.0.attention.w_qkv.weight                     qkv
        blocks.0.attention.q_norm.weight                    norm
        blocks.0.attention.w_out.weight                     attention_out
        blocks.0.feed_forward.w1.weight                     ffn_gate
        blocks.0.feed_forward_moe.router.weight             router
        blocks.0.feed_forward_moe.experts.mlp.w1            expert_gate
        blocks.0.feed_forward_moe.experts.mlp.w2            expert_out
        lm_head.norm.weight                                 norm
        lm_head.w_out.weight                                head""",
    "OLMo": """
        transformer.wte.weight                              embedding
        transformer.blocks.0.att_proj.weight                qkv
        transformer.blocks.0.q_proj.weight                  query
        transformer.blocks.0.attn_out.weight                attention_out
        transformer.blocks.0.ff_proj.weight                 ffn_in
        transformer.blocks.0.ff_out.weight                  ffn_out
        transformer.blocks.0.attn_norm.weight               norm
        transformer.ln_f.weight                             norm
        transformer.ff_out.weight                           head""",
    "nanoGPT": """
        transformer.wte.weight                              embedding
        transformer.wpe.weight                              position
        transformer.h.0.ln_1.weight                         norm
        transformer.h.0.attn.c_attn.weight                  qkv
        transformer.h.0.attn.c_proj.weight                  attention_out
        transformer.h.0.mlp.c_fc.weight                     ffn_in
        transformer.h.0.mlp.c_proj.weight                   ffn_out
        transformer.h.0.mlp.c_proj.bias                     bias
        lm_head.weight                                      head""",
    "GPT-NeoX": """
        word_embeddings.weight                              embedding
        transformer.layers.0.attention.query_key_value.weight  qkv
        transformer.layers.0.attention.dense.weight         attention_out
        transformer.layers.0.mlp.dense_h_to_4h.weight       ffn_in
        transformer.layers.0.mlp.dense_4h_to_h.weight       ffn_out
        final_linear.weight                                 head""",
    "transformers": """
        model.embed_tokens.weight                           embedding
        model.layers.0.self_attn.q_proj.weight              query
        model.layers.0.self_attn.kv_a_proj_with_mqa.weight  qkv
        model.layers.0.self_attn.kv_b_proj.weight           qkv
        model.layers.0.self_attn.q_a_layernorm.weight       norm
        model.layers.0.self_attn.o_proj.weight              attention_out
        model.layers.0.mlp.gate_proj.weight                 ffn_gate
        model.layers.0.mlp.down_proj.weight                 ffn_out
        model.layers.0.mlp.gate.weight                      router
        model.layers.0.mlp.experts.gate_up_proj             expert_in
        model.layers.0.mlp.experts.gate_up_proj_bias        bias
        model.layers.0.mlp.experts.down_proj                expert_out
        model.layers.0.mlp.experts.3.gate_proj.weight       expert_gate
        model.layers.0.mlp.shared_expert.down_proj.weight   ffn_out
        model.layers.0.mlp.shared_expert_gate.weight        router
        model.layers.0.block_sparse_moe.experts.0.w2.weight expert_out
        model.layers.0.attn.Wqkv.weight                     qkv
        model.layers.0.attn.Wo.weight                       attention_out
        model.layers.0.mlp.Wi.weight                        ffn_in
        model.layers.0.mlp.Wo.weight                        ffn_out
        bert.embeddings.token_type_embeddings.weight        embedding
        bert.embeddings.position_embeddings.weight          position
        bert.encoder.layer.0.attention.self.query.weight    query
        bert.encoder.layer.0.attention.output.dense.weight  attention_out
        bert.encoder.layer.0.intermediate.dense.weight      ffn_in
        bert.encoder.layer.0.output.dense.weight            ffn_out
        bert.pooler.dense.weight                            head
        cls.predictions.transform.dense.weight              head
        gpt_neox.embed_in.weight                            embedding
        embed_out.weight                                    head
        shared.weight                                       embedding
        encoder.block.0.layer.0.SelfAttention.q.weight      query
        encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight  relative_position
        encoder.block.0.layer.1.DenseReluDense.wo.weight    ffn_out""",
    "timm": """
        cls_token                                           token
        pos_embed                                           position
        patch_embed.proj.weight                             patch
        blocks.0.attn.qkv.weight                            qkv
        blocks.0.attn.proj.weight                           attention_out
        blocks.0.ls1.gamma                                  layer_scale
        blocks.0.mlp.fc1.weight                             ffn_in
        blocks.0.mlp.fc2.weight                             ffn_out
        head.weight                                         head""",
}


@pytest.mark.parametrize("library", NAMES)
def test_names_of_libraries(library: str) -> None:
    wrong = {}
    for line in NAMES[library].strip().splitlines():
        name, role = line.split()
        template, _, local = template_of(name).rpartition(".")
        found = known_role(template, local, nn.Module)
        if found != role:
            wrong[name] = (found, role)
    assert wrong == {}


def test_names_that_say_nothing_have_no_role() -> None:
    for name in ("frobnicate.weight", "layers.0.mixer.A_log", "scale", "experts.3.lora_A.weight"):
        template, _, local = template_of(name).rpartition(".")
        assert known_role(template, local, nn.Module) is None


def test_a_group_stands_for_its_roles() -> None:
    assert all(roles_of(group) == set(roles) <= set(ROLES) for group, roles in GROUPS.items())
    assert all(roles_of(role) == {role} for role in ROLES)


def test_experts_that_keep_in_and_out_exchanged_are_known() -> None:
    """Those of transformers, by their sources: packed gates stand last in (experts, in, out)."""
    models = Path(transformers().__file__).parent / "models"
    packed = re.compile(r"gate_up_proj = nn\.Parameter\(\s*torch\.\w+\(.*, 2 \* [\w.]+\)\)")
    found = {
        text[: re.search(r"\W", text).start()]
        for path in models.glob("*/modeling_*.py")
        for text in re.split(r"^class ", path.read_text(), flags=re.MULTILINE)[1:]
        if packed.search(text)
    }
    assert len(found) > 2 and found <= TRANSPOSED_TYPES


def test_norms_that_are_centred_are_known() -> None:
    """Those of transformers, by their sources: a weight of 1 would double what they put out."""
    models = Path(transformers().__file__).parent / "models"
    wrong = []
    for path in models.glob("*/modeling_*.py"):
        for text in re.split(r"^class ", path.read_text(), flags=re.MULTILINE)[1:]:
            name = text[: re.search(r"\W", text).start()]
            centred = re.search(r"\(1(\.0)? \+ self\.weight", text) is not None
            role = known_role("norm", "weight", type(name, (nn.Module,), {}))
            if "Norm" in name and centred != (role == "centred_norm"):
                wrong.append(name)
    assert wrong == []
