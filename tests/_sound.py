"""Models that are known to train from their own initialization, small enough to run in a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _clients import timm, torchvision, transformers
from torch import Tensor, nn

import fastinit

Made = tuple[nn.Module, Any]

_VISION = (
    "alexnet", "resnet18", "squeezenet1_1", "mobilenet_v2",
    "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "efficientnet_b0",
    "densenet121", "googlenet",
)  # fmt: skip
_TIMM = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 4},
    "deit3_small_patch16_224": {"img_size": 64, "depth": 4},
    "convnext_atto": {},
    "nf_resnet26": {},
    "mixer_s32_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "cait_xxs24_224": {"img_size": 64, "depth": 4},
    "mobilenetv3_small_050": {},
    "resnet10t": {},
    "ghostnet_050": {},
}  # fmt: skip
_SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_T5 = {
    "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4, "vocab_size": 128,
    "decoder_start_token_id": 0,
}  # fmt: skip
_GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 128}
_LANGUAGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "bert": ("BertConfig", "BertForMaskedLM", _SIZES),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**_SIZES, "max_position_embeddings": 64}),
    "albert": ("AlbertConfig", "AlbertForMaskedLM", {**_SIZES, "embedding_size": 32}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _SIZES),
    "mistral": ("MistralConfig", "MistralForCausalLM", _SIZES),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_SIZES, "head_dim": 16}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_SIZES, "num_local_experts": 4}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _SIZES),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_SIZES, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5),
    "mamba": ("MambaConfig", "MambaForCausalLM", {**_SIZES, "state_size": 8}),
}


def images(size: int = 64, count: int = 4) -> Tensor:
    return fastinit.normal_(torch.empty(count, 3, size, size), key=0)


def tokens(name: str) -> dict[str, Tensor]:
    ids = fastinit.uniform_(torch.empty(4, 32), 3, 128, key=1).long()
    return {"input_ids": ids, **({"decoder_input_ids": ids} if name == "t5" else {})}


def _vision(name: str) -> Made:
    models = torchvision().models
    more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    return getattr(models, name)(num_classes=10, **more), images()


def _timm(name: str) -> Made:
    model = timm().create_model(name, num_classes=10, **_TIMM[name])
    return model, images(_TIMM[name].get("img_size", 64))


def _language(name: str) -> Made:
    config, model, sizes = _LANGUAGE[name]
    package = transformers()
    return getattr(package, model)(getattr(package, config)(**sizes)), tokens(name)


SOUND: dict[str, Callable[[], Made]] = {
    **{f"torchvision {name}": lambda name=name: _vision(name) for name in _VISION},
    **{f"timm {name}": lambda name=name: _timm(name) for name in _TIMM},
    **{f"transformers {name}": lambda name=name: _language(name) for name in _LANGUAGE},
}
