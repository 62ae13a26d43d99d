"""Every tensor type that torch ships, built and used under the scopes: what it does without them it
does there, and `deferred` gives what `patch` gives.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # these change torch as they are imported
import torch.distributed.tensor._shards_wrapper
from _deferring import nothing_left_behind
from torch import Tensor, nn
from torch.nn import init
from torch.nn.parameter import Buffer, UninitializedBuffer, UninitializedParameter

import fastinit
from fastinit._fill.extension import native

pytestmark = pytest.mark.filterwarnings("ignore")  # prototypes and deprecations of torch's own

Program = Callable[[], list[Tensor]]

SEED = 3


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with nothing_left_behind():
        yield


def outcome(program: Program, *scopes: Any) -> list[Tensor]:
    with torch.random.fork_rng(), contextlib.ExitStack() as stack:
        torch.manual_seed(11)
        for scope in scopes:
            stack.enter_context(scope)
        return program()


def assert_alike(results: list[Tensor], expected: list[Tensor]) -> None:
    for result, other in zip(results, expected, strict=True):
        assert type(result) is type(other)
        torch.testing.assert_close(result, other, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------ lazy modules

LAZY = sorted(name for name in dir(nn) if name.startswith("Lazy"))


def lazy_model(name: str) -> tuple[nn.Module, Tensor]:
    """A model with two of these modules, and an input for it."""
    kind = getattr(nn, name)
    if name == "LazyLinear":
        return nn.Sequential(kind(8), nn.Tanh(), kind(4)), torch.ones(2, 5)
    dims = int(name[-2])
    batch = torch.arange(3 * 6.0**dims).reshape(1, 3, *[6] * dims).repeat(2, *[1] * (dims + 1))
    if "Norm" in name:
        return nn.Sequential(kind(affine=True, track_running_stats=True), kind()), batch
    return nn.Sequential(kind(4, 3), kind(5, 2)), batch


def test_all_lazy_modules_of_torch_are_tried() -> None:
    assert len(LAZY) >= 13
    assert {"LazyLinear", "LazyConv2d", "LazyConvTranspose3d", "LazyBatchNorm1d"} <= set(LAZY)


@pytest.mark.parametrize("name", LAZY)
def test_lazy_modules_built_and_called_inside(name: str) -> None:
    def program() -> list[Tensor]:
        model, batch = lazy_model(name)
        return [model(batch).detach(), *model.state_dict().values()]

    expected = outcome(program, fastinit.patch(seed=SEED))
    assert_alike(outcome(program, fastinit.deferred(seed=SEED)), expected)
    assert_alike(outcome(program, fastinit.keyed(SEED), fastinit.patch()), expected)
    assert_alike(outcome(program, fastinit.keyed(SEED), fastinit.deferred()), expected)
    unseeded = outcome(program, fastinit.patch())
    assert_alike(outcome(program, fastinit.deferred()), unseeded)


@pytest.mark.parametrize("name", LAZY)
def test_lazy_modules_built_inside_and_first_called_outside(name: str) -> None:
    def outcome_of(scope: Any) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            with scope:
                model, batch = lazy_model(name)
                other = nn.Linear(4, 3)
            result = model(batch).detach()
            return [result, *model.state_dict().values(), *other.parameters()]

    expected = outcome_of(fastinit.patch(seed=SEED))
    assert_alike(outcome_of(fastinit.deferred(seed=SEED)), expected)


def test_a_lazy_layer_has_the_values_of_an_eager_one() -> None:
    with fastinit.deferred(seed=SEED):
        lazy = nn.LazyLinear(8)
        lazy(torch.ones(2, 5))
    with fastinit.patch(seed=SEED):
        eager = nn.Linear(5, 8)
    assert_alike(list(lazy.parameters()), list(eager.parameters()))


# ------------------------------------------------------------------------------- the other types

PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def weight(*shape: int) -> Tensor:
    return init.normal_(torch.empty(shape or (8, 4)))


@program
def uninitialized_parameter_cast_and_copied() -> list[Tensor]:
    waiting = weight()
    module = nn.LazyLinear(8).half()
    module = pickle.loads(pickle.dumps(copy.deepcopy(module).to(torch.float64)))
    module.weight.materialize((8, 3))
    init.kaiming_normal_(module.weight)
    assert "Uninitialized" in repr(module.bias)
    return [waiting, module.weight.detach()]


@program
def uninitialized_parameter_from_a_state_dict() -> list[Tensor]:
    eager, lazy, unused = nn.Linear(5, 8), nn.LazyLinear(8), nn.LazyLinear(3)
    lazy.load_state_dict(eager.state_dict())
    torch.save(unused.state_dict(), io.BytesIO())
    return [*lazy.state_dict().values(), lazy(torch.ones(2, 5)).detach()]


@program
def uninitialized_parameter_refuses() -> list[Tensor]:
    waiting, parameter = weight(), UninitializedParameter()
    for refused in (
        parameter.zero_,
        parameter.untyped_storage,
        parameter.data_ptr,
        lambda: parameter + 1,
        lambda: init.normal_(parameter),
    ):
        with pytest.raises((ValueError, RuntimeError), match="uninitialized"):
            refused()
    return [waiting]


@program
def uninitialized_buffer() -> list[Tensor]:
    buffer, other = UninitializedBuffer(), UninitializedBuffer()
    buffer.materialize((3, 4))
    buffer.normal_()
    other.materialize((2, 4), dtype=torch.bfloat16)
    other.data.uniform_()
    return [buffer.data, other.data, buffer + 1]


@program
def buffer() -> list[Tensor]:
    module = nn.Module()
    module.a = Buffer(torch.empty(8, 4))
    init.normal_(module.a)
    module.a[0].zero_()
    module.b = Buffer(torch.randn(8, 4), persistent=False)
    return [*(held.data for held in module.buffers()), module.a + module.b]


@program
def parameter() -> list[Tensor]:
    first = nn.Parameter(weight())
    second = nn.Parameter(first.data[2:], requires_grad=False)
    init.uniform_(second)
    return [first.data, second.data, (first * 2).detach()]


@program
def masked() -> list[Tensor]:
    data = weight()
    tensor: Any = torch.masked.masked_tensor(data, torch.arange(32).reshape(8, 4) % 2 == 0)
    init.normal_(data)
    total = tensor + tensor
    init.uniform_(tensor.get_data())
    return [data, *(t.get_data() for t in (total, tensor, tensor.sum(1))), total.get_mask()]


@program
def nested_strided() -> list[Tensor]:
    a, b, layer = weight(), weight(3, 4), nn.Linear(4, 5)
    copied: Any = torch.nested.nested_tensor([a, b])
    joined: Any = torch.nested.as_nested_tensor([a, b])
    init.normal_(a)
    held = nn.Parameter(copied)
    parts = [*copied.unbind(), *joined.unbind(), *layer(held).unbind()]
    return [a, b, *(part.detach() for part in parts)]


@program
def nested_jagged() -> list[Tensor]:
    a, b, values, layer = weight(), weight(3, 4), weight(9, 4), nn.Linear(4, 5)
    copied: Any = torch.nested.nested_tensor([a, b], layout=torch.jagged)
    joined: Any = torch.nested.nested_tensor_from_jagged(values, torch.tensor([0, 4, 9]))
    init.normal_(a)
    init.normal_(values)
    parts = [*copied.unbind(), *joined.unbind(), *layer(copied).unbind(), *layer(joined).unbind()]
    return [a, b, values, *(part.detach() for part in parts)]


@program
def nested_inside_a_transformer() -> list[Tensor]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    padding = torch.tensor([[False, False, True], [False, False, False]])
    with torch.no_grad():
        result = model(torch.ones(2, 3, 8), src_key_padding_mask=padding)
    return [result, *model.state_dict().values()]


@program
def quantization_aware() -> list[Tensor]:
    import torch.ao.nn.qat as qat
    import torch.ao.quantization as quantization

    config = quantization.get_default_qat_qconfig("fbgemm")
    linear, conv = qat.Linear(4, 3, qconfig=config), qat.Conv2d(2, 3, 3, qconfig=config)
    result = linear(torch.ones(2, 4)).detach()
    return [result, *(p.data for p in (*linear.parameters(), *conv.parameters()))]


@program
def quantized_dynamically() -> list[Tensor]:
    import torch.ao.quantization as quantization

    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    quantized: Any = quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    weights = [layer.weight().dequantize() for layer in quantized]
    return [quantized(torch.ones(2, 4)), *weights, *model.state_dict().values()]


@program
def quantized_tensor() -> list[Tensor]:
    real = weight()
    quantized = torch.quantize_per_tensor(real, 0.1, 0, torch.qint8)
    init.normal_(real)
    return [real, quantized.dequantize()]


@program
def pruned() -> list[Tensor]:
    from torch.nn.utils import prune

    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", 4)
    return [layer.weight.detach(), *layer.state_dict().values()]


@program
def parametrized() -> list[Tensor]:
    from torch.nn.utils import parametrizations

    layers = [
        parametrizations.weight_norm(nn.Linear(4, 3)),
        parametrizations.spectral_norm(nn.Linear(4, 3)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
    ]
    states = [value for layer in layers for value in layer.state_dict().values()]
    return [*(layer(torch.ones(2, 4)).detach() for layer in layers), *states]


@program
def per_sample_gradients() -> list[Tensor]:
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    layer: Any = nn.Linear(4, 3)
    call_for_per_sample_grads(layer)(torch.ones(2, 4)).sum().backward()
    return [layer.weight.data, layer.weight.grad_sample]


@program
def functional_call() -> list[Tensor]:
    layers = [nn.Linear(4, 3), nn.Linear(4, 3)]
    result = torch.func.functional_call(layers[0], {"weight": weight(3, 4)}, torch.ones(2, 4))
    stacked = torch.func.stack_module_state(layers)[0]
    return [result.detach(), *(value.detach() for value in stacked.values())]


@program
def functionalized() -> list[Tensor]:
    waiting = weight()
    edited = torch.func.functionalize(lambda tensor: tensor.view(-1).add_(1))(waiting)
    return [waiting, edited]


@program
def pair_of_tensors() -> list[Tensor]:
    from torch.testing._internal.two_tensor import TwoTensor

    a, b = weight(), weight()
    pair: Any = TwoTensor(a, b)
    doubled = pair * 2
    held: Any = nn.Parameter(pair)
    init.normal_(a)
    return [a, b, doubled.a, doubled.b, held.a.detach(), held.b.detach()]


@program
def pieces_of_a_shard() -> list[Tensor]:
    from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

    a, b = weight(), weight()
    held: Any = LocalShardsWrapper([a, b], [(0, 0), (8, 0)]).detach()
    init.normal_(a)
    return [a, b, *held.local_shards()]


@program
def subclass_with_a_function_of_its_own() -> list[Tensor]:
    class Named(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            return super().__torch_function__(func, types, args, kwargs or {})

    named = weight().as_subclass(Named)
    doubled = named * 2
    init.normal_(named)  # stock's, from torch's generator
    held = nn.Parameter(named.detach())
    return [tensor.detach().as_subclass(Tensor) for tensor in (named, doubled, held)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_types_of_torch_are_what_they_are_without(name: str) -> None:
    run = PROGRAMS[name]
    stock = outcome(run)
    patched = outcome(run, fastinit.patch(seed=SEED))
    shapes = [(type(tensor), tensor.shape, tensor.dtype) for tensor in stock]
    assert [(type(tensor), tensor.shape, tensor.dtype) for tensor in patched] == shapes
    assert_alike(outcome(run, fastinit.deferred(seed=SEED)), patched)
    assert_alike(outcome(run, fastinit.keyed(SEED), fastinit.patch()), patched)
    assert_alike(outcome(run, fastinit.keyed(SEED), fastinit.deferred()), patched)


def test_what_tensors_are_asked_in_one_call() -> None:
    """As Python tells of each: where it is, which is the first like it, how often it changed."""
    with torch.inference_mode():
        inference = torch.zeros(2, 3)
    tensors = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(2, 3).add_(1).mul_(2),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(0),
        torch.eye(2).to_sparse(),
        inference,
    ]
    forms = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
    assert native.first_alike(tensors) == [forms.index(form) for form in forms]
    plain = [tensor.is_cpu and tensor.layout is torch.strided for tensor in tensors]
    expected = [one.data_ptr() if yes else 0 for one, yes in zip(tensors, plain, strict=True)]
    assert native.addresses(tensors) == expected and all(expected[:4]) and not any(expected[4:7])
    assert native.versions(tensors) == [*(tensor._version for tensor in tensors[:-1]), None]
