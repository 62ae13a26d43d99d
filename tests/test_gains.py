"""Gains: closed forms, a table, kinks anywhere, and what is refused."""

from __future__ import annotations

import functools
import itertools
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import fastinit
from fastinit._fill.gains import NAMES, expectation, function_of, slope_of

ROOT = Path(__file__).resolve().parents[1]
PI = math.pi


def own(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * x)


# ------------------------------------------------------------------------------------ the numbers

CLOSED: dict[str, tuple[Any, dict[str, Any], float]] = {
    "linear": ("linear", {}, 1.0),
    "relu": ("relu", {}, 1 / 2),
    "relu backward": ("relu", {"direction": "backward"}, 1 / 2),
    "relu variance": ("relu", {"moment": "variance"}, 1 / 2 - 1 / (2 * PI)),
    "leaky_relu": ("leaky_relu", {}, (1 + 0.01**2) / 2),
    "leaky_relu 0.7": ("leaky_relu", {"param": 0.7}, (1 + 0.7**2) / 2),
    "leaky_relu -2": ("leaky_relu", {"param": -2}, 5 / 2),
    "prelu": ("prelu", {}, (1 + 0.25**2) / 2),
    "rrelu": ("rrelu", {}, (1 + (11 / 48) ** 2) / 2),
    "gelu": ("gelu", {}, 1 / 3 + 1 / (2 * math.sqrt(3) * PI)),
    "relu_squared": ("relu_squared", {}, 3 / 2),
    "relu_squared backward": ("relu2", {"direction": "backward"}, 2.0),
    "sin": ("sin", {}, (1 - math.exp(-2)) / 2),
    "sin backward": ("sin", {"direction": "backward"}, (1 + math.exp(-2)) / 2),
    "sin 30": ("sin", {"param": 30}, (1 - math.exp(-1800)) / 2),
    "abs": (torch.abs, {}, 1.0),
    "abs variance": (torch.abs, {"moment": "variance"}, 1 - 2 / PI),
    "sign": (torch.sign, {}, 1.0),
    "square": (torch.square, {}, 3.0),
    "cube backward": (lambda x: x**3, {"direction": "backward"}, 27.0),
    "exp": (torch.exp, {}, math.exp(2)),
    "reglu": ("reglu", {}, 1 / 2),
    "geglu": ("geglu", {}, 1 / 3 + 1 / (2 * math.sqrt(3) * PI)),
    "bilinear": ("bilinear", {}, 1.0),
    "bilinear backward": ("bilinear", {"direction": "backward"}, 1.0),
}


@pytest.mark.parametrize("case", CLOSED.values(), ids=CLOSED)
def test_closed_forms(case: tuple[Any, dict[str, Any], float]) -> None:
    nonlinearity, options, second = case
    assert fastinit.gain(nonlinearity, **options) == pytest.approx(second**-0.5, rel=1e-12)


def test_the_usual_quadrature_would_not_do() -> None:
    """Gauss-Hermite, even with 256 nodes, fails the same test at a kink."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(256)
    second = (np.clip(nodes, -1, 1) ** 2 * weights).sum() / math.sqrt(2 * PI)
    tail = math.erfc(1 / math.sqrt(2))
    exact = 1 - tail - math.sqrt(2 / PI) * math.exp(-0.5) + tail
    assert abs(second**-0.5 - exact**-0.5) > 1e-4
    assert fastinit.gain("hardtanh") == pytest.approx(exact**-0.5, rel=1e-12)


# gain, backward, 1 / std: computed apart, with other quadrature.
TABLE = {
    "relu6": (1.41421357, 1.414214, 1.71285855),
    "gelu": (1.53353044, 1.481114, 1.70092624),
    "gelu_tanh": (1.53358052, 1.481168, 1.70091656),
    "silu": (1.67653247, 1.623320, 1.78718722),
    "mish": (1.48684758, 1.444755, 1.59202538),
    "hardswish": (1.73665721, 1.670076, 1.81387147),
    "elu": (1.24519830, 1.223429, 1.27084342),
    "celu": (1.24519830, 1.223429, 1.27084342),
    "selu": (1.00000000, 0.966026, 1.00000000),
    "tanh": (1.59253742, 1.467414, 1.59253742),
    "hardtanh": (1.39203614, 1.210287, 1.39203614),
    "softsign": (2.33753336, 2.095781, 2.33753336),
    "sigmoid": (1.84622855, 4.722646, 4.80131337),
    "softplus": (1.04186684, 1.846229, 1.91912598),
    "relu_squared": (0.81649658, 0.707107, 0.89442719),
    "sin": (1.52086662, 1.327251, 1.52086662),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_known_table(name: str) -> None:
    forward, backward, deviation = TABLE[name]
    assert fastinit.gain(name) == pytest.approx(forward, abs=2e-8)
    assert fastinit.gain(name, direction="backward") == pytest.approx(backward, abs=1e-6)
    assert fastinit.gain(name, moment="variance") == pytest.approx(deviation, abs=2e-8)


NUMPY: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), [0]),
    "hardsigmoid": (lambda z: np.clip(z / 6 + 0.5, 0, 1), [-3, 3]),
    "logsigmoid": (lambda z: -np.logaddexp(0, -z), []),
    "mish": (lambda z: z * np.tanh(np.logaddexp(0, z)), []),
    "quick_gelu": (lambda z: z / (1 + np.exp(-1.702 * z)), []),
    "softshrink": (lambda z: np.sign(z) * np.maximum(abs(z) - 0.5, 0), [-0.5, 0.5]),
    "hardshrink": (lambda z: np.where(abs(z) > 0.5, z, 0), [-0.5, 0.5]),
    "softsign": (lambda z: z / (1 + abs(z)), [0]),
    "tanhshrink": (lambda z: z - np.tanh(z), []),
}


@pytest.mark.parametrize("name", NUMPY)
def test_scipy_agrees(name: str) -> None:
    function, kinks = NUMPY[name]

    def integrand(z: float) -> float:
        return float(function(z)) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * PI)

    ends = [-12.0, *sorted({*kinks, 0.0}), 12.0]
    parts = [
        scipy.integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        for a, b in itertools.pairwise(ends)
    ]
    assert fastinit.gain(name) == pytest.approx(sum(parts) ** -0.5, rel=1e-11)


def upper(t: float) -> float:
    return math.erfc(t / math.sqrt(2)) / 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=3), st.floats(-2, 2))
def test_kinks_and_jumps_anywhere(kinks: list[float], jump: float) -> None:
    """Sums of relu(z - t) and a step, by the moments of a truncated normal."""

    def mixed(s: float, t: float) -> float:  # E relu(z - s) relu(z - t)
        top = max(s, t)
        density = math.exp(-top * top / 2) / math.sqrt(2 * PI)
        return (1 + s * t) * upper(top) + (top - s - t) * density

    def stepped(s: float) -> float:  # E relu(z - s) (z > jump)
        top = max(s, jump)
        return math.exp(-top * top / 2) / math.sqrt(2 * PI) - s * upper(top)

    second = sum(mixed(s, t) for s in kinks for t in kinks)
    second += 2 * sum(map(stepped, kinks)) + upper(jump)

    def f(x: Tensor) -> Tensor:
        return sum((F.relu(x - t) for t in kinks), start=(x > jump).double())

    assert fastinit.gain(f) == pytest.approx(second**-0.5, rel=1e-11)
    slopes = sum(upper(max(s, t)) for s in kinks for t in kinks)  # the step has none
    backward = fastinit.gain(f, direction="backward")
    assert backward == pytest.approx(slopes**-0.5, rel=1e-11)


def test_what_computes_in_float32_settles_less_far() -> None:
    assert fastinit.gain(lambda x: torch.tanh(x.float())) == pytest.approx(1.59253742, rel=1e-6)
    inside = fastinit.gain(lambda x: torch.tanh(x.float()).double())
    assert inside == pytest.approx(1.59253742, rel=1e-6)


def table_of(document: str, columns: int) -> list[list[str]]:
    rows = re.findall(r"^\|(.*)\|$", (ROOT / document).read_text(), re.M)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return [row for row in cells if len(row) == columns and re.match(r"[\d.]+$", row[1])]


def second_and_slope(name: str) -> tuple[float, float]:
    """E f'^2 and the slope of the variance map."""
    f = function_of(name)
    chi = expectation(lambda x: slope_of(f, x, name).square(), name)
    slope = expectation(lambda x: f(x) * slope_of(f, x, name) * x, name)
    return chi, slope * fastinit.gain(name) ** 2


def test_the_table_of_the_documents() -> None:
    rows = [(name, row) for row in table_of("docs/gains.md", 7) for name in row[0].split(", ")]
    assert len(rows) > 30
    for name, (_, forward, backward, deviation, chi, slope, torchs) in rows:
        gated = name in ("glu", "reglu", "geglu", "swiglu", "bilinear")
        gain = fastinit.gain(name)
        square, steep = second_and_slope(name)
        assert f"{gain:.8f}" == forward, name
        assert f"{fastinit.gain(name, direction='backward'):.6f}" == backward, name
        assert f"{fastinit.gain(name, moment='variance'):.8f}" == deviation, name
        assert chi == ("" if gated else f"{gain**2 * square:.3f}"), name
        assert slope == f"{steep + gated:.3f}", name  # the other half's variance is a factor
        if torchs:
            value = {"sqrt(2)": 2**0.5, "3/4": 0.75, "5/3": 5 / 3, "1": 1, "the same": gain}[torchs]
            assert torch.nn.init.calculate_gain(name) == pytest.approx(value)
        else:
            with pytest.raises(ValueError, match="Unsupported"):
                torch.nn.init.calculate_gain(name)
    listed = {name for name, _ in rows}
    aliases = {"identity", "swish", "relu2", "squared_relu", "hardshrink", "threshold"}
    assert NAMES - listed - aliases - {n for n in NAMES if re.match("conv|gelu_", n)} == set()


def test_every_activation_of_torch_has_a_name() -> None:
    modules = [
        "Threshold", "ReLU", "RReLU", "Hardtanh", "ReLU6", "Sigmoid", "Hardsigmoid", "Tanh", "SiLU",
        "Mish", "Hardswish", "ELU", "CELU", "SELU", "GLU", "GELU", "Hardshrink", "LeakyReLU",
        "LogSigmoid", "Softplus", "Softshrink", "PReLU", "Softsign", "Tanhshrink",
    ]  # fmt: skip
    not_elementwise = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
    assert {*modules} == {*nn.modules.activation.__all__} - not_elementwise
    names = {"leakyrelu": "leaky_relu"}
    for module in modules:
        name = names.get(module.lower(), module.lower())
        arguments = {"Threshold": (0.0, 0.0)}.get(module, ())
        if module == "GLU":
            continue
        instance = getattr(nn, module)(*arguments).eval()
        assert fastinit.gain(instance) == pytest.approx(fastinit.gain(name), rel=1e-12)
        backward = fastinit.gain(name, direction="backward")
        assert fastinit.gain(instance, direction="backward") == pytest.approx(backward, rel=1e-12)


def test_where_torchs_constants_settle() -> None:
    """The second table of docs/gains.md."""
    for row in table_of("docs/gains.md", 4):
        name, constant = re.match(r"(\w+), ([\d./]+)", row[0]).groups()  # type: ignore[union-attr]
        gain, f, q = float(eval(constant)), function_of(name), 1.0
        for _ in range(600 if name == "selu" else 100):
            q = gain**2 * expectation(lambda x, f=f: f(x).square(), name, scale=math.sqrt(q))
        chi = gain**2 * expectation(
            lambda x, f=f: slope_of(f, x, "f").square(), name, scale=math.sqrt(q)
        )
        assert q == pytest.approx(float(row[1]), abs=6e-4)
        assert chi == pytest.approx(float(row[2]), abs=6e-4)
        told = row[3].split("-fold")[0].replace(",", "")
        assert (
            chi**50 < 1e-30 if told == "vanish" else chi**50 == pytest.approx(float(told), rel=0.06)
        )


# ---------------------------------------------------------------------------------- the refusals

BAD: dict[str, tuple[Any, str]] = {
    "softmax": (lambda x: torch.softmax(x, -1), "not elementwise"),
    "centred": (lambda x: x - x.mean(), "not elementwise"),
    "cumulative": (lambda x: x.cumsum(-1), "not elementwise"),
    "by place": (lambda x: x * torch.arange(x.numel()).view_as(x), "not elementwise"),
    "a norm": (nn.LayerNorm(512), "LayerNorm.* fails on"),
    "two outputs": (lambda x: (x, x), "became tuple"),
    "halves": (lambda x: x[..., : x.shape[-1] // 2], "not elementwise.*gate"),
    "glu": (nn.GLU(), "pass 'glu'"),
    "bools": (lambda x: x > 0, "torch.bool"),
    "complex": (lambda x: x.to(torch.complex128), "complex"),
    "random": (lambda x: x + torch.randn_like(x), "random"),
    "dropout": (nn.Dropout(0.01), r"random.*eval\(\)"),
    "rrelu in training": (nn.RReLU(), "random"),
    "nan": (torch.log, "not finite: nan"),
    "infinite": (lambda x: 1 / (x - x.detach()[..., :1]).abs(), "not finite: inf"),
    "zero": (lambda x: 0 * x, "zero everywhere"),
    "tails": (lambda x: torch.exp(x * x / 4), "does not settle.*grows too fast"),
    "wiggles": (lambda x: torch.sin(1e8 * x), r"does not settle: 0\.\d+ \+- 0"),
    "raises": (lambda x: x.no_such(), "no_such"),
    "on meta": (nn.PReLU(device="meta"), "on meta"),
    "unknown": ("gelo", "Unsupported nonlinearity gelo; did you mean gelu"),
    "nothing like it": ("xyzzy", "Unsupported nonlinearity xyzzy; use one of torch.nn.functional"),
    "softmax by name": ("softmax", "Unsupported nonlinearity softmax; softmax is not elementwise"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_refused_with_the_reason(case: tuple[Any, str], poisoned: Any, unwritten: Any) -> None:
    nonlinearity, reason = case
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"(?s){reason}"):
        fastinit.gain(nonlinearity)
    with pytest.raises(ValueError, match="nonlinearity"):
        fastinit.calculate_gain(nonlinearity)
    w = poisoned(4, 6)
    with pytest.raises(ValueError, match="nonlinearity"):
        fastinit.kaiming_uniform_(w, nonlinearity=nonlinearity)
    assert unwritten(w) == 24 and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (torch.sign, "derivative is zero everywhere"),
        (lambda x: x.detach() * 2, "autograd sees no derivative"),
        (lambda x: torch.from_numpy(np.tanh(x.numpy())), "requires grad"),
        (lambda x: (x - 0.123).abs().sqrt(), "does not settle|not finite"),  # 1 / (2 sqrt |x|)
    ],
)
def test_refused_backward(function: Any, reason: str) -> None:
    assert fastinit.gain(function) > 0
    with pytest.raises(ValueError, match=reason):
        fastinit.gain(function, direction="backward")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "reason"),
    [
        ((3,), {}, TypeError, "nonlinearity must be"),
        ((None,), {}, TypeError, "nonlinearity must be"),
        ((nn.GELU,), {}, TypeError, r"an instance.*nn.GELU\(\)"),
        (("gelu", 2.0), {}, ValueError, "gelu has no parameter"),
        ((F.elu, 2.0), {}, ValueError, "functools.partial"),
        (("elu", "2"), {}, ValueError, "param must be a finite number, the alpha of elu"),
        (("elu", math.nan), {}, ValueError, "param must be"),
        (("elu", True), {}, ValueError, "param must be"),
        (("gelu",), {"direction": "up"}, ValueError, "direction must be"),
        (("gelu",), {"moment": "third"}, ValueError, "moment must be"),
        (
            ("gelu",),
            {"moment": "variance", "direction": "backward"},
            ValueError,
            "no mean is taken from gradients",
        ),
        ((lambda x: 0 * x + 3,), {"moment": "variance"}, ValueError, "constant"),
    ],
)
def test_bad_arguments(arguments: Any, options: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        fastinit.gain(*arguments, **options)


# ----------------------------------------------------------------------------------- the callables


def test_computed_once_and_anew_when_it_changes() -> None:
    sizes: list[int] = []

    def counted(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return torch.tanh(x)

    first = fastinit.gain(counted)
    assert sum(sizes) > 2000
    sizes.clear()
    assert fastinit.gain(counted) == first and sum(sizes) <= 4 * 512  # the check alone
    fastinit.gain("mish")
    assert fastinit.gain("mish") is fastinit.gain("mish")

    prelu = nn.PReLU()
    assert fastinit.gain(prelu) == pytest.approx(fastinit.gain("prelu"))
    with torch.no_grad():
        prelu.weight.fill_(0.5)
    assert fastinit.gain(prelu) == pytest.approx(1.25**-0.5 * 2**0.5)
    assert prelu.weight.dtype == torch.float32 and prelu.weight.grad is None

    beta = 1.0
    f = lambda x: x * torch.sigmoid(beta * x)  # noqa: E731
    assert fastinit.gain(f) == pytest.approx(fastinit.gain("silu"))
    beta = 1.702
    assert fastinit.gain(f) == pytest.approx(fastinit.gain("quick_gelu"))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()

    def again(self, x: Tensor) -> Tensor:
        return x.sin()


CALLABLES: dict[str, tuple[Any, float]] = {
    "function of torch": (torch.sin, 1.52086662),
    "method of Tensor": (Tensor.sin, 1.52086662),
    "functional": (F.gelu, 1.53353044),
    "lambda": (lambda x: x.sin(), 1.52086662),
    "partial": (functools.partial(F.gelu, approximate="tanh"), 1.53358052),
    "module": (nn.GELU(), 1.53353044),
    "in place": (nn.ReLU(inplace=True), 1.41421356),
    "module of one's own": (Sine(), 1.52086662),
    "bound method": (Sine().again, 1.52086662),
    "sequence": (nn.Sequential(nn.Identity(), nn.SiLU()), 1.67653247),
    "dropout at rest": (nn.Sequential(nn.SiLU(), nn.Dropout(0.5)).eval(), 1.67653247),
    "makes tensors": (lambda x: torch.zeros(x.shape) + x.sin(), 1.52086662),
    "numpy": (lambda x: torch.from_numpy(np.sin(x.numpy())), 1.52086662),
}


@pytest.mark.parametrize("case", CALLABLES.values(), ids=CALLABLES)
def test_callables(case: tuple[Any, float]) -> None:
    function, expected = case
    state = torch.get_rng_state()
    assert fastinit.gain(function) == pytest.approx(expected, abs=2e-8)
    modes: list[Any] = [
        torch.inference_mode,
        lambda: torch.device("meta"),
        FakeTensorMode,
        lambda: fastinit.deferred(seed=0),
    ]
    for mode in modes:
        with mode():
            fresh = function if isinstance(function, nn.Module) else lambda x: function(x)
            assert fastinit.gain(fresh) == pytest.approx(expected, abs=2e-8)
    assert torch.equal(torch.get_rng_state(), state)


def test_from_several_threads() -> None:
    results: list[float] = []
    work = [
        threading.Thread(target=lambda: results.append(fastinit.gain(own, direction="backward")))
        for _ in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(results) == 8 and len(set(results)) == 1


def test_the_examples_of_the_document_run() -> None:
    text = (ROOT / "docs/gains.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(block, names)
    assert f"{fastinit.gain(names['swish2']):.3f}" in text
