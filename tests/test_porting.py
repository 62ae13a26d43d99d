"""docs/porting.md: each row's code is run, and its values are held against the law beside it.

The laws are those that the other libraries document. They were also compared with the libraries
themselves, Keras 3.15 and JAX 0.10, by two-sample KS; timm is compared here. A right row fails
with a chance of ALPHA (one-sample KS); seeds are fixed. Each random row has a twin: a law whose std
is 5 % larger is rejected.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from _clients import timm as timm_package
from scipy import stats
from torch import Tensor

from fastinit import initializers, recipes
from fastinit.initializers import Kaiming, Orthogonal
from fastinit.initializers.random import truncated_std

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "porting.md").read_text()
ALPHA = 1e-4
SHAPES = [(160, 256), (64, 72, 3, 3)]


class Row(NamedTuple):
    library: str
    theirs: str
    ours: str
    law: str


def rows() -> list[Row]:
    found = []
    for section in TEXT.split("\n## ")[1:]:
        library = section.split("\n")[0]
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if line.startswith("| `") and len(cells) == 3:
                found.append(Row(library, cells[0], cells[1].strip("`"), cells[2]))
    return found


ROWS = rows()
SCOPE = {name: getattr(initializers, name) for name in initializers.__all__}
SCOPE |= {name: getattr(recipes, name) for name in ("fan_in", "fan_out", "sqrt")}

# What each library has. Of Keras the classes, whose lower-case names are aliases.
NAMES = {
    "Keras": "Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling "
    "Identity GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal LecunUniform "
    "Orthogonal STFT",
    "JAX and Flax": "zeros ones constant normal uniform truncated_normal variance_scaling "
    "orthogonal glorot_normal glorot_uniform xavier_normal xavier_uniform he_normal he_uniform "
    "kaiming_normal kaiming_uniform lecun_normal lecun_uniform",
    "timm": "trunc_normal_ trunc_normal_tf_ variance_scaling_ lecun_normal_ init_weight_vit "
    "init_weight_jax",
    "mup": "normal_ uniform_ trunc_normal_ xavier_normal_ xavier_uniform_ kaiming_normal_ "
    "kaiming_uniform_ ones_ eye_ MuReadout",
}


@pytest.mark.parametrize("library", NAMES)
def test_every_initializer_is_there(library: str) -> None:
    section = TEXT.split(f"\n## {library}\n")[1].split("\n## ")[0]
    assert [name for name in NAMES[library].split() if f"`{name}" not in section] == []
    assert len([row for row in ROWS if row.library == library]) >= 6


def test_timm_has_no_others() -> None:
    layers = timm_package().layers.weight_init
    own = {name for name, what in vars(layers).items() if callable(what) and name[0] != "_"}
    own &= {
        name for name in own if getattr(vars(layers)[name], "__module__", "") == layers.__name__
    }
    assert own - {"is_meta_device"} == set(NAMES["timm"].split())


def parsed(law: str, shape: tuple[int, ...], wider: float = 1.0) -> Any:
    """A law's words as a scipy law, or as a number."""
    field = math.prod(shape[2:])
    scope = {"sqrt": math.sqrt, "fan_in": shape[1] * field, "fan_out": shape[0] * field}
    if match := re.fullmatch(r"uniform from (\S+) to (\S+)", law):
        low, high = (float(word) for word in match.groups())
        return stats.uniform(low, (high - low) * wider)
    if re.fullmatch(r"[\d.]+", law):
        return float(law)
    kind, formula = law.split(", std ")
    std = eval(formula, scope) * wider
    if kind == "uniform":
        return stats.uniform(-std * math.sqrt(3), 2 * std * math.sqrt(3))
    if kind == "normal":
        return stats.norm(0, std)
    cut = re.fullmatch(r"normal cut at (\d+) std", kind)
    assert cut or kind == "normal cut and widened"
    if cut is None:
        return stats.truncnorm(-2, 2, 0, std / truncated_std(2))
    return stats.truncnorm(-float(cut[1]), float(cut[1]), 0, std)


def values(code: str, shape: tuple[int, ...]) -> Tensor:
    """Of the second column, under a key of its own."""
    return eval(code, dict(SCOPE))(torch.empty(shape), key=sum(code.encode()))


def p_value(sample: Tensor, law: Any) -> float:
    return float(stats.kstest(sample.double().numpy().ravel(), law.cdf).pvalue)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library}: {row.theirs}")
def test_a_row(row: Row) -> None:
    for shape in SHAPES:
        if row.law == "identity":
            assert torch.equal(values(row.ours, (8, 5)), torch.eye(8, 5))
            continue
        w = values(row.ours, shape)
        if row.law.startswith("semi-orthogonal, times "):
            scale = float(row.law.split()[-1])
            gram = w.flatten(1) @ w.flatten(1).T
            torch.testing.assert_close(gram, scale**2 * torch.eye(len(w)), atol=1e-4, rtol=0)
            continue
        law = parsed(row.law, shape)
        if isinstance(law, float):
            assert (w == law).all()
            continue
        assert p_value(w, law) > ALPHA
        assert p_value(w, parsed(row.law, shape, wider=1.05)) < ALPHA


def test_what_torch_calls_the_same_is_another_law() -> None:
    row = next(row for row in ROWS if row.theirs == "`HeNormal()`")
    torchs = Kaiming(nonlinearity="relu")(torch.empty(SHAPES[0]), key=0)
    assert p_value(torchs, parsed(row.law, SHAPES[0])) < ALPHA
    half = Orthogonal()(torch.empty(8, 5), key=0)
    assert not torch.allclose(half @ half.T, torch.eye(8), atol=1e-4)


@pytest.mark.parametrize("row", [r for r in ROWS if r.library == "timm"], ids=lambda r: r.theirs)
def test_as_timm_does(row: Row) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        theirs = torch.empty(shape)
        eval(row.theirs.strip("`"), {**vars(timm_package().layers.weight_init), "w": theirs})
        samples = [t.numpy().ravel() for t in (values(row.ours, shape), theirs)]
        assert stats.ks_2samp(*samples).pvalue > ALPHA
        assert stats.ks_2samp(samples[0] * np.float32(1.06), samples[1]).pvalue < ALPHA
