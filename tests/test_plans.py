"""Plans: what a recipe says it would do, as a table, in JSON, and how long that takes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from _recipes import Model, filled
from torch import nn

import fastinit
from fastinit.initializers import Kaiming, Normal, Zeros
from fastinit.recipes import Recipe, gpt2


def test_the_table() -> None:
    with torch.device("meta"):
        model = Model()
    plan = gpt2().explain(model)
    lines = str(plan).splitlines()
    assert lines[0].split(" | ")[0].strip() == "name"
    out = next(line for line in lines if line.startswith("layers.0-2.attn.o_proj.weight"))
    assert "| 8 x 8  | Normal(0.02 / sqrt(2 * depth) = 0.00816) | role attention_out" in out
    assert len(lines) < len(plan)
    assert plan.to_markdown().splitlines()[1] == "| --- | --- | --- | --- | --- |"
    data = json.loads(plan.to_json())
    assert [row["name"] for row in data["records"]] == [record.name for record in plan]
    row = next(row for row in data["records"] if row["name"] == "layers.1.attn.o_proj.weight")
    assert row["initializer"] == {"law": "Normal", "std": "0.02 / sqrt(2 * depth)"}
    assert row["std"] == row["resolved"]["std"] == pytest.approx(0.02 / 6**0.5)
    assert (row["dtype"], row["device"], row["shape"]) == ("float32", "meta", [8, 8])
    assert row["key"] == row["name"] and row["low"] is None


def test_records_fill_as_their_laws() -> None:
    model = filled(Model(), gpt2(), seed=3)
    expected = Normal(0.02)(torch.empty(16, 8), key=fastinit.Key(3).fold_in("lm_head.weight"))
    assert torch.equal(model.lm_head.weight, expected)
    deeper = filled(Model(n=5), gpt2(), seed=3)  # adding layers changes no other parameter
    assert torch.equal(model.lm_head.weight, deeper.lm_head.weight)
    assert torch.equal(
        model.layers[1].attn["q_proj"].weight, deeper.layers[1].attn["q_proj"].weight
    )


@pytest.mark.timed
def test_many_small_layers() -> None:
    """Within a multiple of what listing the parameters costs, so that no machine matters much."""
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3000)))
    recipe = Recipe({(nn.Linear, "weight"): Kaiming(), "**.bias": Zeros()})

    def seconds(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    pairs = [
        (seconds(lambda: recipe.explain(model)), seconds(lambda: list(model.named_parameters())))
        for _ in range(5)
    ]
    assert min(ours for ours, _ in pairs) < 15 * min(theirs for _, theirs in pairs)
    assert len(recipe.explain(model)) == 6000
