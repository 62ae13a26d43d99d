"""Small models of every architecture: of transformers by shrunk configurations, of timm and
torchvision the smallest of each family.

A model is a function that makes it, so that it can be made on meta as well.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _clients import timm, torchvision, transformers
from torch import nn

Maker = Callable[[], nn.Module]

LARGEST = 150_000_000  # parameters of a model that is still built


class NotBuiltError(Exception):
    """No small model of it could be made; the message says why."""


# --------------------------------------------------------------------------- transformers

_WIDTHS = r"hidden_size|d_model|n_embd|embed_dim|embedding_size|dim|hidden_dim|decoder_hidden_size"
_SIZES: dict[str, int] = {
    rf"({_WIDTHS}|.*_hidden_size|.*_embed_dim|.*_hidden_dim|projection_dim|width)": 32,
    r".*(intermediate|ffn|ff)_?(size|dim|ff)|d_ff|n_inner|.*mlp_dim": 64,
    r".*(num|n)_(attention_|)(heads?)|.*attention_heads|num_heads|n_heads?": 4,
    r".*num_(key_value|kv)_heads|n_kv_heads?|multi_query_group_num": 2,
    r"head_dim|d_kv|attention_head_size|.*_head_dim": 8,
    r".*(num|n)_(hidden_|)layers?|n_layers?|.*_layers|depth": 2,
    r"vocab_size|.*_vocab_size": 128,
    r"(n_|num_|)(routed_|local_|)experts|moe_num_experts": 4,
    r"num_experts_per_tok|moe_top_?k|.*experts_per_tok(en)?": 2,
    r"max_position_embeddings|n_positions|n_ctx|seq_length|max_.*_positions": 64,
}
# What a configuration does not have by itself.
_NEEDED: dict[str, dict[str, Any]] = {
    kind: {"prediction_length": 4, "context_length": 8, "num_time_features": 1}
    for kind in ("autoformer", "informer", "time_series_transformer")
}
_NEEDED |= {kind: {"head_dim": 8} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe")}
_NEEDED |= {kind: {"head_dim": 8} for kind in ("hunyuan_vl_text", "ministral")}
_NEEDED |= {
    "chameleon": {"vocabulary_map": {"<image>": 1}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"] * 6}},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 32},
    "emu3": {"vocabulary_map": {"<image>": 1, "<|extra_200|>": 2}},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "gemma3n": {"text_config": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 128}},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 128},
    "granite4_vision": {"deepstack_layer_map": [[0, 0]]},
    "hunyuan_vl": {"text_config": {"head_dim": 8}},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": {"token_budget": 64, "compress_ratio": 4}},
    "qwen4_exp_text": {"token_budget": 64, "compress_ratio": 4},
    "timm_backbone": {"backbone": "resnet10t", "use_pretrained_backbone": False},
    "vitmatte": {"fusion_hidden_sizes": [256, 128, 64, 32]},
}
_COMPILED = [(re.compile(pattern), size) for pattern, size in _SIZES.items()]


def _shrink(config: Any, strength: int) -> None:
    """Make the numbers of a configuration small: depth and vocabulary, or all that we know."""
    for name, value in list(vars(config).items()):
        if name.startswith("_") or value is None:
            continue
        if hasattr(value, "to_dict"):
            _shrink(value, strength)
        elif isinstance(value, bool) or not isinstance(value, int):
            continue
        elif name.endswith("token_id") and value >= 100:
            _set(config, name, 1)
        else:
            for pattern, size in _COMPILED:
                if pattern.fullmatch(name):
                    only = "layer" in name or "depth" in name or "vocab" in name
                    if value > size and (strength > 1 or only):
                        _set(config, name, size)
                    break
    lists = getattr(config, "layer_types", None)
    count = getattr(config, "num_hidden_layers", None)
    if isinstance(lists, list) and isinstance(count, int) and len(lists) > count:
        kept = lists[-count:] if len(set(lists[-count:])) > 1 else [*lists[: count - 1], lists[-1]]
        _set(config, "layer_types", kept)


def _set(config: Any, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception:
        return


def transformers_types() -> dict[str, str]:
    """By type of model, the class that is built for it."""
    transformers()
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    tables = sorted(n for n in vars(auto) if re.fullmatch("MODEL_.*MAPPING_NAMES", n))
    tables.sort(key=lambda n: (n != "MODEL_MAPPING_NAMES", "CAUSAL_LM" not in n))
    found: dict[str, str] = {}
    for table in tables:
        for kind, names in getattr(auto, table).items():
            name = names if isinstance(names, str) else names[0]
            found.setdefault(kind, name)
    return dict(sorted(found.items()))


def of_transformers(kind: str, name: str) -> Maker:
    """A maker of a small model of this type.

    Raises:
        NotBuiltError: none could be made.
    """
    package = transformers()
    reasons = []
    try:
        config_class = package.CONFIG_MAPPING[kind]
        cls = getattr(package, name)
    except Exception as error:
        raise NotBuiltError(_told(error)) from None
    for strength in (2, 1, 0):
        try:
            config = config_class(**_NEEDED.get(kind, {}))
            if strength:
                _shrink(config, strength)
            maker = lambda config=config: cls._from_config(config)  # noqa: E731
            _require_small(maker)
            return maker
        except Exception as error:
            reasons.append(_told(error))
    raise NotBuiltError(reasons[-1])


def _require_small(maker: Maker) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in maker().parameters())
    if count > LARGEST:
        raise NotBuiltError(f"{count / 1e6:.0f} M parameters are too many")
    with torch.device("meta"):  # twice alike, and not only the first time
        maker()


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


# ---------------------------------------------------------------------- timm, torchvision

_SMALL = ("pico", "atto", "femto", "nano", "tiny", "small", "mini", "_s", "18", "_0", "b0", "xs")


def _by_smallness(names: list[str]) -> list[str]:
    def rank(name: str) -> tuple[int, int]:
        return (-sum(word in name for word in _SMALL), len(name))

    return sorted(names, key=rank)[:4]


def _smallest(makers: dict[str, Maker]) -> tuple[str, Maker]:
    sizes: dict[str, int] = {}
    reason = "none"
    for name, maker in makers.items():
        try:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in maker().parameters())
        except Exception as error:
            reason = _told(error)
    if not sizes and "meta tensor" in reason:
        return next(iter(makers.items()))
    if not sizes:
        raise NotBuiltError(reason)
    name = min(sizes, key=sizes.__getitem__)
    if sizes[name] > LARGEST:
        raise NotBuiltError(f"{sizes[name] / 1e6:.0f} M parameters are too many")
    return name, makers[name]


def of_timm(family: str) -> tuple[str, Maker]:
    """The smallest of some models of a family, by its name."""
    package = timm()
    names = _by_smallness(package.list_models(module=family))
    return _smallest({n: lambda n=n: package.create_model(n) for n in names})


def timm_families() -> list[str]:
    return [name for name in sorted(timm().list_modules()) if timm().list_models(module=name)]


def torchvision_families() -> dict[str, list[str]]:
    package = torchvision()
    found: dict[str, list[str]] = {}
    for name in package.models.list_models():
        builder = package.models.get_model_builder(name)
        found.setdefault(builder.__module__.removeprefix("torchvision.models."), []).append(name)
    return found


def of_torchvision(names: list[str]) -> tuple[str, Maker]:
    """The smallest of some of these models."""
    package = torchvision()

    def maker(name: str) -> Maker:
        builder = package.models.get_model_builder(name)
        given: dict[str, Any] = {"weights": None}
        if "weights_backbone" in inspect.signature(builder).parameters:
            given["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            given["init_weights"] = True
        return lambda: package.models.get_model(name, **given)

    return _smallest({name: maker(name) for name in _by_smallness(names)})


def every_model() -> Iterator[tuple[str, str, Callable[[], tuple[str, Maker]]]]:
    """The package, the architecture, and what makes the maker of a model of it."""
    from _models import torch_layers

    for name, make in torch_layers().items():
        yield "torch.nn", name, lambda name=name, make=make: (name, make)
    for family in timm_families():
        yield "timm", family, lambda family=family: of_timm(family)
    for family, names in torchvision_families().items():
        yield "torchvision", family, lambda names=names: of_torchvision(names)
    for kind, name in transformers_types().items():
        yield "transformers", kind, lambda k=kind, n=name: (n, of_transformers(k, n))
