"""`patch` reaches whatever refers to stock, and leaves torch exactly as it was."""

from __future__ import annotations

import contextlib
import functools
import inspect
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _clients import CountedDraws, changes, state_of
from torch import Tensor, nn
from torch.nn.init import kaiming_uniform_ as bound_at_import
from torch.overrides import TorchFunctionMode

import fastinit

OWNERS = (
    "torch",
    "torch.Tensor",
    "torch.nn.init",
    "torch.nn.modules.activation",
    "torch.nn.modules.linear",
    "torch.nn.modules.transformer",
    "torch.utils.dlpack",
)
# Every random function and helper of torch.nn.init, with ours and arguments that differ from the
# defaults.
FUNCTIONS: list[tuple[str, Callable[..., Tensor], tuple[Any, ...]]] = [
    ("uniform_", fastinit.uniform_, (-1.0, 2.0)),
    ("normal_", fastinit.normal_, (1.0, 2.0)),
    ("trunc_normal_", fastinit.trunc_normal_, (0.5, 2.0, -1.0, 3.0)),
    ("xavier_uniform_", fastinit.xavier_uniform_, (2.0,)),
    ("xavier_normal_", fastinit.xavier_normal_, (2.0,)),
    ("kaiming_uniform_", fastinit.kaiming_uniform_, (0.3, "fan_out")),
    ("kaiming_normal_", fastinit.kaiming_normal_, (0.0, "fan_in", "relu")),
    ("orthogonal_", fastinit.orthogonal_, (2.0,)),
    ("sparse_", fastinit.sparse_, (0.4, 2.0)),
    ("_no_grad_uniform_", fastinit.uniform_, (-1.0, 2.0)),
    ("_no_grad_normal_", fastinit.normal_, (1.0, 2.0)),
    ("_no_grad_trunc_normal_", fastinit.trunc_normal_, (0.5, 2.0, -1.0, 3.0)),
]
NAMES = [name for name, _, _ in FUNCTIONS]


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    before = state_of(*OWNERS)
    yield
    assert changes(before, state_of(*OWNERS)) == []


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def draw(function: Callable[..., Tensor], *arguments: Any, shape: tuple[int, ...] = (6, 8)) -> Any:
    with seeded():
        return function(torch.empty(shape), *arguments)


def is_ours(fill: Callable[[Tensor], object], ours: Callable[[Tensor], object]) -> bool:
    return torch.equal(draw_into(fill), draw_into(ours))


def draw_into(fill: Callable[[Tensor], object]) -> Tensor:
    tensor = torch.empty(6, 8)
    with seeded():
        fill(tensor)
    return tensor


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
    assert sum(draws.ours.values()) == len(FUNCTIONS) + 1  # orthogonal_ checks before it draws


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


class Watching(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_function_modes_see_stock_and_do_not_stop_us() -> None:
    with fastinit.patch(), CountedDraws() as draws, Watching() as watching:
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


# --------------------------------------------------------------------------- generators and keys


def test_manual_seed_and_generator_keep_their_meaning() -> None:
    with fastinit.patch():
        assert torch.equal(draw(nn.init.normal_), draw(nn.init.normal_))
        a = nn.init.normal_(torch.empty(9), generator=torch.Generator().manual_seed(3))
        b = torch.empty(9).normal_(generator=torch.Generator().manual_seed(3))
        c = torch.randn(9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(a, b) and torch.equal(a, c)
    assert torch.equal(
        a, fastinit.normal_(torch.empty(9), generator=torch.Generator().manual_seed(3))
    )


def test_a_seed_gives_draw_n_child_n_and_leaves_generators_alone() -> None:
    before = torch.get_rng_state()
    with fastinit.patch(seed=11):
        drawn = [nn.init.normal_(torch.empty(5)), torch.empty(5).normal_(), torch.randn(5)]
        named = nn.init.normal_(torch.empty(5), generator=torch.Generator().manual_seed(0))
        drawn.append(nn.init.normal_(torch.empty(5)))
    assert torch.equal(torch.get_rng_state(), before)
    for n, tensor in enumerate(drawn):
        key = fastinit.Key(11).fold_in(n)
        assert torch.equal(tensor, fastinit.normal_(torch.empty(5), key=key))
    assert not any(torch.equal(named, tensor) for tensor in drawn)


def test_the_innermost_seed_counts() -> None:
    with fastinit.keyed(1):
        first = fastinit.normal_(torch.empty(5))
        with fastinit.patch(seed=2):
            inner = nn.init.normal_(torch.empty(5))
        second = fastinit.normal_(torch.empty(5))
    for seed, n, tensor in ((1, 0, first), (2, 0, inner), (1, 1, second)):
        key = fastinit.Key(seed).fold_in(n)
        assert torch.equal(tensor, fastinit.normal_(torch.empty(5), key=key))


@pytest.mark.parametrize("bad", [1.5, "1", True])
def test_a_bad_seed_is_refused_and_changes_nothing(bad: Any) -> None:
    for make in (fastinit.patch, fastinit.keyed, fastinit.deferred):
        with pytest.raises(TypeError, match="seed must be an int"):
            make(seed=bad)


def test_keyed_is_per_context_and_can_be_used_again() -> None:
    scope = fastinit.keyed(4)
    results: list[Tensor] = []
    with scope:
        thread = threading.Thread(target=lambda: results.append(draw(fastinit.normal_)))
        thread.start()
        thread.join()
        a = fastinit.normal_(torch.empty(5))
        with scope:
            b = fastinit.normal_(torch.empty(5))
    with scope:
        c = fastinit.normal_(torch.empty(5))
    assert torch.equal(a, b) and torch.equal(a, c)
    assert torch.equal(results[0], draw(fastinit.normal_))

    @fastinit.keyed(4)
    def decorated() -> Tensor:
        return fastinit.normal_(torch.empty(5))

    assert torch.equal(decorated(), a) and torch.equal(decorated(), a)


# --------------------------------------------------------------------------------- ways to use it


def is_patched() -> bool:
    return is_ours(nn.init.normal_, fastinit.normal_)


def test_as_a_plain_call() -> None:
    fastinit.patch()
    fastinit.patch(seed=3, tensor_methods=False)
    assert torch.equal(
        nn.init.normal_(torch.empty(5)),
        fastinit.normal_(torch.empty(5), key=fastinit.Key(3).fold_in(0)),
    )
    fastinit.unpatch()
    assert is_patched()
    with fastinit.patch():
        fastinit.unpatch()
        assert is_patched()
        fastinit.unpatch()  # nothing left that a plain call has made
        assert is_patched()
    assert not is_patched()
    fastinit.unpatch()


def test_a_plain_seed_ends_with_unpatch_from_another_thread() -> None:
    fastinit.patch(seed=3)
    thread = threading.Thread(target=fastinit.unpatch)
    thread.start()
    thread.join()
    assert not is_patched()
    before = torch.get_rng_state()
    fastinit.normal_(torch.empty(5))
    assert not torch.equal(torch.get_rng_state(), before)


def test_as_a_decorator() -> None:
    @fastinit.patch(seed=9)
    def build(depth: int) -> Tensor:
        """Docs."""
        if depth:
            build(depth - 1)
        return nn.init.normal_(torch.empty(5))

    assert not is_patched()
    assert build.__doc__ == "Docs."
    expected = fastinit.normal_(torch.empty(5), key=fastinit.Key(9).fold_in(0))
    assert torch.equal(build(0), expected) and torch.equal(build(2), expected)

    with pytest.raises(TypeError, match="decorates functions"):
        fastinit.patch()(nn.Linear)


def test_one_object_serves_many_times() -> None:
    scope = fastinit.patch()
    assert is_patched()
    with scope, scope:
        assert is_patched()
    assert not is_patched()
    with scope:
        assert is_patched()
    assert not is_patched()


def test_exceptions_pass_and_torch_is_restored() -> None:
    for raising in (fastinit.patch(), fastinit.patch(seed=1)):
        with pytest.raises(KeyError), raising:
            raise KeyError

    @fastinit.patch()
    def raises() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        raises()


def test_patches_may_end_in_any_order() -> None:
    first, second = fastinit.patch(seed=1), fastinit.patch(seed=2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    drawn = nn.init.normal_(torch.empty(5))
    assert torch.equal(drawn, fastinit.normal_(torch.empty(5), key=fastinit.Key(2).fold_in(0)))
    second.__exit__(None, None, None)


def test_many_threads_enter_and_leave() -> None:
    failures: list[BaseException] = []
    shared = fastinit.patch()
    fastinit.unpatch()

    def work(seed: int) -> None:
        try:
            for _ in range(100):
                with shared, fastinit.patch(seed=seed):
                    drawn = nn.init.normal_(torch.empty(8))
                    nn.Linear(2, 2)
                    torch.empty(2).uniform_()
                key = fastinit.Key(seed).fold_in(0)
                assert torch.equal(drawn, fastinit.normal_(torch.empty(8), key=key))
        except BaseException as failure:  # shown in the main thread
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ------------------------------------------------------------------------------- leaving no trace


def test_signature_source_and_identity_stay() -> None:
    functions = {name: getattr(nn.init, name) for name in NAMES}
    told = {name: (inspect.signature(f), inspect.getsource(f)) for name, f in functions.items()}
    with fastinit.patch():
        for name, function in functions.items():
            assert getattr(nn.init, name) is function
            assert (inspect.signature(function), inspect.getsource(function)) == told[name]


def test_a_client_imported_under_the_patch_keeps_nothing_of_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_client.py").write_text(
        "import torch\nfrom torch import randn\nfrom torch.nn.init import normal_\n"
        "method = torch.Tensor.uniform_\nheld = [torch.rand]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stock = torch.randn, torch.nn.init.normal_, torch.Tensor.uniform_
    with fastinit.patch():
        import late_client  # type: ignore[import-not-found]

        assert is_ours(late_client.normal_, fastinit.normal_)
    try:
        assert (late_client.randn, late_client.normal_, late_client.method) == stock
        with CountedDraws() as draws:  # out of reach, but stock again
            late_client.held[0](3)
        assert draws.stock and not draws.ours
    finally:
        del sys.modules["late_client"]


def test_somebody_elses_cover_over_ours_survives() -> None:
    calls = []
    ours = torch.rand
    with fastinit.patch():
        covered = torch.rand

        def over(*args: Any) -> Tensor:
            calls.append(args)
            return covered(*args)

        torch.rand = over  # type: ignore[assignment]
    try:
        assert torch.rand is over  # type: ignore[comparison-overlap]
        torch.rand(3)
        assert calls == [(3,)]
    finally:
        torch.rand = ours


CACHES = """
import torch, fastinit
with fastinit.patch():
    with torch.device("meta"):
        torch.empty(3)
    torch.compile(lambda t: t.normal_() + torch.randn(3), backend="eager")(torch.empty(3))
with torch.device("meta"):
    assert torch.randn(3).is_meta
f = torch.compile(lambda t: t.normal_() + torch.randn(3), backend="eager", fullgraph=True)
f(torch.empty(3))
"""


def test_torch_does_not_remember_the_patch() -> None:
    subprocess.run([sys.executable, "-c", CACHES], check=True)


def test_found_even_if_the_first_import_is_under_a_guard() -> None:
    code = (
        "import torch.nn.init as i; stock = i.normal_; i.normal_ = lambda t: t\n"
        "import torch, fastinit\n"
        "with fastinit.patch(seed=1): drawn = stock(torch.empty(3))\n"
        "key = fastinit.Key(1).fold_in(0)\n"
        "assert torch.equal(drawn, fastinit.normal_(torch.empty(3), key=key))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_callers(fullgraph: bool) -> None:
    def build(tensor: Tensor) -> Tensor:
        return nn.init.xavier_normal_(tensor) * 1

    try:
        with fastinit.patch():
            compiled = torch.compile(build, backend="eager", fullgraph=fullgraph)
            assert torch.equal(draw(compiled), draw(fastinit.xavier_normal_))
        if not fullgraph:
            with fastinit.patch(seed=6):
                drawn = [compiled(torch.empty(3, 4)) for _ in range(3)]
            for n, tensor in enumerate(drawn):
                key = fastinit.Key(6).fold_in(n)
                assert torch.equal(tensor, fastinit.xavier_normal_(torch.empty(3, 4), key=key))
    finally:
        torch._dynamo.reset()


def test_scripting_still_finds_its_builtins() -> None:
    with fastinit.patch():
        scripted = torch.jit.script(nn.init._no_grad_normal_)
    assert isinstance(scripted, torch.jit.ScriptFunction | types.BuiltinFunctionType)
