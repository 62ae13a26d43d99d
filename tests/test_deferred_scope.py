"""Where `deferred` begins and ends: nesting, threads, errors, streams, tensors that are none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _deferring import nothing_left_behind, value, waits
from torch import Tensor, nn

import fastinit
from fastinit._intercept import pending as waiting

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with nothing_left_behind():
        yield


def test_leaving_by_an_exception_fills_what_waits() -> None:
    tensor = torch.empty(8, 4)

    def fail() -> None:
        with fastinit.deferred(seed=1):
            nn.init.normal_(tensor)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(tensor, value(0))


def test_one_failure_at_the_end_keeps_no_other_tensor_from_its_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = waiting.Call.__call__

    def fail(call: waiting.Call, tensor: torch.Tensor) -> object:
        if call.function is torch.ops.fastinit.orthogonal_.default:
            raise MemoryError
        return plain(call, tensor)

    tensors = [torch.full((8, 4), 1e9) for _ in range(3)]

    def run() -> None:
        with fastinit.deferred(seed=1):
            nn.init.normal_(tensors[0])
            nn.init.orthogonal_(tensors[1])
            nn.init.zeros_(tensors[1][0])  # after it, in the second wave
            nn.init.normal_(tensors[2])
            monkeypatch.setattr(waiting.Call, "__call__", fail)

    with pytest.raises(MemoryError):
        run()
    assert waiting.current() is None
    assert torch.equal(tensors[0], value(0)) and torch.equal(tensors[2], value(2))
    assert not tensors[1][0].any()


def test_nested_scopes_keep_one_order() -> None:
    with fastinit.deferred(seed=1):
        tensor = nn.init.normal_(torch.empty(8, 4))
        with fastinit.deferred(seed=2):
            nn.init.normal_(tensor[:4])
            nn.init.normal_(tensor[6:])
        assert not waits(tensor)
        kept = tensor.clone()
        nn.init.normal_(tensor)
    assert torch.equal(kept[:4], value(0, seed=2)[:4])
    assert torch.equal(kept[4:6], value(0)[4:6])
    assert torch.equal(tensor, value(1))


def test_one_object_can_be_entered_again() -> None:
    scope = fastinit.deferred(1)
    for _ in range(2):
        with scope:
            tensor = nn.init.normal_(torch.empty(8, 4))
        assert torch.equal(tensor, value(0))


def test_one_object_serves_several_threads() -> None:
    scope = fastinit.deferred(1)
    inside, left = threading.Event(), threading.Event()
    drawn = []

    def work() -> None:
        with scope:
            tensor = nn.init.normal_(torch.empty(8, 4))
            inside.set()
            left.wait(60)
            drawn.append(tensor)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(60)
    with scope:
        other = nn.init.normal_(torch.empty(8, 4))
        left.set()
        thread.join()
    assert torch.equal(other, value(0)) and torch.equal(drawn[0], value(0))


def test_draws_of_other_patches_and_keys_wait_too() -> None:
    with fastinit.keyed(1), fastinit.deferred(), fastinit.patch():
        a = nn.init.normal_(torch.empty(8, 4))
        b = torch.randn(8, 4)
        with fastinit.keyed(9):
            c = torch.empty(8, 4).normal_()
        assert waits(a, b, c)
    assert torch.equal(a, value(0)) and torch.equal(b, value(1))
    assert torch.equal(c, value(0, seed=9))


def test_meta_fake_and_inference_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with fastinit.deferred(seed=1):
        with torch.device("meta"):
            nn.Linear(3, 4)
        with FakeTensorMode():
            nn.Linear(3, 4)
        with torch.inference_mode():
            inferred = nn.init.normal_(torch.empty(8, 4))
            assert waits(inferred)
    assert inferred.is_inference()
    assert torch.equal(inferred, value(0))


def test_a_fake_of_a_waiting_tensor_leaves_it_real() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with fastinit.deferred(seed=1):
        tensor = nn.init.normal_(torch.empty(8, 4))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert (mode.from_tensor(tensor) * 2).shape == (8, 4)
            assert (tensor * 2).shape == (8, 4)
            tensor.data_ptr()
    assert torch.equal(tensor, value(0))


class Stream:
    """Stands in for one of CUDA, on machines that have none."""

    waited_for: list[Stream]

    def __init__(self) -> None:
        self.waited_for = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


def test_what_waits_on_cuda_keeps_the_order_of_the_default_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    default, side = Stream(), Stream()
    at_hand = [default]
    queued_in = []

    @contextlib.contextmanager
    def switched(stream: Stream) -> Iterator[None]:
        at_hand.append(stream)
        yield
        at_hand.pop()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: at_hand[-1])
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: default)
    monkeypatch.setattr(torch.cuda, "stream", switched)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    in_order = waiting._in_order
    monkeypatch.setattr(waiting, "_in_order", lambda _: in_order(torch.device("cuda", 0)))
    pending = waiting.Pending()
    with FakeTensorMode():
        fake = torch.empty(3, device="cuda")
    assert pending.admits(fake)
    tensor = torch.empty(3)
    pending.add_run(tensor, lambda _: queued_in.append(at_hand[-1]))
    with switched(side):
        assert not pending.admits(fake)
        pending.flush([tensor])
    assert queued_in == [default] and side.waited_for == [default]


class Wrapper(torch.Tensor):
    """Holds another tensor and works on that."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = [a.inner if isinstance(a, Wrapper) else a for a in args]
        return func(*plain, **(kwargs or {}))


def test_tensors_inside_others_are_seen() -> None:
    with fastinit.deferred(seed=1):
        inner = nn.init.normal_(torch.empty(8, 4))
        total = (Wrapper(inner) * 1).sum()
        assert not waits(inner)
    assert torch.equal(total, value(0).sum())


def test_compiled_functions_get_the_values() -> None:
    compiled = torch.compile(lambda t: t * 2, backend="eager")
    with fastinit.deferred(seed=1):
        tensor = nn.init.normal_(torch.empty(8, 4))
        doubled = compiled(tensor)
    torch._dynamo.reset()
    assert torch.equal(doubled, value(0) * 2)
