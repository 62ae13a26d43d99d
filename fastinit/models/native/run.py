"""`native`: a model's own initialization, run again, module by module, children first.

Owns which code of a module initializes it: its constructor's statements, `reset_parameters` and its
kin, the `_init_weights` of the nearest model of transformers, the adapters of peft. Must not know
that the tensors it writes are stand-ins, nor what becomes of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from fastinit.models.names import modules_by_name
from fastinit.models.native.constructors import construct_again
from fastinit.models.native.makers import Makers
from fastinit.models.native.values import Guess

_FLAG = "_is_hf_initialized"
_METHODS = ("reset_parameters", "_reset_parameters", "init_weights", "_init_weights")
# Of a model of transformers these walk over modules, which is done here.
_WALKS = frozenset({"post_init", "init_weights", "_init_weights", "initialize_weights"})


@dataclass
class Told:
    """What is to be said about the run: in the report, or in an error."""

    assumed: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # by the module's name
    guesses: dict[int, Guess] = field(default_factory=dict)  # by the tensor's id
    remarks: list[str] = field(default_factory=list)


def run_native(
    module: nn.Module,
    enter: Callable[..., None],
    state: Callable[[Tensor], Sequence[object]],
) -> Told:
    """Initialize the module by its own code.

    Args:
        module: whose tensors are to be written.
        enter: is told of each module, by name, before its code runs, and whether that is its
            constructor's.
        state: what waits for a tensor.
    """
    told, makers = Told(), Makers(module)
    names = {id(part): name for name, part in modules_by_name(module)}
    owned = set(_owned(module, False))
    for part in _children_first(module, set()):
        name = names.get(id(part), "")
        enter(name, part, constructor=True)
        _construct(part, name, id(part) in owned, makers, state, told)
    with _flags(module):
        for owner, part in list(_with_owners(module, None, set())):
            name = names.get(id(part), "")
            enter(name, part)
            _call(getattr(owner, "_init_weights"), (part,), name, told)  # noqa: B009
            setattr(part, _FLAG, True)
    for part in _children_first(module, set()):
        if hasattr(part, "reset_lora_parameters"):
            enter(names.get(id(part), ""), part)
            _reset_adapters(part, module, names.get(id(part), ""), told)
    return told


@contextmanager
def _flags(module: nn.Module) -> Iterator[None]:
    """Take away, for a time, transformers' notes of which modules are initialized.

    Stale ones make code do nothing. New ones belong to what a model does: some modules ask whether
    their children have them.
    """
    before = [(part, vars(part).pop(_FLAG)) for part in module.modules() if _FLAG in vars(part)]
    try:
        yield
    finally:
        for part in module.modules():
            vars(part).pop(_FLAG, None)
        for part, flag in before:
            setattr(part, _FLAG, flag)


def is_pretrained_model(module: nn.Module) -> bool:
    """Whether it is a model of transformers, which need not be imported to tell."""
    return any(
        kind.__name__ == "PreTrainedModel" and kind.__module__.startswith("transformers.")
        for kind in type(module).__mro__
    )


def _construct(
    module: nn.Module,
    name: str,
    owned: bool,
    makers: Makers,
    state: Callable[[Tensor], Sequence[object]],
    told: Told,
) -> None:
    """What the module did when it was made, or what it offers for that."""
    if type(module).__module__.startswith("torch.nn.utils.parametriz"):
        return  # what its tensor is written by is the code of the module that has it
    if type(module).__module__.startswith("torch.nn.modules."):
        _reset(module, _METHODS[:2], name, told)  # all that their constructors do
        return
    again = construct_again(module, makers, state, skip=_WALKS if owned else frozenset())
    if not owned:
        told.guesses |= again.guesses
        # What the owner's _init_weights does not write shows by itself.
        for problem in again.problems:
            told.problems[name] = f"{problem.statement}: {problem.reason}"
        if again.assumed:
            told.assumed.append(f"{type(module).__name__}({', '.join(sorted(again.assumed))})")
    if again.ran or again.problems or is_pretrained_model(module):
        return
    # Of these methods the owner calls none unless its code says so.
    _reset(module, _METHODS[:2] if owned else _METHODS, name, told)


def _reset(module: nn.Module, methods: tuple[str, ...], name: str, told: Told) -> None:
    """Call the first of these methods that the module has."""
    for word in methods:
        method = getattr(module, word, None)
        if callable(method) and _takes_nothing(method):
            _call(method, (), name, told)
            return


def _takes_nothing(method: Callable[..., object]) -> bool:
    """Whether it can be called without arguments; of a class's functions asked once."""
    function = getattr(method, "__func__", None)
    if not isinstance(function, FunctionType):
        return _needs_nothing(method)
    found = _known.get(function)
    if found is None:
        found = _known[function] = _needs_nothing(method)
    return found


# Weak, as a function that somebody put on a module may hold the module.
_known: WeakKeyDictionary[FunctionType, bool] = WeakKeyDictionary()


def _needs_nothing(method: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in optional for p in parameters)


def _call(
    method: Callable[..., object], arguments: tuple[object, ...], name: str, told: Told
) -> None:
    try:
        method(*arguments)
    except Exception as error:
        word = getattr(method, "__qualname__", repr(method))
        told.problems[name] = f"{word}: {type(error).__name__}: {error}"


def _children_first(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    if id(module) in seen:
        return
    seen.add(id(module))
    for child in module.children():
        yield from _children_first(child, seen)
    yield module


def _owned(module: nn.Module, inside: bool) -> Iterator[int]:
    """The modules for which some model of transformers is responsible."""
    inside = inside or is_pretrained_model(module)
    if inside:
        yield id(module)
    for child in module.children():
        yield from _owned(child, inside)


def _with_owners(
    module: nn.Module, owner: nn.Module | None, seen: set[int]
) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each module inside a model of transformers, children first, with the nearest such model."""
    if id(module) in seen:
        return
    seen.add(id(module))
    if is_pretrained_model(module):
        owner = module
    for child in module.children():
        yield from _with_owners(child, owner, seen)
    if owner is not None:
        yield owner, module


def _reset_adapters(part: nn.Module, root: nn.Module, name: str, told: Told) -> None:
    """A LoRA layer of peft, as its adapters' configurations say."""
    configs = getattr(root, "peft_config", {})
    adapters = {*getattr(part, "lora_A", {}), *getattr(part, "lora_embedding_A", {})}
    for adapter in sorted(adapters):
        how = getattr(configs.get(adapter), "init_lora_weights", True)
        _call(getattr(part, "reset_lora_parameters"), (adapter, how), name, told)  # noqa: B009
