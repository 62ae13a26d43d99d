"""The seeds of `patch`, the ways to use it, and that it leaves torch exactly as it was."""

from __future__ import annotations

import contextvars
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
from _clients import CountedDraws, unchanged
from _patching import NAMES, OWNERS, draw, is_ours, seeded
from torch import Tensor, nn

import fastinit


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with unchanged(*OWNERS):
        yield


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


def test_a_plain_seed_counts_where_it_is_entered() -> None:
    scope = contextvars.copy_context().run(lambda: fastinit.patch(seed=3))
    with scope:
        drawn = nn.init.normal_(torch.empty(5))
    assert torch.equal(drawn, fastinit.normal_(torch.empty(5), key=fastinit.Key(3).fold_in(0)))
    assert not is_patched()


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


@pytest.mark.parametrize("scope", [fastinit.patch, fastinit.keyed, fastinit.deferred])
def test_every_scope_decorates_functions_and_nothing_else(scope: Any) -> None:
    @scope(seed=9)
    def build() -> Tensor:
        return fastinit.normal_(torch.empty(5))

    assert not is_patched()
    expected = fastinit.normal_(torch.empty(5), key=fastinit.Key(9).fold_in(0))
    assert torch.equal(build(), expected) and torch.equal(build(), expected)

    async def coroutine() -> None: ...

    async def asynchronous_generator() -> Any:
        yield

    def generator() -> Any:
        yield

    for function in (coroutine, asynchronous_generator, generator):  # would run after the end
        with pytest.raises(TypeError, match="with statement inside"):
            scope(seed=9)(function)
    with pytest.raises(TypeError, match="on the class's __init__"):
        scope(seed=9)(nn.Linear)
    assert not is_patched()


def in_another_thread(function: Callable[[], object]) -> BaseException | None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def in_a_generator(scope: Any) -> Iterator[None]:
    with scope:
        yield


@pytest.mark.parametrize("make", [fastinit.patch, fastinit.keyed])
def test_a_generator_may_be_closed_in_another_thread(make: Any) -> None:
    scope = make(seed=9)
    fastinit.unpatch()
    begun = in_a_generator(scope)
    next(begun)
    with scope:
        pass
    assert in_another_thread(lambda: next(begun, None)) is None
    assert not is_patched()
    before = torch.get_rng_state()
    fastinit.normal_(torch.empty(5))
    assert not torch.equal(torch.get_rng_state(), before)


def test_deferred_ends_where_it_was_entered() -> None:
    scope = fastinit.deferred(seed=9)
    with scope:
        refusal = in_another_thread(lambda: scope.__exit__(None, None, None))
        assert isinstance(refusal, RuntimeError) and "not entered in this thread" in str(refusal)
    assert not is_patched()


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


@pytest.mark.parametrize("scope", [fastinit.patch, fastinit.deferred])
@pytest.mark.parametrize("seed", [None, 1])
def test_guards_that_replace_factories_of_torch(
    scope: Any, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As init_empty_weights(include_buffers=True) of accelerate does."""

    def build() -> list[Tensor]:
        with scope(seed=seed), seeded():
            return [
                torch.randn(8),
                torch.rand_like(kept),
                nn.init.orthogonal_(kept.clone()),
                nn.init.constant_(kept.clone(), 2.0),
            ]

    kept = torch.ones(6, 4)
    expected = build()
    for name in ("empty", "zeros", "ones", "full", "empty_like"):
        stock = getattr(torch, name)
        monkeypatch.setattr(torch, name, functools.partial(stock, device="meta"))
    made = build()
    monkeypatch.undo()
    assert all(map(torch.equal, made, expected))


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
    torch.overrides.is_tensor_method_or_property(torch.Tensor.add_)
    with torch.device("meta"):
        torch.empty(3)
    torch.compile(lambda t: t.normal_() + torch.randn(3), backend="eager")(torch.empty(3))
assert torch.overrides.is_tensor_method_or_property(torch.Tensor.normal_)
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


def made_by_a_script() -> Tensor:
    return torch.randn(3) + torch.rand_like(torch.zeros(3)).normal_()


def test_scripts_find_operators_behind_the_covers() -> None:
    known = dict(torch.jit._builtins._get_builtin_table())
    with fastinit.patch():
        scripted = torch.jit.script(made_by_a_script)
    assert scripted().shape == (3,)
    assert torch.jit._builtins._get_builtin_table() == known
