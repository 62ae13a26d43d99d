"""Remarks: laws that look like mistakes of real code, told before anything is filled."""

from __future__ import annotations

import pytest
from _recipes import Model
from torch import nn

from fastinit.initializers import Normal, TruncNormal, Zeros
from fastinit.recipes import Recipe, depth, fan_in, layer, sqrt


def test_cuts_that_never_act() -> None:
    rules = {"**.up_proj.weight": TruncNormal(0.02, cut=100), "**": Zeros()}
    (told,) = Recipe(rules).explain(Model()).warnings
    assert told.startswith(
        "the bounds of 3 parameters (layers.0.mlp.up_proj.weight, ...) never act"
    )
    assert "100 std out" in told
    for cut in (2, 3):
        assert (
            not Recipe({"**.weight": TruncNormal(0.02, cut=cut), "**": Zeros()})
            .explain(Model())
            .warnings
        )


def test_a_correction_for_a_cut_that_never_acts() -> None:
    widened = 1 / sqrt(fan_in) / 0.87962566103423978
    rules = {"**.up_proj.weight": TruncNormal(widened, cut=50), "**": Zeros()}
    assert any("13.7% too large" in told for told in Recipe(rules).explain(Model()).warnings)
    right = {"**.up_proj.weight": TruncNormal(1 / sqrt(fan_in), corrected=True), "**": Zeros()}
    assert not Recipe(right).explain(Model()).warnings


def test_bounds_of_a_std_that_was_scaled_afterwards() -> None:
    std = 0.02 / sqrt(2 * (layer + 1))
    rules = {"**.o_proj.weight": TruncNormal(std, cut=3 * 0.02 / std), "**": Zeros()}
    (told,) = Recipe(rules).explain(Model()).warnings
    assert told.startswith("the bounds +-0.06 are those of 3 parameters") and "4.24 to 7.35" in told
    assert (
        not Recipe({"**.o_proj.weight": TruncNormal(std, cut=3), "**": Zeros()})
        .explain(Model())
        .warnings
    )


def test_depth_on_what_does_not_write() -> None:
    scaled = Normal(0.02 / sqrt(2 * depth))
    rules = {
        "**.{o_proj,down_proj,up_proj}.weight": scaled,
        "**.weight": Normal(0.02),
        "**": Zeros(),
    }
    (told,) = Recipe(rules).explain(Model()).warnings
    assert told.startswith("layers.2.mlp.up_proj.weight has the std of layers.2.attn.o_proj.weight")


@pytest.mark.parametrize("blocks", [2, 4])
def test_a_std_by_fan_is_none_by_depth(blocks: int) -> None:
    """An MLP four times as wide halves the std of what it writes, as a depth of 2 or 4 would."""
    model = Model(blocks)
    for block in model.layers:
        block.mlp["down_proj"] = nn.Linear(32, 8)
    rules = {"**.norm1.*": Zeros(), "**.weight": Normal(1 / sqrt(fan_in)), "**.bias": Zeros()}
    assert Recipe(rules).explain(model).warnings == ()
    one = {"**.down_proj.weight": Normal(0.02 / sqrt(2 * depth)), "**.weight": Normal(0.02)}
    (told,) = Recipe({**one, "**.bias": Zeros()}).explain(Model(3)).warnings
    assert "down_proj.weight has a std scaled by depth" in told
