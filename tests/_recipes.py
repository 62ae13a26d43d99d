"""What the tests of recipes share: a fill without the package's own, and verdicts over models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _clients import transformers
from scipy import stats
from torch import Tensor, nn

import fastinit
from fastinit.recipes import Recipe

ALPHA = 1e-3  # the chance that a right sampler fails one test; Holm shares it among parameters


class Block(nn.Module):
    def __init__(self, d: int, experts: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attn = nn.ModuleDict({w: nn.Linear(d, d) for w in ("q_proj", "o_proj")})
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(d, 2 * d), "down_proj": nn.Linear(2 * d, d)})
        if experts:
            self.experts = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(experts))


class Model(nn.Module):
    def __init__(self, n: int = 3, d: int = 8, experts: int = 0) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(16, d)
        self.layers = nn.ModuleList(Block(d, experts) for _ in range(n))
        self.lm_head = nn.Linear(d, 16, bias=False)


def laws(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    return {record.name: record.resolved for record in recipe.explain(model, strict=True)}


def filled(model: nn.Module, recipe: Recipe, seed: int = 0) -> nn.Module:
    """The model, filled record by record; a plain loop, to be compared with."""
    root = fastinit.Key(seed)
    with torch.no_grad():
        for record in recipe.explain(model, strict=True):
            tensor = record.parameter
            if record.part is not None:
                tensor = tensor.narrow(
                    record.part.axis, record.part.start, record.shape[record.part.axis]
                )
            record.resolved(tensor, key=root.fold_in(record.key))
            padding = getattr(record.module, "padding_idx", None)
            if padding is not None and record.note:
                tensor[padding] = 0
    return model


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values."""
    order = sorted(p_values, key=p_values.__getitem__)
    adjusted, largest = {}, 0.0
    for at, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - at) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return model.named_parameters()


def differing(ours: nn.Module, theirs: nn.Module) -> list[str]:
    """Parameters whose law differs: constants exactly, all others by two-sample KS with Holm."""
    p_values, wrong = {}, []
    other = dict(named(theirs))
    for name, mine in named(ours):
        x, y = (t.detach().double().numpy().ravel() for t in (mine, other[name]))
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            wrong += [] if np.array_equal(np.unique(x), np.unique(y)) else [name]
        else:
            p_values[name] = float(stats.ks_2samp(x, y).pvalue)
    return wrong + [name for name, p in holm(p_values).items() if p < ALPHA]


def departing(model: nn.Module, law: Callable[[str, Tensor], object]) -> list[str]:
    """Parameters that do not follow the law of their name: a number, or a frozen scipy law."""
    p_values, wrong = {}, []
    for name, tensor in named(model):
        x = tensor.detach().double().numpy().ravel()
        expected = law(name, tensor)
        if isinstance(expected, (int, float)):
            wrong += [] if np.array_equal(x, np.full_like(x, expected)) else [name]
        else:
            p_values[name] = float(stats.kstest(x, expected.cdf).pvalue)  # type: ignore[attr-defined]
    return wrong + [name for name, p in holm(p_values).items() if p < ALPHA]


L, D, F, V, HEADS = 3, 64, 160, 96, 4  # of the small models


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def twin(model: nn.Module, recipe: Recipe, seed: int = 0) -> nn.Module:
    return filled(copy.deepcopy(model), recipe, seed)


def decoder(family: str = "Llama", **told: Any) -> nn.Module:
    """A language model of transformers with the arguments of Llama's configuration."""
    tf = transformers()
    config = getattr(tf, f"{family}Config")(
        hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=HEADS,
        num_key_value_heads=2, vocab_size=V, pad_token_id=3, bos_token_id=0, eos_token_id=0, **told,
    )  # fmt: skip
    return built(lambda: getattr(tf, f"{family}ForCausalLM")(config))
