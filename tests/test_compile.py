"""The machinery around tensors: compilation, fake and meta tensors, autograd, overrides."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pytest
import torch
from _clients import SeenFunctions
from conftest import POISON
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import fastinit
from fastinit import Key, Region

RANDOM: dict[str, Any] = {
    "uniform_": lambda w, **k: fastinit.uniform_(w, -0.5, 0.5, **k),
    "normal_": lambda w, **k: fastinit.normal_(w, 0.1, 0.02, **k),
    "trunc_normal_": lambda w, **k: fastinit.trunc_normal_(w, std=0.02, a=-0.04, b=0.04, **k),
    "xavier_uniform_": lambda w, **k: fastinit.xavier_uniform_(w, 2.0, **k),
    "xavier_normal_": lambda w, **k: fastinit.xavier_normal_(w, **k),
    "kaiming_uniform_": lambda w, **k: fastinit.kaiming_uniform_(w, nonlinearity="relu", **k),
    "kaiming_normal_": lambda w, **k: fastinit.kaiming_normal_(w, mode="fan_out", **k),
    "kaiming_axes": lambda w, **k: fastinit.kaiming_normal_(w, in_axis=0, out_axis=(1,), **k),
    "variance_scaling_": lambda w, **k: fastinit.variance_scaling_(w, 2.0, "fan_avg", **k),
    "lecun_normal_": lambda w, **k: fastinit.lecun_normal_(w, **k),
    "lecun_uniform_": lambda w, **k: fastinit.lecun_uniform_(w, **k),
    "orthogonal_": lambda w, **k: fastinit.orthogonal_(w, 2.0, **k),
    "sparse_": lambda w, **k: fastinit.sparse_(w, 0.3, **k),
}
FIXED: dict[str, Any] = {
    "constant_": lambda w: fastinit.constant_(w, 0.3),
    "ones_": fastinit.ones_,
    "zeros_": fastinit.zeros_,
    "eye_": fastinit.eye_,
    "dirac_": lambda w: fastinit.dirac_(w.unsqueeze(2)).squeeze(2),
}

random = pytest.mark.parametrize("fill", RANDOM.values(), ids=RANDOM)
every = pytest.mark.parametrize("fill", [*RANDOM.values(), *FIXED.values()], ids=[*RANDOM, *FIXED])


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def compiled(function: Any, **options: Any) -> Any:
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


@random
def test_compiled_fills_give_the_same_bits(fill: Any, device: str) -> None:
    key = Key(2**64 - 3, 5)
    function = compiled(lambda w: fill(w, key=key))
    w = torch.empty(8, 6, device=device)
    assert torch.equal(function(w), fill(torch.empty(8, 6, device=device), key=key))
    transposed = torch.empty(6, 8, device=device).t()
    function(transposed)
    torch.testing.assert_close(transposed, w)


@random
def test_compiled_fills_draw_from_the_generator(fill: Any) -> None:
    torch.manual_seed(1)
    eager = [fill(torch.empty(8, 6)) for _ in range(2)]
    torch.manual_seed(1)
    function = compiled(fill)
    traced = [function(torch.empty(8, 6)) for _ in range(2)]
    assert torch.equal(eager[0], traced[0]) and torch.equal(eager[1], traced[1])


@pytest.mark.parametrize("fill", FIXED.values(), ids=FIXED)
def test_compiled_constants(fill: Any) -> None:
    function = compiled(fill)
    assert torch.equal(function(torch.empty(8, 6)), fill(torch.empty(8, 6)))
    assert torch.equal(function(torch.empty(6, 8).t()), fill(torch.empty(8, 6)))


def test_compiled_with_inductor() -> None:
    def build(w: Tensor, x: Tensor) -> Tensor:
        fastinit.kaiming_normal_(w, nonlinearity="relu", key=3)
        return x @ w.t() + 1

    w, x = torch.empty(16, 8), torch.ones(4, 8)
    expected = x @ fastinit.kaiming_normal_(torch.empty(16, 8), nonlinearity="relu", key=3).t() + 1
    torch.testing.assert_close(torch.compile(build, fullgraph=True)(w, x), expected)
    assert torch.equal(w, fastinit.kaiming_normal_(torch.empty(16, 8), nonlinearity="relu", key=3))


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63, 2**64 - 1])
def test_compiled_keys_from_outside(seed: int) -> None:
    function = compiled(lambda w, key: fastinit.normal_(w, key=key))
    for word in (seed, seed + 1, seed + 2):
        expected = fastinit.normal_(torch.empty(8), key=word)
        assert torch.equal(function(torch.empty(8), word), expected)
        assert torch.equal(function(torch.empty(8), Key(word)), expected)
        assert torch.equal(function(torch.empty(8), Key(word).to_tensor()), expected)


def test_compiled_keys_from_inside() -> None:
    def by_index(w: Tensor) -> Tensor:
        return fastinit.normal_(w, key=Key(3).fold_in(2))

    def by_name(w: Tensor) -> Tensor:
        return fastinit.normal_(w, key=Key(3).fold_in("layers.0.weight"))

    def by_split(w: Tensor) -> Tensor:
        return fastinit.normal_(w, key=Key(3).split(2)[1])

    for function in (by_index, by_name, by_split):
        assert torch.equal(compiled(function)(torch.empty(8)), function(torch.empty(8)))


def test_compiled_gain_and_region() -> None:
    def build(w: Tensor) -> Tensor:
        gain = fastinit.calculate_gain("leaky_relu", 0.2)
        return fastinit.xavier_normal_(w, gain, key=1, region=Region((16, 6), (8, 0)))

    assert torch.equal(compiled(build)(torch.empty(8, 6)), build(torch.empty(8, 6)))


def test_compiled_arguments_may_change() -> None:
    function = compiled(lambda w, std, a: fastinit.kaiming_normal_(fastinit.normal_(w, 0, std), a))
    for std, a in ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6)):
        torch.manual_seed(1)
        traced = function(torch.empty(8, 6), std, a)
        torch.manual_seed(1)
        eager = fastinit.kaiming_normal_(fastinit.normal_(torch.empty(8, 6), 0, std), a)
        assert torch.equal(traced, eager)


def test_compiled_shapes_may_change() -> None:
    function = compiled(lambda w: fastinit.kaiming_uniform_(w, key=1), dynamic=True)
    for shape in ((8, 6), (5, 4), (3, 9)):
        expected = fastinit.kaiming_uniform_(torch.empty(shape), key=1)
        assert torch.equal(function(torch.empty(shape)), expected)


def test_compiled_scale_tensor() -> None:
    function = compiled(lambda w, std: fastinit.normal_(w, 0, std, key=1))
    for std in (0.5, 2.0):
        expected = fastinit.normal_(torch.empty(8), 0, std, key=1)
        assert torch.equal(function(torch.empty(8), torch.tensor(std)), expected)


def test_compiled_parameter() -> None:
    w = torch.nn.Parameter(torch.empty(8, 6))
    assert compiled(lambda: fastinit.kaiming_normal_(w, key=1))() is w
    assert torch.equal(w, fastinit.kaiming_normal_(torch.empty(8, 6), key=1))


OPS = torch.ops.fastinit
STREAM = {"key": [3, 0]}
AXES = ([1], [0], [], 1)
CALLS = [
    (OPS.uniform_, (-1.0, 1.0), STREAM),
    (OPS.normal_, (0.0, 1.0, None), STREAM),
    (OPS.normal_, (0.0, 1.0, torch.tensor(0.5)), STREAM),
    (OPS.normal_, (0.0, 1.0, None), {"key_tensor": Key(3).to_tensor()}),
    (OPS.trunc_normal_, (0.0, 1.0, -2.0, 2.0, None), STREAM),
    (OPS.variance_scaling_, ("normal", 1.0, None, "fan_in", "relu", 0.0, *AXES), STREAM),
    (OPS.variance_scaling_, ("uniform", 1.0, None, "fan_avg", "linear", 0.0, *AXES), STREAM),
    (OPS.sparse_, (0.3, 1.0), STREAM),
    (OPS.orthogonal_, (1.5, None, None), STREAM),
    (OPS.orthogonal_, (1.0, torch.tensor(0.5), None), STREAM),
    (OPS.normal_, (0.0, 1.0, None), {**STREAM, "global_shape": [16, 6], "offsets": [8, 0]}),
]


@pytest.mark.parametrize(("op", "args", "kwargs"), CALLS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(op: Any, args: Any, kwargs: Any, requires_grad: bool, device: str) -> None:
    on_device = [a.to(device) if isinstance(a, Tensor) else a for a in args]
    w = torch.empty(8, 6, device=device, requires_grad=requires_grad)
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not requires_grad:  # a leaf can only be filled where it is one, not in a functionalized copy
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(op.default, (w, *on_device), kwargs, test_utils=tests)


@every
def test_meta_is_a_no_op(fill: Any) -> None:
    before = torch.get_rng_state()
    w = torch.empty(8, 6, device="meta")
    result = fill(w)
    assert result.is_meta and result.shape == (8, 6)
    assert torch.equal(torch.get_rng_state(), before)


@every
def test_a_meta_device_context_is_a_no_op(fill: Any) -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        w = torch.empty(8, 6)
        assert fill(w).is_meta
    assert torch.equal(torch.get_rng_state(), before)


@every
def test_a_meta_device_context_does_not_catch_real_tensors(fill: Any, unwritten: Any) -> None:
    w = torch.full((8, 6), POISON)
    with torch.device("meta"):
        fill(w)
    assert unwritten(w) == 0


@every
def test_fake_tensors(fill: Any) -> None:
    before = torch.get_rng_state()
    with FakeTensorMode() as mode:
        w = torch.empty(8, 6)
        result = fill(w)
        assert result.shape == (8, 6) and result.device.type == "cpu"
        assert result.fake_mode is mode  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), before)


@random
def test_fake_tensors_with_keys(fill: Any) -> None:
    key = Key(1).to_tensor()
    with FakeTensorMode(allow_non_fake_inputs=True):
        w = torch.empty(8, 6)
        assert fill(w, key=1) is w and fill(w, key=key) is w


@every
def test_leaf_that_requires_grad(fill: Any) -> None:
    w = torch.empty(8, 6, requires_grad=True)
    result = fill(w)
    if result is not w:  # through views, as dirac_ here
        pytest.skip("the helper makes a view that requires grad")
    assert w.is_leaf and w.requires_grad and w.grad_fn is None
    (w * w).sum().backward()
    assert w.grad is not None and torch.equal(w.grad, 2 * w.detach())


def test_dirac_of_a_leaf() -> None:
    w = torch.empty(4, 4, 3, requires_grad=True)
    assert fastinit.dirac_(w) is w and w.is_leaf and w.grad_fn is None


@random
def test_nothing_is_recorded(fill: Any) -> None:
    x = torch.ones(8, 6, requires_grad=True)
    w = x * 2
    fill(w, key=1)
    assert w.requires_grad and torch.equal(w.detach(), fill(torch.empty(8, 6), key=1))


def test_scale_tensors_are_not_recorded() -> None:
    std = torch.tensor(0.5, requires_grad=True)
    for w in (
        fastinit.normal_(torch.empty(8, 6), 0, std),
        fastinit.trunc_normal_(torch.empty(8, 6), 0, std),
        fastinit.xavier_normal_(torch.empty(8, 6), std),
        fastinit.orthogonal_(torch.empty(8, 6), std),
        fastinit.variance_scaling_(torch.empty(8, 6), std),
    ):
        assert not w.requires_grad and w.grad_fn is None


@every
def test_the_version_counter_moves(fill: Any) -> None:
    w = torch.empty(8, 6)
    before = w._version
    fill(w)
    assert w._version > before


@random
def test_backward_notices_a_refill(fill: Any) -> None:
    w = torch.ones(8, 6)
    x = torch.ones(8, 6, requires_grad=True)
    loss = (w * x).sum()
    fill(w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every
def test_inference_mode(fill: Any, unwritten: Any) -> None:
    with torch.inference_mode():
        w = torch.full((8, 6), POISON)
        fill(w)
        assert unwritten(w) == 0
    plain = torch.full((8, 6), POISON)
    with torch.inference_mode():
        fill(plain)
    assert unwritten(plain) == 0
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        fill(w)


class Recorded(Tensor):
    """A subclass that notes which functions reach it."""

    seen: ClassVar[list[tuple[Any, dict[str, Any]]]] = []

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        cls.seen.append((func, kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})


NAMED = [
    *(n for n in RANDOM if n != "kaiming_axes" and not n.startswith("lecun")),
    "constant_",
]


@pytest.mark.parametrize("name", NAMED)
def test_a_subclass_sees_the_public_function(name: str) -> None:
    fill = RANDOM.get(name) or FIXED[name]
    w = torch.empty(8, 6).as_subclass(Recorded)
    Recorded.seen.clear()
    assert fill(w) is w
    function, kwargs = Recorded.seen[0]
    assert function is getattr(fastinit, name)
    assert kwargs["tensor"] is w
    if name != "constant_":
        assert {"generator", "key", "region"} <= set(kwargs)


@random
def test_a_subclass_gets_the_same_values(fill: Any) -> None:
    w = torch.empty(8, 6).as_subclass(Recorded)
    fill(w, key=1)
    assert torch.equal(w.as_subclass(Tensor), fill(torch.empty(8, 6), key=1))


@pytest.mark.parametrize("name", NAMED)
def test_a_mode_sees_the_public_function(name: str) -> None:
    fill = RANDOM.get(name) or FIXED[name]
    w = torch.empty(8, 6)
    with SeenFunctions() as mode:
        assert fill(w) is w
    assert mode.seen[0] is getattr(fastinit, name)


@random
def test_a_mode_changes_no_value(fill: Any) -> None:
    with SeenFunctions():
        w = fill(torch.empty(8, 6), key=1)
    assert torch.equal(w, fill(torch.empty(8, 6), key=1))


def test_a_mode_may_answer_itself() -> None:
    class Refuse(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            return "answered"

    with Refuse():
        assert fastinit.kaiming_normal_(torch.empty(2, 2)) == "answered"  # type: ignore[comparison-overlap]


def test_import_brings_nothing_optional() -> None:
    import subprocess

    code = (
        "import sys, fastinit; "
        "print([m for m in ('torch._dynamo', 'matplotlib', 'transformers', 'scipy', 'tqdm',"
        " 'torch.distributed.tensor') if m in sys.modules])"
    )
    plain = code.replace("fastinit", "torch")
    run = [subprocess.check_output([sys.executable, "-c", c], text=True) for c in (code, plain)]
    assert run[0] == run[1]
