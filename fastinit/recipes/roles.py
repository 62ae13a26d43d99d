"""Roles: the part that a parameter plays in a model, told by its name and its module's type.

Owns the one table of names, as transformers, torchtitan, Megatron, OLMo-core, OLMo, nanoGPT, timm
and torch.nn use them. Must not know laws; a preset speaks of roles and leaves names to this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from fastinit.recipes.names import Found, written_type
from fastinit.recipes.patterns import Matcher, glob, matcher

ROLES = (
    "embedding",  # of tokens
    "position",  # learned positions
    "relative_position",  # biases of attention by distance
    "token",  # learned inputs: class, register and mask tokens
    "patch",  # the convolution or projection that makes patches
    "query",
    "key",
    "value",
    "qkv",  # several of the three packed in one
    "attention_out",
    "sink",  # a learned logit beside those of the keys
    "ffn_in",
    "ffn_gate",
    "ffn_out",
    "expert_in",  # of one matrix for each expert; packed gates too
    "expert_gate",
    "expert_out",
    "router",
    "projection",  # between two widths, outside the blocks
    "head",  # from the last features to what the model predicts
    "norm",
    "centred_norm",  # whose weight is a distance from 1
    "layer_scale",  # a factor of each channel of a residual branch
    "bias",
)

GROUPS = {
    "attention_in": ("query", "key", "value", "qkv"),
    "residual_out": ("attention_out", "ffn_out", "expert_out"),
    "ffn": ("ffn_in", "ffn_gate", "ffn_out"),
    "experts": ("expert_in", "expert_gate", "expert_out"),
    "linear": (
        *("query", "key", "value", "qkv", "attention_out"),
        *("ffn_in", "ffn_gate", "ffn_out", "expert_in", "expert_gate", "expert_out"),
    ),
}

# Modules that keep their weights as (in, out), by the names of their classes.
TRANSPOSED_TYPES = frozenset(
    {
        *("Conv1D", "AriaExperts", "GptOssExperts", "Llama4TextExperts"),
        *("OpenAIPrivacyFilterExperts", "MoEMLP"),
    }
)
TRANSPOSED_WEIGHTS = frozenset({("DroplessMoEMLP", "w2")})  # alone in their module
# Lists that hold no blocks, whatever their length.
EXPERT_LISTS = frozenset({"experts", "local_experts", "expert"})
# By these a list of blocks is known among nested lists.
BLOCK_LISTS = frozenset(
    {"layers", "layer", "h", "blocks", "block", "stages", "resblocks", "layer_groups"}
)
# Norms that multiply by 1 + weight; tests/test_roles.py looks for more in transformers' sources.
_CENTRED = frozenset(
    f"{model}RMSNorm"
    for model in (
        *("Gemma", "Gemma2", "Gemma3", "RecurrentGemma", "T5Gemma", "T5Gemma2", "VaultGemma"),
        *("Qwen3Next", "Qwen3_5", "Qwen3_5Moe", "Qwen4ExpText", "MiniMaxM3VL", "Step3p7"),
        *("MuseGlimmerTextCentered", "MuseSparkTextCentered", "MuseSparkTextInputScaled"),
    )
)

_ATTENTION = "*{att,Att}*"
_MLP = "{mlp,ffn,ff,feed_forward,feedforward,DenseReluDense,mixer,channel_mixer,net}"
_EXPERTS = "**.{experts,expert}"

# The first that fits; `{att,Att}` matches attn, attention, self_attn, SelfAttention and the like.
_NAMES: tuple[tuple[str, str], ...] = (
    ("bias", "**.{*bias,b,b1,b2,beta,in_proj_bias}"),
    ("bias", "**.{*bias{0,1,2,3,4,5,6,7,8,9}*,*_bias_*}"),
    ("relative_position", "**.{relative_attention_bias,rel_pos_bias}*.weight"),
    ("relative_position", "**.{relative_position_bias_table,rel_pos_h,rel_pos_w}"),
    ("layer_scale", "**.{ls1,ls2,ls,layer_scale*,layerscale*}.{gamma,lambda1}"),
    ("layer_scale", "**.{gamma,gamma_1,gamma_2,layer_scale*,lambda_1,lambda_2}"),
    ("norm", "**.{layer_norm_weight,norm_weight}"),
    ("norm", "**.{*norm*,*Norm*,ln,ln_*,*_ln,ln1,ln2,bn,bn*}.{weight,scale,g,gamma}"),
    ("sink", "**.sinks"),
    ("token", "**.{cls_token,reg_token,register_tokens,dist_token,mask_token,class_embedding}"),
    ("token", "**.{distillation_token,cls,class_token}"),
    ("patch", "**.{patch_embed*,patch_embeddings,patch_embedding,conv_proj,conv_stem}.**weight"),
    ("patch", "**.{patch_embedding,conv_proj,conv1d_in}.weight"),
    ("position", "**.{pos_embed*,pos_emb*,position_embed*,positional_embedding,*positions}"),
    ("position", "**.{wpe,*embed_positions,*pos_emb*,*position_embed*,*pos_embed*}.**weight"),
    ("position", "**.positional_embedding.weight"),
    ("embedding", "**.{wte,*embed_tokens*,*word_embeddings*,tok_embed*,embed_in}.weight"),
    ("embedding", "**.{token*type_embeddings,token_embed*,shared,embeddings,embedding}.weight"),
    ("head", "{transformer.,}ff_out.weight"),
    (
        "head",
        "{**.,}{lm_head,output_layer,embed_out,head,heads,classifier,score,qa_outputs}.weight",
    ),
    ("head", "{**.,}{lm_head,head,heads}.**.weight"),
    ("head", "{**.,}{pooler,predictions.transform,classifier}.**.weight"),
    (
        "head",
        "{output,fc,final_linear,decoder,proj_out,predictions,cls.predictions.decoder}.weight",
    ),
    ("router", "**.{router,gate,wg,shared_expert_gate}.**weight"),
    ("router", "**.router.{weight,classifier.weight,layer.weight}"),
    ("expert_gate", f"{_EXPERTS}.**.{{w1,gate_proj,wi_0}}{{.weight,_*,}}"),
    ("expert_out", f"{_EXPERTS}.**.{{w2,down_proj,wo,output_linear}}{{.weight*,_*,}}"),
    ("expert_out", f"{_EXPERTS}.**.{{fc2,linear_fc2,mlp2}}{{.,_}}weight*"),
    ("expert_in", f"{_EXPERTS}.**.{{w3,w13,up_proj,wi,wi_1,gate_up_proj}}{{.weight*,_*,}}"),
    ("expert_in", f"{_EXPERTS}.**.{{fc1,linear_fc1,mlp1}}{{.,_}}weight*"),
    (
        "qkv",
        "**.{c_attn,query_key_value,qkv,qkv_proj,{W,w,w_}qkv,wkv,linear_qkv,att_proj,W_pack}.weight",
    ),
    ("qkv", f"**.{_ATTENTION}.**.{{in_proj,kv_proj,to_qkv,to_kv,kv,kv_a_proj_with_mqa}}.weight"),
    ("qkv", "**.{kv_a_proj_with_mqa,kv_b_proj,wkv_a,wkv_b,qkv_proj.*,linear_kv_*}.weight"),
    ("qkv", "**.in_proj_weight"),
    ("query", "**.{q_proj,query,wq,q_lin,w_q,q_a_proj,q_b_proj,wq_a,wq_b,linear_q*,to_q}.weight"),
    ("query", "**.query_proj.weight"),
    ("key", "**.{k_proj,key,key_proj,wk,k_lin,w_k,linear_k,to_k}.weight"),
    ("value", "**.{v_proj,value,value_proj,wv,v_lin,w_v,linear_v,to_v}.weight"),
    ("query", "**.{q,q_proj_weight}{.weight,}"),
    ("key", "**.{k,k_proj_weight}{.weight,}"),
    ("value", "**.{v,v_proj_weight}{.weight,}"),
    (
        "attention_out",
        f"**.{_ATTENTION}.**.{{o_proj,out_proj,c_proj,dense,wo,Wo,o,out_lin}}.weight",
    ),
    ("attention_out", f"**.{_ATTENTION}.**.{{linear_proj,proj,w_out,output,to_out.*}}.weight"),
    ("attention_out", "**.{attn_out,o_proj,linear_proj,out_lin}.weight"),
    ("ffn_out", "**.{down_proj,fc2,w2,dense_4h_to_h,lin2,linear2,linear_fc2,ff_out,fc_out}.weight"),
    ("ffn_out", f"**.{_MLP}.**.{{c_proj,wo,Wo,w_out,out_proj,proj_out,output}}.weight"),
    ("ffn_out", "**.output.dense.weight"),
    ("ffn_gate", "**.{gate_proj,w1,wi_0,fc1_g,linear_v1}.weight"),
    ("ffn_in", "**.{c_fc,fc1,up_proj,w3,dense_h_to_4h,wi,wi_1,lin1,linear1,Wi,linear_fc1}.weight"),
    ("ffn_in", "**.{ff_proj,fc_in,gate_up_proj,fc1_x,intermediate.dense}.weight"),
    ("patch", "**.{patch_embeddings.projection,patch_embed.proj,stem.proj}.weight"),
    ("head", "**.out_head.weight"),
    ("projection", "**.{*_projection,project_in,project_out,embedding_hidden_mapping_in}.weight"),
    ("projection", "**.*projector.**.weight"),
)

_KNOWN = tuple((role, glob(text)) for role, text in _NAMES)


def roles_of(name: str) -> frozenset[str]:
    """The roles that a name of a role or of a group of roles stands for.

    Raises:
        ValueError: there is none of that name.
    """
    if name in ROLES:
        return frozenset({name})
    if name in GROUPS:
        return frozenset(GROUPS[name])
    near = get_close_matches(str(name), [*ROLES, *GROUPS], n=3, cutoff=0.4)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"role must be one of {', '.join([*ROLES, *GROUPS])}, got {name!r}{nearest}")


class RoleTable:
    """What role each parameter plays, by the table and by what a recipe adds in front of it."""

    def __init__(self, added: Sequence[tuple[Matcher, str]]) -> None:
        self._added = added
        self.alike = all(pattern.alike for pattern, _ in added)
        self._found: dict[tuple[str, str, type], str | None] = {}

    def role(self, found: Found) -> str | None:
        """The role of a parameter; None if no line of the table fits."""
        if not self.alike:
            own = self._own(found)
            if own is not None:
                return own
        kind = written_type(type(found.site.link[0]))
        at = (found.site.template, found.local, kind)
        if at not in self._found:
            own = self._own(found) if self.alike else None
            self._found[at] = own or known_role(*at)
        return self._found[at]

    def _own(self, found: Found) -> str | None:
        for pattern, role in self._added:
            if pattern.matches(found, lambda _: None):
                return role
        return None


def known_role(template: str, local: str, module: type) -> str | None:
    """The role that the table tells from a name and the type of the module that owns it."""
    kind = module.__name__
    name = f"{template}.{local}" if template else local
    centred = kind in _CENTRED
    for role, pattern in _KNOWN:
        if pattern.fullmatch(name):
            return "centred_norm" if role == "norm" and centred else role
        if role == "bias":
            continue
        if "Norm" in kind and local in ("weight", "scale", "g", "gamma"):
            return "centred_norm" if centred else "norm"
    return "embedding" if kind.endswith("Embedding") and local == "weight" else None


def added_roles(roles: object) -> tuple[tuple[Matcher, str], ...]:
    """The lines that `roles={pattern: role}` puts in front of the table.

    Raises:
        TypeError: not a mapping.
        ValueError: an unknown role, or the name of a group.
    """
    if roles is None:
        return ()
    if not isinstance(roles, dict):
        raise TypeError(f"roles must map patterns to roles, got {roles!r}")
    for role in roles.values():
        if role not in ROLES:
            roles_of(role)
            raise ValueError(f"roles must give one role for each pattern, got the group {role!r}")
    return tuple((matcher(pattern, roles_of), role) for pattern, role in roles.items())
