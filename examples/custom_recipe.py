"""A recipe of one's own: Meta Lingua's law, with the bounds where they act.

python examples/custom_recipe.py

Lingua scales what writes to the residual stream by depth, and cuts attention's output at three
standard deviations of the law before that, where hardly a value is. Here a cut is in units of std.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import fastinit
from fastinit.initializers import Initializer, Ones, TruncNormal
from fastinit.recipes import Recipe, Role, fan_in, layer, sqrt


def cut(std: object) -> Initializer:
    """A normal law of this std, cut at three of them."""
    return TruncNormal(std, cut=3)


deep = sqrt(2 * (layer + 1))
lingua = Recipe(
    {
        Role("attention_out", "ffn_out"): cut(1 / (deep * sqrt(fan_in))),
        Role("embedding", "linear", "head"): cut(1 / sqrt(fan_in)),
        Role("norm"): Ones(),
    },
    name="lingua",
)

config = LlamaConfig(hidden_size=128, intermediate_size=344, num_hidden_layers=3, vocab_size=1000)
with torch.device("meta"):
    model = LlamaForCausalLM(config)
print(lingua.explain(model))

# One line of it changed for this model alone, the rest as it was.
other = Recipe({"**.layers.0.mlp.down_proj.weight": TruncNormal(0.01, cut=2)}, base=lingua)
report = fastinit.materialize_(model, "cpu", other, seed=42)
for record in report:
    if "down_proj" in record.name:
        print(f"{record.name}: std {record.std:.4f} by {record.rule!r}")
