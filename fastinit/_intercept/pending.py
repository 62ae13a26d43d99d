"""Initializations that wait: which of them matter, and how they run.

Owns the records of one thread, as far as Python has to do with them: the store itself is the
compiled extension's, so that a model of ten thousand layers leaves no objects to the garbage
collector. A record belongs to a storage, so that it holds for every alias; it is dropped where a
later one overwrites all of it, or where the storage dies. Must not know how reads are noticed: that
is `deferred`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fill.extension import native
from fastinit._fill.laws import Law, Words

Run: TypeAlias = Callable[[Tensor], object]

_storage_of = torch._C.TensorBase.untyped_storage  # what `deferred` covers for everyone else


class Place(NamedTuple):
    """A tensor without its storage."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Call:
    """A run that tells what it does."""

    function: Callable[..., object]
    arguments: tuple[Any, ...]  # after the tensor

    def __call__(self, tensor: Tensor) -> object:
        return self.function(tensor, *self.arguments)


class Record(NamedTuple):
    """One initialization of one tensor: a fill, a value for all elements, or what is to be run.

    It writes within [begin, end), bytes of the storage, and all of it if it is solid.
    """

    place: Place
    begin: int
    end: int
    solid: bool
    fill: tuple[Law, Words] | None = None
    value: float | None = None
    run: Run | None = None


class Pending:
    """The records of one thread."""

    def __init__(self) -> None:
        self._records = native.Records()
        self.depth = 0  # of the stack of dispatch modes where this one's mode is on top
        self.busy = False  # running records, whose operators are to be let through

    def __bool__(self) -> bool:
        return bool(self._records.storages)

    def __len__(self) -> int:
        return len(self._records)

    def admits(self, tensor: Tensor) -> bool:
        """Whether an initialization of `tensor` may wait: it is allowed at all, would run in the
        default stream, and nobody sees the memory but torch.
        """
        if tensor.is_cuda and not _on_default_stream(tensor.device):
            return False
        admitted: bool = self._records.admits(tensor)
        return admitted

    def add_fill(self, tensor: Tensor, law: Law, words: Words) -> bool:
        """Record a fill and tell autograd; False, and nothing done, if it may not wait."""
        return self._add(self._records.add_fill, tensor, law, words)

    def add_constant(self, tensor: Tensor, value: float, *, bump: bool) -> bool:
        """Record that all elements become a number that the dtype can hold."""
        return self._add(self._records.add_constant, tensor, value, bump)

    def add_run(self, tensor: Tensor, run: Run) -> bool:
        """Record something else that writes all of `tensor`."""
        return self._add(self._records.add_action, tensor, run)

    def _add(self, add: Callable[..., bool], tensor: Tensor, *what: Any) -> bool:
        if tensor.is_cuda and not _on_default_stream(tensor.device):
            return False
        if add(tensor, *what):
            return True
        if not self._records.full(tensor):
            return False
        self.flush([tensor])
        return add(tensor, *what)

    def overwritten(self, tensor: Tensor) -> None:
        """Forget what was to be written to all of `tensor`, as something else has been."""
        self._records.overwritten(tensor)

    def survives_write(self, tensor: Tensor) -> bool:
        """Whether no record would undo a write to all of `tensor` that happens now."""
        survives: bool = self._records.survives_write(tensor)
        return survives

    def observe(self, func: Any, args: Sequence[Any]) -> None:
        """Called ahead of an operator that may use what waits; of interest to who records."""

    def last_law(self, tensor: Tensor) -> Law | None:
        """The law of what was noted last, if it is a fill of exactly this tensor."""
        numbers = self._records.last(tensor)
        return None if numbers is None else Law(*numbers)

    def allow_edits(self, tensor: Tensor) -> None:
        """Let edits of `tensor` by numbers change the law that was just noted for it, if it was."""
        self._records.allow_edits(tensor)

    def edit(self, tensor: Tensor, change: Callable[[Law], Law | None]) -> bool:
        """Change the law of what was noted last, if edits of `tensor` may and the result is one."""
        numbers = self._records.editable(tensor)
        law = None if numbers is None else change(Law(*numbers))
        if law is None:
            return False
        self._records.edit(tensor, law.mean, law.std, law.low, law.high)
        return True

    def records(self, tensor: Tensor) -> list[Record]:
        """What waits for the storage of `tensor`, in its order."""
        return [_record(*parts) for parts in self._records.of(tensor)]

    def left_by(self, tensor: Tensor) -> list[Record]:
        """What of it an initialization of all of `tensor` would leave."""
        return [_record(*parts) for parts in self._records.left_by(tensor)]

    def flush(self, tensors: Iterable[Tensor]) -> None:
        """Run what waits for the storages of these tensors."""
        self._run(self._records.take(list(tensors)))

    def flush_all(self) -> None:
        self._run(self._records.take_all())

    def expose(self, tensor: Tensor) -> None:
        """Let nothing wait for this storage from here on, as its memory is known to somebody."""
        self.flush([tensor])
        self._records.expose(tensor)

    def _run(self, waves: list[Any]) -> None:
        if not waves:
            return
        busy, self.busy = self.busy, True
        try:
            # The stack goes on to the end if one raises: nothing knows of these records any more.
            with torch.no_grad(), _real(), ExitStack() as last_first:
                for device in {wave.device for wave in waves}:
                    last_first.enter_context(_in_order(device))
                for wave in reversed(waves):
                    last_first.callback(wave.run_fills)
                    last_first.callback(wave.run_constants)
                    for tensor, run in wave.actions:
                        last_first.callback(run, tensor)
        finally:
            self.busy = busy


def _record(
    dtype: torch.dtype,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
    begin: int,
    end: int,
    solid: bool,
    what: Any,
) -> Record:
    place = Place(dtype, size, stride, offset)
    if isinstance(what, tuple):
        numbers, words = what
        return Record(place, begin, end, solid, fill=(Law(*numbers), words))
    if callable(what):
        return Record(place, begin, end, solid, run=what)
    return Record(place, begin, end, solid, value=what)


def _real() -> AbstractContextManager[None]:
    """Puts off dispatch modes while one of them would make fakes of real tensors."""
    fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    return nullcontext() if fake is None else _disable_current_modes()


def _on_default_stream(device: torch.device) -> bool:
    """Whether work queued now is in the default stream's order; no graph captures that stream."""
    at_hand: torch.cuda.Stream = torch.cuda.current_stream(device)
    return at_hand == torch.cuda.default_stream(device)


@contextmanager
def _in_order(device: torch.device) -> Iterator[None]:
    """Queues where all that waits would have run, before what comes next in the stream at hand."""
    if device.type != "cuda" or _on_default_stream(device):
        yield
        return
    default = torch.cuda.default_stream(device)
    try:
        with torch.cuda.stream(default):
            yield
    finally:
        if not torch.cuda.is_current_stream_capturing():  # a graph may wait for nothing outside
            torch.cuda.current_stream(device).wait_stream(default)


def bump_version(tensor: Tensor) -> None:
    """Tell autograd of a write that happens later."""
    if not tensor.is_inference():
        torch._C._increment_version((tensor,))


_current = threading.local()


def current() -> Pending | None:
    """The records of this thread, if initializations are to wait here and now."""
    pending: Pending | None = getattr(_current, "pending", None)
    return None if pending is None or pending.busy else pending


def set_current(pending: Pending | None) -> None:
    _current.pending = pending
