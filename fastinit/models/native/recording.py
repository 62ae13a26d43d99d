"""Stand-ins for the tensors of a model, on which its own code is let loose, and what that did.

Owns the whole, empty tensors that take the place of parameters and buffers for that time, however
those are sharded and wherever they are; the keys of draws by the name of the tensor they write; and
the translation of what waits for a stand-in into steps. Must not know which code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fastinit._fill.keys import Key, close_scope, open_scope
from fastinit._fill.laws import Words
from fastinit._intercept.deferred import recording
from fastinit._intercept.pending import Call, Pending, Place, Record
from fastinit.initializers import Orthogonal, Sparse
from fastinit.models.boxes import Box, box_of
from fastinit.models.steps import Constant, Draw, Made, Step, Value, What, words_of
from fastinit.recipes.names import written_type

_FLAG = "_is_hf_initialized"  # transformers' note that something is loaded; stale ones stop it
_SPARSE = torch.ops.fastinit.sparse_.default
_ORTHOGONAL = torch.ops.fastinit.orthogonal_.default


class _Before:
    """What a stand-in holds before anything is written to it; it waits like an initialization.

    It is gone once all of the tensor has been overwritten, and has run if somebody looked before.
    """

    def __init__(self, actual: Tensor | None) -> None:
        self._actual = actual
        self.ran = False

    def __call__(self, tensor: Tensor) -> None:
        self.ran = True
        if self._actual is None:
            poison(tensor)
        else:
            tensor.copy_(_whole(self._actual))


def address(tensor: Tensor) -> int:
    """Of the storage, asked for in a way that `recording` does not take for a look inside."""
    with torch._C.DisableTorchFunction():
        address: int = torch._C.TensorBase.untyped_storage(tensor)._cdata
    return address


def poison(tensor: Tensor) -> None:
    """Write what shows where code forgot to write: NaN, or the smallest integer."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).min)


def poisoned(tensor: Tensor) -> bool:
    """Whether any element is what `poison` writes."""
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().any())
    if tensor.dtype == torch.bool:
        return False
    return bool((tensor == torch.iinfo(tensor.dtype).min).any())


def _whole(tensor: Any) -> Tensor:
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole.detach()


class StandIn:
    """What stands for one tensor of the model."""

    def __init__(self, name: str, actual: Tensor, pending: Recorder) -> None:
        self.name = name
        self.memory = torch.empty(actual.shape, dtype=actual.dtype, device="cpu")
        self.tensor = self.memory  # what the model holds
        if isinstance(actual, nn.Parameter):
            self.tensor = nn.Parameter(self.memory, requires_grad=actual.requires_grad)
            self.tensor.__dict__.update(
                {word: held for word, held in vars(actual).items() if word != _FLAG}
            )
        self.was_meta = actual.is_meta
        self.before = _Before(None if actual.is_meta else actual)
        self.last = -1  # number of the last draw that ran
        if actual.numel():
            pending.add_run(self.memory, self.before)


# The dictionary of a module that holds a tensor, the name there, and what stands there.
_Place: TypeAlias = tuple[dict[str, Any], str, StandIn]


class Recorder(Pending):
    """What waits for stand-ins, and the keys of what is drawn meanwhile."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.module = ""
        self.places: list[_Place] = []
        self.shared: dict[int, list[_Place]] = {}  # by module, but for each tensor's first
        self.computed: dict[int, list[tuple[str, StandIn]]] = {}  # by module
        self.observer: Callable[[Any, Sequence[Any]], None] | None = None
        self._lent: list[_Place] = []
        self._plain: tuple[nn.Module, type] | None = None  # a module that lost parametrizations
        self._key = Key(seed)
        self._stand_ins: dict[int, StandIn] = {}  # by the address of the storage
        self._by_actual: dict[int, StandIn] = {}
        self._numbers: dict[Words, int] = {}
        self._counts: dict[str, int] = {}

    def stand_in(self, name: str, actual: Tensor) -> tuple[bool, StandIn]:
        """Whether this is the first name of the tensor, and what stands for it."""
        made = self._by_actual.get(id(actual))
        is_first = made is None
        if made is None:
            made = self._by_actual[id(actual)] = StandIn(name, actual, self)
            self._stand_ins[address(made.memory)] = made
        return is_first, made

    def of(self, actual: Tensor) -> StandIn:
        """The one that stood for this tensor."""
        return self._by_actual[id(actual)]

    def enter(self, name: str, module: nn.Module, *, constructor: bool = False) -> None:
        """Note whose code runs next.

        When a module was made, tensors that it shares with an earlier one were still its own. So
        its own code gets something else to write instead. And tensors that parametrizations compute
        were plain ones then: so they are while it is the constructor's code that runs.
        """
        self._leave()
        self.module = name
        if constructor and id(module) in self.computed:
            self._plain = module, type(module)
            module.__class__ = written_type(type(module))
            for word, one in self.computed[id(module)]:
                module._parameters[word] = one.tensor  # type: ignore[assignment]
        for held, word, found in self.shared.get(id(module), ()):
            held[word] = nn.Parameter(torch.empty_like(found.memory), requires_grad=False)
            self._lent.append((held, word, found))

    def _leave(self) -> None:
        if self._plain is not None:
            module, kind = self._plain
            for word, _ in self.computed[id(module)]:
                del module._parameters[word]
            module.__class__, self._plain = kind, None
        while self._lent:
            held, word, found = self._lent.pop()
            held[word] = found.tensor

    def observe(self, func: Any, args: Sequence[Any]) -> None:
        """Tell the observer, if there is one, of an operator that may use what waits."""
        if self.observer is not None:
            self.observer(func, args)

    def adopt(self) -> None:
        """Write to the stand-ins what code has put in their places instead of writing to them."""
        self._leave()
        for held, word, found in self.places:
            tensor = held.get(word)
            if tensor is not found.tensor:
                held[word] = found.tensor
            elif address(tensor) == address(found.memory):
                continue
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            if tensor.shape == found.memory.shape:
                found.memory.copy_(tensor.detach())
                found.tensor.data = found.memory

    def unwritten(self, tensor: Tensor) -> bool:
        """Whether a stand-in, given as its tensor, still lacks values."""
        self.adopt()
        found = self._stand_ins[address(tensor)]
        if self.untouched(found):
            return True
        return found.before.ran and found.was_meta and poisoned(found.memory)

    def state(self, tensor: Tensor) -> list[Record]:
        """What waits for a stand-in, given as its tensor."""
        found = self._stand_ins[address(tensor)]
        with torch._C.DisableTorchFunction():  # or `recording` would take it for a look inside
            return self.records(found.memory)

    def choose(self, tensor: Tensor) -> Key:
        """The key of a draw: by the name of the tensor it writes, and its number there.

        Numbers count the draws before, but for those overwritten before anyone read them. Draws
        into anything else are counted for the module whose code runs.
        """
        found = self._stand_ins.get(address(tensor))
        if found is None:
            number = self._counts.get(self.module, 0)
            self._counts[self.module] = number + 1
            return self._key.fold_in(self.module).fold_in(number)
        number = 1 + max([found.last, *self._left_by(tensor)])
        key = self._key.fold_in(found.name)
        if number:
            key = key.fold_in(number)
        self._numbers[words_of(key)] = number
        return key

    def _left_by(self, tensor: Tensor) -> Iterator[int]:
        """The numbers of draws that wait and that a fill of `tensor` does not cover."""
        for record in self.left_by(tensor):
            words = _words(record)
            if words in self._numbers:
                yield self._numbers[words]

    def flush(self, tensors: Iterable[Tensor]) -> None:
        """As ever, and the last draws are counted."""
        tensors = list(tensors)
        if all(torch._C._has_storage(tensor) for tensor in tensors):
            found = {address(tensor) for tensor in tensors}
            self._count(self._stand_ins[one] for one in found & self._stand_ins.keys())
        else:  # they hold tensors inside, which are any
            self._count(self._stand_ins.values())
        super().flush(tensors)

    def flush_all(self) -> None:
        """As ever, and the last draws are counted."""
        self._count(self._stand_ins.values())
        super().flush_all()

    def _count(self, found: Iterable[StandIn]) -> None:
        """Note the last draw that is about to run for each of these."""
        for one in found:
            words = (_words(record) for record in self.records(one.memory))
            drawn = [self._numbers.get(word, -1) for word in words if word is not None]
            one.last = max([one.last, *drawn])

    # ---------------------------------------------------------------------------- the outcome

    def untouched(self, found: StandIn) -> bool:
        """Whether part of the tensor was never written, as far as can be told without a look."""
        if found.memory.numel() == 0:
            return False
        return any(record.run is found.before for record in self.records(found.memory))

    def steps(self, found: StandIn) -> tuple[list[Step], bool]:
        """What was done to the tensor, none if nothing was; and whether part of it was never
        written, as far as can be told without a look.
        """
        records = self.records(found.memory)
        waits = bool(records) and records[0].run is found.before
        if (waits and len(records) == 1) or not found.memory.numel():
            return [], waits
        size = found.memory.numel() * found.memory.element_size()
        covered = bool(records) and (records[0].begin, records[0].end) == (0, size)
        if covered and records[0].solid:
            steps = [_step(found.memory, record) for record in records[waits:]]
            if None not in steps:
                return [step for step in steps if step is not None], waits
        self.flush([found.memory])
        return [Step(Value(found.memory))], False


@contextmanager
def stand_ins(
    recorder: Recorder,
    tensors: dict[str, tuple[nn.Module, str]],
    computed: Sequence[tuple[str, nn.Module, str, Tensor]] = (),
) -> Iterator[None]:
    """Have the recorder's stand-ins in the place of tensors of a model, and all draws recorded.

    Args:
        recorder: which keeps the steps.
        tensors: by full name, the module that holds each, and the name there.
        computed: of tensors that parametrizations compute the full name, the module, the name
            there, and one like it on meta.
    """
    actual = [nn.Parameter(one[-1], one[-1].requires_grad) for one in computed]
    for (name, module, word, _), tensor in zip(computed, actual, strict=True):
        one = recorder.stand_in(name, tensor)[1]
        recorder.computed.setdefault(id(module), []).append((word, one))
    places: list[tuple[dict[str, Any], str, Tensor]] = []
    seen: set[tuple[int, str]] = set()
    try:
        for name, (module, word) in tensors.items():
            held: dict[str, Any] = (
                module._parameters if word in module._parameters else module._buffers
            )
            if (id(held), word) in seen:  # a module with several names
                continue
            seen.add((id(held), word))
            places.append((held, word, held[word]))
            is_first, one = recorder.stand_in(name, held[word])
            held[word] = one.tensor
            recorder.places.append((held, word, one))
            if not is_first and isinstance(one.tensor, nn.Parameter):
                recorder.shared.setdefault(id(module), []).append((held, word, one))
        scope = open_scope(recorder._key.seed, recorder.choose)
        try:
            # Function modes cost time at each call, and only they can make another device default.
            modes = torch._C._len_torch_function_stack() > 0
            on_cpu = torch.device("cpu") if modes else nullcontext()
            with torch.no_grad(), on_cpu, recording(recorder):
                yield
                recorder.adopt()
        finally:
            recorder._leave()
            close_scope(scope)
    finally:
        for held, word, actual in reversed(places):
            held[word] = actual


def _words(record: Record) -> Words | None:
    words = record.fill and record.fill[1]
    run = record.run
    if isinstance(run, Call) and run.function in (_SPARSE, _ORTHOGONAL):
        words = run.arguments[4]
    return None if words is None else (words[0], words[1])  # a list where torch passed it on


def _step(whole: Tensor, record: Record) -> Step | None:
    """The record as a step; None if it is no write to a box by something we know."""
    place = record.place
    if place.dtype != whole.dtype:
        return None
    box: Box | None = None
    all_of_it = record.solid and record.end - record.begin == whole.numel() * whole.element_size()
    if not (all_of_it and _contiguous(place, whole)):
        box = box_of(whole.shape, place.size, place.stride, place.offset)
        if box is None:
            return None
    what = _what(record, box is None and place.size == whole.shape)
    return None if what is None else Step(what, box)


def _contiguous(place: Place, whole: Tensor) -> bool:
    """Whether a place has the strides of a fresh tensor, as `whole` is."""
    if place.size == whole.shape:
        return place.stride == whole.stride()
    return place.stride == torch.empty(place.size, device="meta").stride()


def _what(record: Record, same_shape: bool) -> What | None:
    run, words = record.run, _words(record)
    if record.fill is not None:
        return Draw(record.fill[0], words) if record.fill[0].region is None and words else None
    if record.value is not None:
        return Constant(complex(record.value))
    if words is None or not same_shape:
        return None
    assert isinstance(run, Call)
    first, second, third, _, _, _, *region = run.arguments
    if any(part is not None for part in region):
        return None
    if run.function is _SPARSE:
        return Made(Sparse(first, second), words)
    return Made(Orthogonal(first, batch_axis=() if third is None else tuple(third)), words)
