"""Vision models: the initializations of timm's and transformers' ViT.

Each mode names its source. Must not know more of names than the roles do.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fastinit.initializers import (
    Constant,
    Initializer,
    Normal,
    TruncNormal,
    Uniform,
    VarianceScaling,
    Xavier,
    Zeros,
)
from fastinit.initializers.expressions import Number, fan_in, fan_out, layer, log, sqrt
from fastinit.recipes.patterns import Role
from fastinit.recipes.presets.language import Laws, choose, preset
from fastinit.recipes.recipe import Recipe


def vit(mode: str = "", *, fix_init: bool = False, **told: Any) -> Recipe:
    """The vision transformer, in the modes of timm's `weight_init` and as transformers has it.

    Args:
        mode: "": linear weights std 0.02, convolutions as torch makes them. "jax": Xavier's uniform
            law, a head of 0, biases of the MLP N(0, 1e-6), LeCun's law for patches. "jax_nlhb": the
            same with a head's bias of -log(number of classes). "moco": Xavier's uniform law, with
            the fans of q, k and v alone in the packed projection. "reset": layers as torch makes
            them. "transformers": all weights std 0.02. Truncations at +-2 never act; a plan's
            warnings say so.
        fix_init: whether attn.proj and mlp.fc2 are divided by sqrt(2 (layer + 1)).
        told: as for `gpt2`.

    Source: huggingface/pytorch-image-models, timm/models/vision_transformer.py; transformers,
    models/vit/modeling_vit.py.
    """
    scale: Number = sqrt(2 * (layer + 1)) if fix_init else 1.0
    modes: dict[str, Laws] = {
        "": {**_TOKENS, **_CONV, Role("residual_out"): _cut(0.02 / scale), _LINEAR: _cut(0.02)},
        "jax": _jax(0.0, scale),
        "jax_nlhb": _jax(-log(fan_out), scale),
        "moco": {**_TOKENS, **_CONV, Role("qkv"): _own_fans(), **_xavier(scale)},
        "reset": {**_TOKENS, Role("residual_out"): _uniform(scale), **_CONV, **_as_made(nn.Linear)},
        "transformers": {
            "**.mask_token": Zeros(),
            Role("position", "token", "linear", "head", "patch"): _cut(0.02),
        },
    }
    return preset("vit", choose("mode", mode, modes), **told)


def _cut(std: Number) -> Initializer:
    return TruncNormal(std, cut=2 / std)  # +-2 in units of the weights


def _jax(head_bias: Number, scale: Number) -> Laws:
    return {
        **_TOKENS,
        Role("head"): Zeros(),
        "**.head.bias": Constant(head_bias),
        "**.mlp.**bias": Normal(1e-6),
        Role("patch"): VarianceScaling(),
        **_xavier(scale),
    }


def _xavier(scale: Number) -> Laws:
    return {
        Role("residual_out"): Xavier(1 / scale, "uniform"),
        _LINEAR: Xavier(distribution="uniform"),
    }


def _own_fans() -> Initializer:
    """Xavier's uniform law for a packed qkv, with the fans of each of the three."""
    bound = sqrt(6 / (fan_out / 3 + fan_in))
    return Uniform(-bound, bound)


def _uniform(scale: Number = 1.0) -> Initializer:
    """What torch's constructors give weights and biases, divided by a scale."""
    bound = 1 / (sqrt(fan_in) if scale == 1.0 else scale * sqrt(fan_in))
    return Uniform(-bound, bound)


def _as_made(owner: type[nn.Module]) -> Laws:
    return {(owner, "weight"): _uniform(), (owner, "bias"): _uniform()}


_LINEAR = Role("linear", "head")
_TOKENS: Laws = {Role("position"): _cut(0.02), Role("token"): Normal(1e-6)}
_CONV = _as_made(nn.Conv2d)
