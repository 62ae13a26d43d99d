"""Schemes for depth and width: muP, the spectral condition, DeepNorm, SIREN.

Each names its source. Must not know names of parameters: all speak of roles or module classes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fastinit.initializers import Normal, Uniform, Xavier, Zeros
from fastinit.initializers.expressions import Number, depth, fan_in, fan_out, min, sqrt, width
from fastinit.recipes.patterns import First, Role
from fastinit.recipes.presets.language import Laws, preset
from fastinit.recipes.recipe import Recipe


def mup(
    base_width: float = 256,
    std: float = 0.02,
    *,
    scale_out: bool = False,
    zero_query: bool = False,
    zero_head: bool = False,
    **told: Any,
) -> Recipe:
    """muP's initialization: hidden weights N(0, std / sqrt(m)), m = width / base_width.

    Embeddings, positions and the head keep std. The rest of muP is the model's and the optimizer's:
    logits times 1 / m, attention scaled by 1 / head width, hidden learning rates over m.

    Args:
        base_width: the width at which std was found.
        std: at that width.
        scale_out: whether what writes to the residual stream has a further 1 / sqrt(2 depth).
        zero_query, zero_head: whether these start at 0, as the mup library recommends.
        told: as for `gpt2`.

    Source: Yang et al., "Tensor programs V" (2022), table 8; EleutherAI/nanoGPT-mup, model.py;
    microsoft/mup, README.
    """
    hidden = std / sqrt(width / base_width)
    laws: Laws = {Role("query"): Zeros()} if zero_query else {}
    if scale_out:
        laws[Role("residual_out")] = Normal(hidden / sqrt(2 * depth))
    laws[Role("embedding", "position", "token", "patch")] = Normal(std)
    laws[Role("linear", "router")] = Normal(hidden)
    laws[Role("head")] = Zeros() if zero_head else Normal(std)
    return preset("mup", laws, **told)


def spectral(**told: Any) -> Recipe:
    """The spectral condition: std fan_in^-1/2 min(1, sqrt(fan_out / fan_in)), embeddings N(0, 1).

    Args:
        told: as for `gpt2`.

    Source: Yang, Simon and Bernstein, "A spectral condition for feature learning" (2023), as in
    huggingface/nanotron, scaling/parametrization.py.
    """
    law = Normal(fan_in**-0.5 * min(1, sqrt(fan_out / fan_in)))
    laws: Laws = {Role("embedding", "position"): Normal(1.0)}
    laws[Role("linear", "router", "head")] = law
    return preset("spectral", laws, **told)


def deepnorm(
    encoder_layers: int | None = None,
    decoder_layers: int | None = None,
    *,
    encoder_factor: float = 0.87,
    **told: Any,
) -> Recipe:
    """DeepNorm: Xavier's normal law, with gain beta for values, attention output and FFN.

    beta = (8 depth)^-1/4; of N encoder and M decoder layers, 0.87 (N^4 M)^-1/16 in the encoder and
    (12 M)^-1/4 in the decoder. The model multiplies residuals by alpha. Embeddings N(0, d^-1/2).

    Args:
        encoder_layers, decoder_layers: N and M, for models that have both.
        encoder_factor: the paper's 0.87 = 1 / 1.15; microsoft/torchscale has 1.15 in its place.
        told: as for `gpt2`. A packed qkv has no rule, as its parts need different gains.

    Source: Wang et al., "DeepNet: scaling transformers to 1,000 layers" (2022), figure 2; the
    embeddings as in fairseq; microsoft/torchscale, architecture/encoder.py.
    """
    roles = ("value", "attention_out", "ffn", "experts")
    laws: Laws = {Role(*roles): Xavier((8 * depth) ** -0.25)}
    if encoder_layers is not None and decoder_layers is not None:
        encoder = encoder_factor * (encoder_layers**4 * decoder_layers) ** (-1 / 16)
        laws = {
            Role(*roles, under="**.encoder.**"): Xavier(encoder),
            Role(*roles, under="**.decoder.**"): Xavier((12 * decoder_layers) ** -0.25),
        }
    elif encoder_layers is not None or decoder_layers is not None:
        told["depth"] = encoder_layers or decoder_layers
    laws[Role("query", "key", "head", "router")] = Xavier()
    laws[Role("embedding", "position")] = Normal(width**-0.5)
    return preset("deepnorm", laws, **told)


def siren(omega: float = 30.0, **told: Any) -> Recipe:
    """SIREN: the first layer U(+-1 / n), all others U(+-sqrt(6 / n) / omega), n = fan_in.

    Args:
        omega: the frequency in sin(omega x).
        told: as for `gpt2`.

    Source: Sitzmann et al., "Implicit neural representations with periodic activation functions"
    (2020), section 3.2; biases keep nn.Linear's law, as in vsitzmann/siren, modules.py.
    """
    bound: Number = sqrt(6 / fan_in) / omega
    laws: Laws = {
        First(nn.Linear): Uniform(-1 / fan_in, 1 / fan_in),
        (nn.Linear, "weight"): Uniform(-bound, bound),
        (nn.Linear, "bias"): Uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in)),
    }
    return Recipe(laws, partial=True, name="siren", **told)
