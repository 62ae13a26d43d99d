"""Language models: the initializations of GPT-2, Llama and T5, and of those who train the like.

Each preset names its source; where sources disagree, they are different presets or variants. All
speak of roles, so that each serves every library's names. Must not know names of parameters.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from fastinit.initializers import Constant, Initializer, Normal, Ones, TruncNormal, Zeros
from fastinit.initializers.expressions import (
    Number,
    depth,
    fan_in,
    head_dim,
    layer,
    sqrt,
    width,
)
from fastinit.recipes.patterns import Role
from fastinit.recipes.recipe import Recipe

Laws: TypeAlias = dict[Any, Initializer]

OUT = Role("residual_out")
REST = Role("linear", "router", "projection", "patch", "sink")
MATRICES = Role("embedding", "position", "linear", "router", "head", "projection")
ROUTER_BIAS = "**.router.bias"
# What nearly all sources do with these.
PLAIN: Laws = {Role("norm"): Ones(), Role("centred_norm"): Zeros(), Role("bias"): Zeros()}


def preset(name: str, rules: Laws, **told: Any) -> Recipe:
    """The recipe of a preset: its rules, with `PLAIN` behind them."""
    return Recipe([*rules.items(), *PLAIN.items()], partial=True, name=name, **told)


def choose(argument: str, value: str, choices: dict[str, Laws]) -> Laws:
    """The choice of that name; a ValueError that lists all if there is none."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {list(choices)}, got {value!r}")
    return choices[value]


def gpt2(std: Number = 0.02, variant: str = "transformers", **told: Any) -> Recipe:
    """GPT-2: N(0, std), and N(0, std / sqrt(2 depth)) for what writes to the residual stream.

    Args:
        std: of all weights.
        variant: "transformers" or "nanogpt" (one law; there the head is tied); "openai" is the
            released code: no scaling by depth, positions with std / 2.
        told: roles, depth, width, head_dim and layers as `Recipe` takes them.

    Source: transformers, models/gpt2/modeling_gpt2.py; karpathy/nanoGPT, model.py; Radford et al.,
    "Language models are unsupervised multitask learners" (2019), section 2.3; openai/gpt-2,
    src/model.py.
    """
    scaled: Laws = {OUT: Normal(std / sqrt(2 * depth))}
    released: Laws = {Role("position"): Normal(std / 2)}
    variants = {"transformers": scaled, "nanogpt": scaled, "openai": released}
    rules = choose("variant", variant, variants)
    return preset("gpt2", {**rules, MATRICES: Normal(std), REST: Normal(std)}, **told)


def llama(std: Number = 0.02, **told: Any) -> Recipe:
    """Llama, Mistral, Qwen, Gemma, BERT, OPT and others as transformers has them: N(0, std).

    No scaling by depth, no truncation; norms 1 (0 where the weight is a distance from 1), biases 0,
    but for those of routers and the sinks of attention, as GPT-OSS has them: N(0, std).

    Args:
        std: the configuration's initializer_range.
        told: as for `gpt2`.

    Source: transformers, modeling_utils.py, `PreTrainedModel._init_weights`;
    models/gpt_oss/modeling_gpt_oss.py.
    """
    laws: Laws = {ROUTER_BIAS: Normal(std), MATRICES: Normal(std), REST: Normal(std)}
    return preset("llama", laws, **told)


def torchtitan(variant: str = "llama3", std: float = 0.02, **told: Any) -> Recipe:
    """Torchtitan's: scaled by 1 / sqrt(2 (layer + 1)) in w2 and w3 too; the head's std d^-1/2.

    Its truncations at +-2, in units of the weights, never act; a plan's warnings say so.

    Args:
        variant: "llama3" ("deepseek_v3" is the same), "qwen3" or "gpt_oss".
        std: of the weights that are not scaled.
        told: as for `gpt2`.

    Source: pytorch/torchtitan, models/{llama3,deepseek_v3,qwen3,gpt_oss}/__init__.py,
    models/common/param_init.py.
    """
    local = std / sqrt(2 * (layer + 1))
    flat, scaled = TruncNormal(std, cut=2 / std), TruncNormal(local, cut=2 / local)
    head: Laws = {Role("head"): TruncNormal(fan_in**-0.5, cut=3)}
    flatly = Role("attention_in", "ffn_gate", "expert_gate")
    llama3: Laws = {Role("embedding"): Normal(1.0), flatly: flat, **head}
    llama3[Role("linear", "router")] = scaled
    qwen3: Laws = {Role("attention_out", "expert_out"): Normal(std / sqrt(2 * depth))}
    qwen3[MATRICES] = Normal(std)
    gpt_oss: Laws = {Role("embedding"): Normal(std), "**.experts.**bias*": scaled, **head}
    gpt_oss[Role("linear", "router", "sink")] = scaled
    variants = {"llama3": llama3, "deepseek_v3": llama3, "qwen3": qwen3, "gpt_oss": gpt_oss}
    return preset("torchtitan", choose("variant", variant, variants), **told)


def megatron(
    std: float = 0.02,
    embedding_std: float | None = None,
    base_width: float | None = None,
    hybrid: bool = False,
    **told: Any,
) -> Recipe:
    """Megatron-LM: N(0, std), and std / sqrt(2 depth) for what writes to the residual stream.

    Args:
        std: init_method_std.
        embedding_std: embedding_init_method_std, by default std.
        base_width: with muP, the width at which std was found: hidden weights then have
            std / sqrt(width / base_width).
        hybrid: whether the factor 2 is 1, as for hybrid models.
        told: as for `gpt2`.

    Source: NVIDIA/Megatron-LM, megatron/core/utils.py, transformer_config.py, moe/router.py.
    """
    hidden: Number = std if base_width is None else std / sqrt(width / base_width)
    laws: Laws = {
        Role("embedding", "position"): Normal(std if embedding_std is None else embedding_std),
        Role("head"): Normal(std),
        OUT: Normal(hidden / sqrt(depth if hybrid else 2 * depth)),
        ROUTER_BIAS: Normal(hidden),
        REST: Normal(hidden),
    }
    return preset("megatron", laws, **told)


def olmo(
    variant: str = "normal", std: float = 0.02, embed_scale: float = 1.0, **told: Any
) -> Recipe:
    """OLMo-core's: truncated at 3 std.

    Args:
        variant: "normal": std everywhere. "llama": embeddings N(0, 1), w_out, w2 and w3 scaled by
            1 / sqrt(2 depth), in experts the router and w1 too, the head's std d^-1/2;
            "llama_depth": by 1 / sqrt(2 (layer + 1)). "fan_in": each matrix fan_in^-1/2,
            embeddings 1 / embed_scale. "full_megatron" is OLMo 1's: out scaled by
            1 / sqrt(2 depth), the head's std d^-1/2.
        std: base.
        embed_scale: what the model multiplies embeddings by, for "fan_in".
        told: as for `gpt2`.

    Source: allenai/OLMo-core, nn/transformer/init.py, nn/attention/__init__.py; allenai/OLMo,
    olmo/model.py. OLMo-core's "normalized" is missing: its rows are divided by their norms, so that
    their elements depend on one another.
    """
    head: Laws = {Role("head"): _cut_at_3(fan_in**-0.5)}
    by_fan: Laws = {Role("embedding"): Normal(1 / embed_scale)}
    by_fan[Role("linear", "router", "head")] = _cut_at_3(fan_in**-0.5)
    variants: dict[str, Laws] = {
        "normal": {},
        "llama": {**_olmo_llama(std, sqrt(2 * depth)), **head},
        "llama_depth": {**_olmo_llama(std, sqrt(2 * (layer + 1))), **head},
        "fan_in": by_fan,
        "full_megatron": {OUT: _cut_at_3(std / sqrt(2 * depth)), **head},
    }
    rules = choose("variant", variant, variants)
    return preset("olmo", {**rules, MATRICES: _cut_at_3(std)}, **told)


def _cut_at_3(std: Number) -> Initializer:
    return TruncNormal(std, cut=3)


def _olmo_llama(std: float, scale: Number) -> Laws:
    return {
        Role("embedding"): Normal(1.0),
        Role("attention_in", "ffn_gate"): _cut_at_3(std),
        Role("linear", "router"): _cut_at_3(std / scale),
    }


def mitchell(**told: Any) -> Recipe:
    """OLMo 1's: std width^-1/2, and 1 / sqrt(2 fan_in (layer + 1)) for what writes to the stream.

    Args:
        told: as for `gpt2`.

    Source: allenai/OLMo, olmo/model.py; truncated at 3 std.
    """
    laws: Laws = {
        Role("attention_out"): _cut_at_3(1 / sqrt(2 * width * (layer + 1))),
        Role("ffn_out", "expert_out"): _cut_at_3(1 / sqrt(2 * fan_in * (layer + 1))),
        MATRICES: _cut_at_3(width**-0.5),
    }
    return preset("mitchell", laws, **told)


def neox(**told: Any) -> Recipe:
    """GPT-NeoX-20B and Pythia: N(0, sqrt(2 / (5 d))), N(0, 2 / (L sqrt(d))) for what writes.

    Args:
        told: as for `gpt2`.

    Source: EleutherAI/gpt-neox, megatron/model/init_functions.py; the first law is that of Nguyen
    and Salazar, "Transformers without tears" (2019).
    """
    small, wang = sqrt(2 / (5 * width)), 2 / (depth * sqrt(width))
    return preset("neox", {OUT: Normal(wang), MATRICES: Normal(small)}, **told)


def t5(factor: float = 1.0, **told: Any) -> Recipe:
    """T5: fan_in^-1/2, queries (width head_dim)^-1/2, embeddings and the head of words 1.

    Args:
        factor: initializer_factor, of every std and of the norms.
        told: as for `gpt2`.

    Source: transformers, models/t5/modeling_t5.py.
    """
    laws: Laws = {
        "**.{qa_outputs,classification_head.*}.weight": Normal(factor / sqrt(width)),
        Role("embedding", "head"): Normal(factor),
        Role("query"): Normal(factor / sqrt(fan_in * head_dim)),
        Role("linear"): Normal(factor / sqrt(fan_in)),
        Role("relative_position"): Normal(factor / sqrt(width)),
        Role("norm"): Constant(factor),
    }
    return preset("t5", laws, **told)
