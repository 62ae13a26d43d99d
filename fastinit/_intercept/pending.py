"""Initializations that wait: which memory they belong to, which of them matter, how they run.

Owns the records of one thread and their order. A record belongs to a storage, so that it holds for
every alias; it is dropped where a later one overwrites all of it, or where the storage dies. Must
not know how reads are noticed: that is `deferred`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastinit._fill import laws
from fastinit._fill.laws import Law, Words

Run: TypeAlias = Callable[[Tensor], object]

_empty = torch.empty  # also while a library has its own in torch
_storage_of = torch._C.TensorBase.untyped_storage  # what `deferred` covers for everyone else
_free_weak_ref: Any = torch.UntypedStorage._free_weak_ref
_sweep_after = 1024  # storages noted, at least, before the dead are looked for
_most_records = 512  # of one storage, as each new one may have to be held against all


class Place(NamedTuple):
    """A tensor without its storage."""

    dtype: torch.dtype
    size: torch.Size
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
    """One initialization of one tensor.

    It runs as `fill`, together with others, or by itself as `run`. It writes within
    [begin, end), bytes of the storage, and all of it if it is solid.
    """

    place: Place
    begin: int
    end: int
    solid: bool
    fill: tuple[Law, Words] | None
    run: Run | None

    def covers(self, other: Record) -> bool:
        within = self.begin <= other.begin and other.end <= self.end
        return within and (self.solid or self.place == other.place)

    def meets(self, other: Record) -> bool:
        return self.begin < other.end and other.begin < self.end


class _Storage:
    """The records of one storage, in their order."""

    __slots__ = ("editable", "end", "exposed", "records", "reference")

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.reference: Any = storage._weak_ref()
        self.records: list[Record] = []
        self.end = 0  # none of them ends beyond
        self.editable: Record | None = None  # whose law edits may change, while it is the last
        self.exposed = False  # somebody may look at the memory behind torch's back

    def __del__(self) -> None:
        _free_weak_ref(self.reference)


class Pending:
    """The records of one thread."""

    def __init__(self) -> None:
        # By address, which cannot be used anew as long as a weak reference is held.
        self._storages: dict[int, _Storage] = {}
        self._sweep_at = _sweep_after
        self.depth = 0  # of the stack of dispatch modes where this one's mode is on top
        self.busy = False  # running records, whose operators are to be let through

    def __bool__(self) -> bool:
        return bool(self._storages)

    def accepts(self, tensor: Tensor) -> bool:
        """Whether an initialization of `tensor` may wait."""
        return self.admits(tensor) is not None

    def admits(self, tensor: Tensor) -> torch.UntypedStorage | None:
        """The storage of `tensor`, if an initialization of it may wait: it is allowed at all, and
        nobody sees the memory but torch.
        """
        kind = tensor.device.type
        if (
            (kind != "cpu" and kind != "cuda")
            or tensor.layout is not torch.strided
            or tensor.numel() == 0
            or tensor.is_nested
            or tensor.is_conj()
            or tensor.is_neg()
            or (tensor.is_inference() and not torch.is_inference_mode_enabled())  # autograd refuses
            or not (tensor.is_contiguous() or _without_repeats(tensor))
        ):
            return None
        if kind == "cuda" and not _on_default_stream(tensor.device):
            return None
        storage = _storage_of(tensor)
        held = self._storages.get(storage._cdata)
        if held is not None and held.exposed:
            return None
        # torch forbids to resize what it handed to NumPy, got from it, or does not own.
        seen = not storage.resizable() or (kind == "cpu" and storage.is_shared())
        return None if seen else storage

    def add_fill(
        self,
        tensor: Tensor,
        law: Law,
        words: Words,
        storage: torch.UntypedStorage | None = None,
    ) -> None:
        self._add(tensor, (law, words), None, storage)

    def add_run(self, tensor: Tensor, run: Run) -> None:
        self._add(tensor, None, run)

    def _add(
        self,
        tensor: Tensor,
        fill: tuple[Law, Words] | None,
        run: Run | None,
        storage: torch.UntypedStorage | None = None,
    ) -> None:
        storage = storage or _storage_of(tensor)
        held = self._storages.get(storage._cdata)
        if held is None:
            if len(self._storages) >= self._sweep_at:
                self._sweep()
            held = self._storages[storage._cdata] = _Storage(storage)
        record = _record(tensor, fill, run)
        _drop_covered(held, record)
        if len(held.records) >= _most_records:
            self._run([held])
        held.records.append(record)
        held.end = max(held.end, record.end)

    def overwritten(self, tensor: Tensor) -> None:
        """Forget what was to be written to all of `tensor`, as something else has been."""
        held = self._held(tensor)
        if held is not None:
            _drop_covered(held, _record(tensor, None, None))

    def survives_write(self, tensor: Tensor) -> bool:
        """Whether no record would undo a write to all of `tensor` that happens now."""
        held = self._held(tensor)
        if held is None or not held.records:
            return True
        write = _record(tensor, None, None)
        return all(write.covers(record) or not write.meets(record) for record in held.records)

    def allow_edits(self, tensor: Tensor) -> None:
        """Let edits of `tensor` by numbers change the law that was just noted for it, if it was."""
        held = self._held(tensor)
        if held is not None and held.records and held.records[-1].place == _place(tensor):
            held.editable = held.records[-1]

    def edit(self, tensor: Tensor, change: Callable[[Law], Law | None]) -> bool:
        """Change the law of what was noted last, if edits of `tensor` may and the result is one."""
        held = self._held(tensor)
        if held is None or not held.records or held.records[-1] is not held.editable:
            return False
        record = held.editable
        law = change(record.fill[0]) if record.fill and record.place == _place(tensor) else None
        if law is None or record.fill is None:
            return False
        held.records[-1] = held.editable = record._replace(fill=(law, record.fill[1]))
        return True

    def records(self, tensor: Tensor) -> list[Record]:
        """What waits for the storage of `tensor`, in its order."""
        held = self._held(tensor)
        return [] if held is None else list(held.records)

    def would_cover(self, tensor: Tensor, record: Record) -> bool:
        """Whether an initialization of `tensor` leaves nothing of a record of its storage."""
        return _record(tensor, None, None).covers(record)

    def flush(self, tensors: Iterable[Tensor]) -> None:
        """Run what waits for the storages of these tensors."""
        found: dict[int, _Storage] = {}
        for tensor in tensors:
            try:
                address = _storage_of(tensor)._cdata
            except (NotImplementedError, RuntimeError):  # sparse and the like hold tensors inside
                return self.flush_all()
            if address in self._storages:
                found[address] = self._storages[address]
        self._run(list(found.values()))

    def flush_all(self) -> None:
        self._run(list(self._storages.values()))

    def expose(self, tensor: Tensor) -> None:
        """Let nothing wait for this storage from here on, as its memory is known to somebody."""
        storage = _storage_of(tensor)
        held = self._storages.get(storage._cdata)
        if held is None:
            held = self._storages[storage._cdata] = _Storage(storage)
        self._run([held])
        held.exposed = True

    def _held(self, tensor: Tensor) -> _Storage | None:
        return self._storages.get(_storage_of(tensor)._cdata)

    def _sweep(self) -> None:
        for address, held in list(self._storages.items()):
            if _alive(held.reference) is None:
                del self._storages[address]
        self._sweep_at = 2 * len(self._storages) + _sweep_after

    def _run(self, storages: list[_Storage]) -> None:
        waves: list[list[tuple[Record, torch.UntypedStorage]]] = []
        for held in storages:
            records, held.records, held.end = held.records, [], 0
            storage = _alive(held.reference) if records else None
            if storage is not None:
                for wave, record in zip(_waves(records), records, strict=True):
                    while len(waves) <= wave:
                        waves.append([])
                    waves[wave].append((record, storage))
        if not waves:
            return
        busy, self.busy = self.busy, True
        try:
            # The stack goes on to the end if one raises: nothing knows of these records any more.
            with torch.no_grad(), _real(), ExitStack() as last_first:
                for device in {storage.device for wave in waves for _, storage in wave}:
                    last_first.enter_context(_in_order(device))
                for wave_of_records in reversed(waves):
                    for run in _runs(wave_of_records):
                        last_first.callback(run)
        finally:
            self.busy = busy


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


def _alive(reference: Any) -> torch.UntypedStorage | None:
    storage: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(reference)
    return storage


def _record(tensor: Tensor, fill: tuple[Law, Words] | None, run: Run | None) -> Record:
    place = _place(tensor)
    item = tensor.element_size()
    if tensor.is_contiguous():
        begin = place.offset * item
        return Record(place, begin, begin + tensor.numel() * item, True, fill, run)
    last = sum((n - 1) * s for n, s in zip(place.size, place.stride, strict=True))
    begin, end = place.offset * item, (place.offset + last + 1) * item
    # Distinct elements that are as many as their span has room for leave no gap.
    solid = tensor.numel() * item == end - begin and _distinct(place)
    return Record(place, begin, end, solid, fill, run)


def _without_repeats(tensor: Tensor) -> bool:
    """Whether no dimension shows the same elements again and again."""
    return all(s != 0 or n == 1 for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _place(tensor: Tensor) -> Place:
    """The place of `tensor`; one object for all that are alike, as layers are."""
    place = Place(tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
    if len(_places) >= _MOST_PLACES:
        _places.clear()
    return _places.setdefault(place, place)


_places: dict[Place, Place] = {}
_MOST_PLACES = 4096


def _distinct(place: Place) -> bool:
    """Whether no two elements share memory; a False may be wrong."""
    room = 1
    for stride, size in sorted(zip(place.stride, place.size, strict=True)):
        if size > 1:
            if stride < room:
                return False
            room = stride * size
    return True


def _drop_covered(held: _Storage, record: Record) -> None:
    if record.begin < held.end:  # not simply behind all others
        held.records = [other for other in held.records if not record.covers(other)]


def _waves(records: list[Record]) -> list[int]:
    """For each record the number of the first wave that is after all records it must follow."""
    waves: list[int] = []
    end = 0
    for i, record in enumerate(records):
        wave = 0
        if record.begin < end:
            met = (waves[j] for j in range(i) if records[j].meets(record))
            wave = 1 + max(met, default=-1)
        waves.append(wave)
        end = max(end, record.end)
    return waves


def _runs(wave: list[tuple[Record, torch.UntypedStorage]]) -> list[Callable[[], object]]:
    """What runs records that touch nothing of each other's: fills at once, a device at a time."""
    runs: list[Callable[[], object]] = []
    fills: dict[torch.device, list[tuple[Tensor, Law, Words]]] = {}
    with torch._C._DisableTorchDispatch():  # nothing is written yet: modes need not see it
        for record, storage in wave:
            place = record.place
            tensor = _empty(0, dtype=place.dtype, device=storage.device)
            tensor.set_(storage, place.offset, place.size, place.stride)
            if record.fill is not None:
                fills.setdefault(storage.device, []).append((tensor, *record.fill))
            else:
                assert record.run is not None
                runs.append(partial(record.run, tensor))
    return runs + [partial(laws.fill, batch) for batch in fills.values()]


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
