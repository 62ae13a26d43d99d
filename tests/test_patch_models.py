"""Under the patch the models of real packages are drawn by us alone, from the laws of stock, and
are otherwise what they were.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _clients import CountedDraws, timm, torchvision, transformers, unchanged
from torch import Tensor, nn

stats = pytest.importorskip("scipy.stats")

import fastinit  # noqa: E402

Build = Callable[[], nn.Module]
ALPHA = 1e-4  # chance that a model whose laws are right is rejected
KS_SIZE = 20_000  # elements of a parameter that are compared
REGISTRY_SECONDS = 60.0


def built(build: Build, seed: int, patched: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not patched:
            return build()
        with fastinit.patch(), CountedDraws() as draws:
            model = build()
        assert not draws.stock, f"stock's own: {draws.stock}"
        return model


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if not nn.parameter.is_lazy(p)}


def p_values(stock: nn.Module, other: nn.Module, patched: nn.Module) -> dict[str, float]:
    """Of each parameter: KS of the patched against stock; equality where two of stock are equal."""
    found = {}
    first, second, ours = parameters(stock), parameters(other), parameters(patched)
    assert first.keys() == ours.keys()
    for name, tensor in first.items():
        if torch.equal(tensor, second[name]):
            found[name] = float(torch.equal(tensor, ours[name]))
        elif not is_chance_alone(tensor, second[name]):
            sample = np.concatenate([flat(tensor), flat(second[name])])
            method = "exact" if sample.size < 500 else "asymp"
            found[name] = float(stats.ks_2samp(sample, flat(ours[name]), method=method).pvalue)
    return found


def is_chance_alone(a: Tensor, b: Tensor) -> bool:
    """Whether there is nothing to learn from a sample, as for a single number."""
    return a.numel() < 2


def flat(tensor: Tensor) -> np.ndarray:
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return values.double().flatten()[:KS_SIZE].numpy()


def rejected(found: dict[str, float], alpha: float = ALPHA) -> list[str]:
    """The parameters that Holm's procedure rejects."""
    names = sorted(found, key=found.__getitem__)
    for n, name in enumerate(names):
        if found[name] * (len(names) - n) > alpha:
            return names[:n]
    return names


def surroundings(model: nn.Module) -> dict[str, Any]:
    """All that initialization has no business to change."""
    return {
        "keys": list(model.state_dict()),
        "kinds": {n: kind(p) for n, p in named(model)},
        "flags": {n: (p.requires_grad, sorted(p.__dict__)) for n, p in named(model)},
        "modules": {n: (type(m), m.training, sorted(m.__dict__)) for n, m in model.named_modules()},
    }


def kind(tensor: Tensor) -> tuple[Any, ...]:
    if nn.parameter.is_lazy(tensor):
        return type(tensor), tensor.dtype
    return type(tensor), tensor.dtype, tensor.shape, tensor.stride()


def named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def check(build: Build, distributions: bool = True) -> None:
    patched = built(build, 3, patched=True)
    stock = built(build, 1)
    assert surroundings(patched) == surroundings(stock)
    other = built(build, 2)
    ours = dict(patched.named_buffers())
    for name, buffer in stock.named_buffers():
        if same(buffer, dict(other.named_buffers())[name]):
            assert same(buffer, ours[name]), name
    if distributions:
        assert rejected(p_values(stock, other, patched)) == []


def same(a: Tensor, b: Tensor) -> bool:
    if nn.parameter.is_lazy(a) or nn.parameter.is_lazy(b):
        return type(a) is type(b)
    return torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with unchanged("torch.Tensor", "torch.nn.init", "torch.nn.modules.activation"):
        yield


# --------------------------------------------------------------------------------- transformers


SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}
HEADS = {**SIZE, "num_attention_heads": 4}
WORDS = {**HEADS, "vocab_size": 200}
GROUPED = {**WORDS, "num_key_value_heads": 2}
BYTES = {**HEADS, "num_key_value_heads": 4, "head_dim": 16}
# The model's class, its configuration's, and the configuration.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "bert": ("BertModel", "BertConfig", WORDS),
    "vit": ("ViTModel", "ViTConfig", HEADS),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 200},
    ),
    "blt": (
        "BltModel",
        "BltConfig",
        {
            "patcher_config": BYTES,
            "encoder_config": {**BYTES, "hidden_size_global": 64},
            "decoder_config": {**BYTES, "hidden_size_global": 64},
            "global_config": BYTES,
            "encoder_hash_byte_group_vocab": 200,
        },
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    # Draws in its constructors with torch.normal.
    "diffllama": ("DiffLlamaForCausalLM", "DiffLlamaConfig", GROUPED),
}


def make_model(name: str) -> nn.Module:
    model, config, options = MODELS[name]
    package = transformers()
    made: nn.Module = getattr(package, model)(getattr(package, config)(**copy.deepcopy(options)))
    return made


llama, bert = partial(make_model, "llama"), partial(make_model, "bert")


@pytest.mark.parametrize("name", MODELS)
def test_transformers(name: str) -> None:
    check(partial(make_model, name))


def test_the_comparison_rejects_wrong_laws() -> None:
    stock, other, third = (built(bert, seed) for seed in (1, 2, 3))
    assert rejected(p_values(stock, other, third)) == []
    name = "encoder.layer.1.intermediate.dense.weight"
    wrong = dict(third.named_parameters())[name]
    with torch.no_grad():
        wrong.mul_(1.15)
        assert rejected(p_values(stock, other, third)) == [name]
        wrong.uniform_(-0.0346, 0.0346)  # the right variance
        assert rejected(p_values(stock, other, third)) == [name]
        wrong.copy_(dict(stock.named_parameters())[name])
        third.pooler.dense.bias[0] = 1.0  # zeros in stock
    assert rejected(p_values(stock, other, third)) == ["pooler.dense.bias"]


def test_hf_guards_in_any_nesting(tmp_path: Path) -> None:
    transformers()
    from transformers import initialization as hf

    kept = nn.Parameter(torch.full((5,), 7.0))
    kept._is_hf_initialized = True  # type: ignore[attr-defined]

    def guarded() -> None:
        nn.init.normal_(kept)  # the guard's
        hf.normal_(kept)
        assert torch.equal(kept, torch.full((5,), 7.0))
        with CountedDraws() as draws:
            nn.init.normal_(torch.empty(5))
            hf.trunc_normal_(torch.empty(5))
            nn.Linear(2, 2)
        assert not draws.stock and sum(draws.ours.values()) == 4

    def nothing() -> None:
        with CountedDraws() as draws:
            nn.Linear(2, 2)
            assert nn.init.normal_(kept) is None  # type: ignore[comparison-overlap]
        assert not draws.stock and not draws.ours

    with unchanged("torch.nn.init", "torch.nn.modules.linear", "transformers.initialization"):
        with fastinit.patch(), hf.guard_torch_init_functions():
            guarded()
        with hf.guard_torch_init_functions(), fastinit.patch():
            guarded()
            with hf.no_init_weights(), fastinit.patch(seed=1):
                nothing()
            guarded()
        with hf.no_init_weights(), fastinit.patch():
            nothing()
        application = fastinit.patch()
        with hf.guard_torch_init_functions():
            guarded()
            fastinit.unpatch()
        with hf.guard_torch_init_functions():
            application = fastinit.patch()
            guarded()
        fastinit.unpatch()
        del application


def test_from_pretrained_keeps_what_it_loads_and_draws_what_is_missing(tmp_path: Path) -> None:
    package = transformers()
    load_file = pytest.importorskip("safetensors.torch").load_file
    save_file = pytest.importorskip("safetensors.torch").save_file
    saved = built(llama, 5)
    saved.save_pretrained(tmp_path)
    missing = "model.layers.1.mlp.up_proj.weight"
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    for scope in (fastinit.patch(seed=1), fastinit.patch(), fastinit.deferred(seed=1)):
        with CountedDraws() as draws, scope:
            loaded = package.LlamaForCausalLM.from_pretrained(tmp_path)
        assert not draws.stock
        for name, parameter in loaded.named_parameters():
            if name == missing:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
                assert not torch.equal(parameter, dict(saved.named_parameters())[name])
            else:
                assert torch.equal(parameter, dict(saved.named_parameters())[name]), name


# ------------------------------------------------------------------------------ timm, torchvision


def smallest_first(names: list[str]) -> list[str]:
    sizes = "zepto|atto|femto|pico|nano|micro|tiny|xxs|xs|_t_|small|_s_|b0|_0|mini|lite"
    return sorted(names, key=lambda name: (re.search(sizes, name) is None, len(name), name))


def check_some(builds: dict[str, Build], most: int = 8_000_000) -> None:
    """Check as many models as fit in the time; at least half must be possible to construct."""
    begin, checked, left_out = time.monotonic(), [], []
    for name, build in builds.items():
        if time.monotonic() - begin > REGISTRY_SECONDS:
            break
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in build().parameters())
        except Exception:  # some read values while they construct
            size = 0
        try:
            check(build, distributions=size <= most)
        except (ImportError, ModuleNotFoundError) as error:
            left_out.append(f"{name}: {error}")
        else:
            checked.append(name)
    assert len(checked) > len(left_out), left_out


@pytest.mark.filterwarnings("ignore")
def test_timm() -> None:
    package = timm()
    families: dict[str, list[str]] = {}
    for name in package.list_models():
        families.setdefault(package.models._registry._model_to_module[name], []).append(name)
    chosen = [smallest_first(names)[0] for names in families.values()]
    check_some({name: lambda name=name: package.create_model(name) for name in chosen})


@pytest.mark.filterwarnings("ignore")
def test_torchvision() -> None:
    package = torchvision()
    families: dict[str, list[str]] = {}
    for name in package.models.list_models():
        entry = package.models.get_model_builder(name)
        families.setdefault(entry.__module__, []).append(name)
    chosen = [smallest_first(names)[0] for names in families.values()]

    def build(name: str) -> nn.Module:
        whole = any(
            part in package.models.get_model_builder(name).__module__
            for part in ("detection", "segmentation")
        )
        options = {"weights_backbone": None} if whole else {}
        return package.models.get_model(name, weights=None, **options)

    check_some({name: lambda name=name: build(name) for name in chosen}, most=6_000_000)


# ----------------------------------------------------------------------------- torch's own modules


def module_database() -> list[Any]:
    try:
        from torch.testing._internal.common_modules import module_db
    except ImportError:  # expecttest is not there
        return []
    return list(module_db)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", module_database(), ids=lambda entry: entry.name)
def test_every_module_of_torchs_database(entry: Any) -> None:
    inputs = entry.module_inputs_func(
        entry, device="cpu", dtype=torch.float32, requires_grad=True, training=True
    )
    for each in inputs:
        args, kwargs = each.constructor_input.args, each.constructor_input.kwargs
        check(lambda args=args, kwargs=kwargs: entry.module_cls(*args, **kwargs))
