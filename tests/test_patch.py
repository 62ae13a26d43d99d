"""`patch` reaches whatever refers to stock, and leaves alone what fastinit does not take."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _clients import CountedDraws, SeenFunctions, unchanged
from _patching import FUNCTIONS, NAMES, OWNERS, draw, is_ours, seeded
from torch import Tensor, nn
from torch.nn.init import kaiming_uniform_ as bound_at_import

import fastinit


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with unchanged(*OWNERS):
        yield


# ------------------------------------------------------------------------------------ reach


@pytest.mark.parametrize(("name", "ours", "arguments"), FUNCTIONS, ids=NAMES)
def test_functions_of_nn_init_are_ours_inside_and_stock_outside(
    name: str, ours: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> None:
    stock = draw(getattr(nn.init, name), *arguments)
    with fastinit.patch():
        patched = draw(getattr(nn.init, name), *arguments)
    assert torch.equal(patched, draw(ours, *arguments))
    assert not torch.equal(patched, stock)
    assert torch.equal(draw(getattr(nn.init, name), *arguments), stock)


@pytest.mark.parametrize(("name", "ours", "arguments"), FUNCTIONS, ids=NAMES)
def test_arguments_pass_by_keyword(
    name: str, ours: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> None:
    parameters = list(inspect.signature(getattr(nn.init, name)).parameters)[1:]
    named = dict(zip(parameters, arguments, strict=False))
    generator = torch.Generator().manual_seed(5)
    with fastinit.patch():
        patched = getattr(nn.init, name)(tensor=torch.empty(6, 8), generator=generator, **named)
    expected = ours(torch.empty(6, 8), *arguments, generator=generator.manual_seed(5))
    assert torch.equal(patched, expected)


def test_every_random_function_of_nn_init_is_reached() -> None:
    stock = [
        name
        for name, function in vars(nn.init).items()
        if inspect.isfunction(function) and "generator" in inspect.signature(function).parameters
    ]
    assert sorted(stock) == sorted(NAMES)
    with fastinit.patch(), CountedDraws() as draws:
        for name, _, arguments in FUNCTIONS:
            getattr(nn.init, name)(torch.empty(6, 8), *arguments)
    assert not draws.stock
    assert sum(draws.ours.values()) == len(FUNCTIONS)


def default_argument(tensor: Tensor, function: Callable[..., Tensor] = nn.init.normal_) -> Tensor:
    return function(tensor)


def closure(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda tensor: function(tensor)


HELD = {"normal_": nn.init.normal_}
HOLDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dict": lambda tensor: HELD["normal_"](tensor),
    "partial": functools.partial(nn.init.normal_, mean=0.0),
    "default argument": default_argument,
    "closure": closure(nn.init.normal_),
    "deprecated alias": lambda tensor: nn.init.normal(tensor),  # type: ignore[attr-defined]
    "helper": nn.init._no_grad_normal_,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("holder", HOLDERS)
def test_references_made_before_the_patch_are_reached(holder: str) -> None:
    call = HOLDERS[holder]
    if holder == "helper":
        call = functools.partial(call, mean=0.0, std=1.0)
    with fastinit.patch():
        assert is_ours(call, fastinit.normal_)
    assert not is_ours(call, fastinit.normal_)


def test_names_bound_at_import_are_reached() -> None:
    with fastinit.patch():
        assert is_ours(bound_at_import, fastinit.kaiming_uniform_)
        with CountedDraws() as draws:
            nn.MultiheadAttention(8, 2)
    assert not draws.stock and draws.ours


METHODS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object]]] = {
    "normal_": (lambda t: t.normal_(1, 2), lambda t: fastinit.normal_(t, 1, 2)),
    "normal_ named": (lambda t: t.normal_(std=2, mean=1), lambda t: fastinit.normal_(t, 1, 2)),
    "uniform_": (lambda t: t.uniform_(), lambda t: fastinit.uniform_(t)),
    "uniform_ named": (
        lambda t: t.uniform_(-1, to=2),
        lambda t: fastinit.uniform_(t, -1, 2),
    ),
    "uniform_ from": (
        lambda t: t.uniform_(**{"from": -1, "to": 2}),
        lambda t: fastinit.uniform_(t, -1, 2),
    ),
    "data": (lambda t: t.data.normal_(), fastinit.normal_),
    "slice": (lambda t: t[2:].normal_(), lambda t: fastinit.normal_(t[2:])),
    "unbound": (lambda t: torch.Tensor.normal_(t), fastinit.normal_),
    "randn": (lambda t: t.copy_(torch.randn(6, 8)), fastinit.normal_),
    "randn size": (lambda t: t.copy_(torch.randn(size=(6, 8))), fastinit.normal_),
    "rand": (lambda t: t.copy_(torch.rand((6, 8))), fastinit.uniform_),
    "randn_like": (lambda t: t.copy_(torch.randn_like(t)), fastinit.normal_),
    "rand_like": (lambda t: t.copy_(torch.rand_like(t)), fastinit.uniform_),
    "normal": (
        lambda t: t.copy_(torch.normal(1, 2.0, (6, 8))),
        lambda t: fastinit.normal_(t, 1, 2),
    ),
    "normal of a named size": (
        lambda t: t.copy_(torch.normal(1, std=2, size=[6, 8])),
        lambda t: fastinit.normal_(t, 1, 2),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_tensor_methods_are_ours_where_wanted(name: str) -> None:
    call, ours = METHODS[name]
    call, ours = wiped(call), wiped(ours)
    with fastinit.patch():
        assert is_ours(call, ours)
    with fastinit.patch(tensor_methods=False):
        assert not is_ours(call, ours)
        assert is_ours(nn.init.normal_, fastinit.normal_)
    assert not is_ours(call, ours)


def wiped(call: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
    def wiped_call(tensor: Tensor) -> None:
        tensor.zero_()
        call(tensor)

    return wiped_call


def test_factories_keep_their_options() -> None:
    generator = torch.Generator().manual_seed(1)
    with fastinit.patch(), CountedDraws() as draws:
        made = torch.randn(3, 4, dtype=torch.float64, requires_grad=True, generator=generator)
        like = torch.rand_like(made, dtype=torch.bfloat16)
    assert made.dtype == torch.float64 and made.requires_grad and made.is_leaf
    assert like.dtype == torch.bfloat16 and not like.requires_grad
    assert not draws.stock
    expected = fastinit.normal_(
        torch.empty(3, 4, dtype=torch.float64), generator=generator.manual_seed(1)
    )
    assert torch.equal(made, expected)


# ----------------------------------------------------------------------------- what stays stock


def test_what_fastinit_does_not_take_goes_to_stock() -> None:
    with fastinit.patch(), CountedDraws() as draws:
        with pytest.raises(NotImplementedError, match="not implemented for 'Int'"):
            nn.init.normal_(torch.empty(3, dtype=torch.int32))
        with pytest.raises(NotImplementedError, match="not implemented for 'Int'"):
            torch.empty(3, dtype=torch.int32).normal_()
        with pytest.raises(AttributeError):
            nn.init.normal_(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="randn"):
            torch.randn("three")  # type: ignore[call-overload]
        torch.empty(3).exponential_()
        torch.empty(3, dtype=torch.int64).random_()
        assert not draws.ours
        torch.randn(3, out=torch.empty(3))
    assert {"normal_", "exponential_", "random_"} == draws.stock.keys()


NORMALS: dict[str, Callable[[], Tensor]] = {
    "mean": lambda: torch.normal(torch.ones(3), 2.0),
    "std": lambda: torch.normal(1.0, torch.ones(3)),
    "both": lambda: torch.normal(torch.ones(3), torch.ones(3)),
    "out": lambda: torch.normal(1.0, 2.0, (3,), out=torch.empty(3)),
    "no size": lambda: torch.normal(1.0, 2.0),  # type: ignore[call-overload]
    "an int for a size": lambda: torch.normal(1.0, 2.0, 3),  # type: ignore[call-overload]
    "too much": lambda: torch.normal(1.0, 2.0, (3,), (3,)),  # type: ignore[call-overload]
    "twice": lambda: torch.normal(1.0, 2.0, (3,), mean=1.0),  # type: ignore[call-overload]
    "int": lambda: torch.normal(1.0, 2.0, (3,), dtype=torch.int32),
    "negative": lambda: torch.normal(1.0, -2.0, (3,)),
}


@pytest.mark.parametrize("form", NORMALS)
def test_other_forms_of_torch_normal_are_stocks(form: str) -> None:
    def outcome() -> object:
        with seeded():
            try:
                return NORMALS[form]().tolist()
            except (TypeError, RuntimeError) as refusal:
                return type(refusal), str(refusal)

    stock = outcome()
    with fastinit.patch():
        assert outcome() == stock


def test_autograd_refuses_and_records_methods_as_ever() -> None:
    with fastinit.patch():
        with pytest.raises(RuntimeError, match="leaf Variable"):
            torch.empty(3, requires_grad=True).normal_()
        recorded = (torch.ones(3, requires_grad=True) * 2).uniform_()
        assert recorded.grad_fn is not None
        with torch.no_grad(), CountedDraws() as draws:
            torch.empty(3, requires_grad=True).normal_()
        assert not draws.stock


def test_vmap_and_forward_ad_keep_their_rules() -> None:
    with fastinit.patch():
        rows = torch.vmap(lambda x: x.clone().normal_(), randomness="different")(torch.zeros(4, 8))
        assert rows.unique().numel() == 32
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(torch.zeros(3), torch.ones(3))
            nn.init.normal_(dual)
            tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
            assert tangent is None or not tangent.any()


def made_with_randn(row: Tensor) -> Tensor:
    return row + torch.randn(8)


def made_with_rand_like(row: Tensor) -> Tensor:
    return row + torch.rand_like(torch.zeros(8))


def made_with_normal_(row: Tensor) -> Tensor:
    return row + torch.empty(8).normal_()


def made_with_init(row: Tensor) -> Tensor:
    return row + nn.init.uniform_(torch.empty(8))


@pytest.mark.parametrize(
    "make", [made_with_randn, made_with_rand_like, made_with_normal_, made_with_init]
)
@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_tensors_made_under_vmap_are_as_random_as_it_says(
    make: Callable[[Tensor], Tensor], randomness: str
) -> None:
    def rows() -> Tensor | str:
        with seeded():
            try:
                return torch.vmap(make, randomness=randomness)(torch.zeros(4, 8))
            except RuntimeError as refusal:
                return str(refusal)

    stock = rows()
    with fastinit.patch():
        patched = rows()
    if isinstance(stock, str):
        assert patched == stock
    else:
        assert isinstance(patched, Tensor) and torch.equal(patched, stock)


class Answering(torch.Tensor):
    """Keeps the functions it is asked about."""

    asked: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        cls.asked.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_type_with_a_torch_function_sees_what_stock_shows_it() -> None:
    shown = []
    for patched in (False, True):
        Answering.asked.clear()
        tensor = torch.zeros(4, 4).as_subclass(Answering)
        with fastinit.patch() if patched else contextlib.nullcontext():
            nn.init.normal_(tensor)
            nn.init.kaiming_uniform_(tensor)
            tensor.uniform_()
        shown.append([f for f in Answering.asked if "normal_" in str(f) or "uniform_" in str(f)])
    assert shown[0] == shown[1] and len(shown[0]) >= 3


class Plain(torch.nn.Parameter):
    """Changes nothing, as the parameters of many libraries."""


@pytest.mark.parametrize("kind", [Plain, nn.Parameter, nn.Buffer])
def test_types_that_change_nothing_are_taken(kind: Callable[[Tensor], Tensor]) -> None:
    with fastinit.patch(), CountedDraws() as draws:
        nn.init.normal_(kind(torch.empty(3)))
    assert not draws.stock and draws.ours["normal_"] == 1


def test_function_modes_see_stock_and_do_not_stop_us() -> None:
    with fastinit.patch(), CountedDraws() as draws, SeenFunctions() as watching:
        nn.init.normal_(torch.empty(3))
        nn.init.xavier_uniform_(torch.empty(3, 3))
        torch.empty(3).uniform_()
    assert not draws.stock
    assert nn.init.normal_ in watching.seen


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_default_devices_are_obeyed(where: str) -> None:
    with fastinit.patch(), CountedDraws() as draws, torch.device(where):
        layer = nn.Linear(3, 4)
        made = torch.randn(3), torch.rand(3, device="cpu")
    assert not draws.stock
    assert layer.weight.device.type == made[0].device.type == where
    assert made[1].device.type == "cpu"


def test_meta_tensors_consume_no_randomness() -> None:
    with seeded():
        before = torch.get_rng_state()
        with fastinit.patch(), torch.device("meta"):
            nn.Linear(3, 4)
            torch.randn(3)
            torch.empty(3).normal_()
        assert torch.equal(torch.get_rng_state(), before)
    with fastinit.patch(seed=1):
        nn.init.normal_(torch.empty(3, device="meta"))
        drawn = nn.init.normal_(torch.empty(3))
    assert torch.equal(drawn, fastinit.normal_(torch.empty(3), key=fastinit.Key(1).fold_in(0)))
