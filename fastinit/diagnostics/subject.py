"""The model under examination: what cannot be examined, and leaving it as it was found.

Owns the refusals that all of `fastinit.diagnostics` share, how a batch is passed to a model, and
what a pass changes besides: buffers and generators. Must not know what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._fill.placements import is_dtensor
from fastinit.models import targets

# What a pass raises over a batch that does not fit; these take a message alone.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError)


def require_runnable(module: nn.Module) -> None:
    """Refuse a module on which nothing can be measured.

    Raises:
        TypeError: not a module.
        ValueError: no parameters, or lazy ones, on meta, freed or flattened ones.
        RuntimeError: the module or a part of it is compiled.
    """
    require_values(module)
    refuse_compiled(module)


def require_values(module: nn.Module) -> None:
    """Refuse what is no module, or one without values.

    Raises:
        TypeError, ValueError: as `require_runnable`.
    """
    targets.refuse(module)
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ValueError(
            f"module has no parameters, so it has no initialization: {type(module).__name__}; pass "
            "the model that holds the layers"
        )
    meta = [name for name, parameter in parameters.items() if parameter.is_meta]
    if meta:
        raise ValueError(
            f"module has parameters on meta, which hold no values, such as {meta[0]}; call "
            "fastinit.materialize_(module, device, ...) first"
        )


def refuse_compiled(module: nn.Module) -> None:
    """Refuse a compiled module: hooks that are added after compilation are not called.

    Raises:
        RuntimeError: naming the part that is compiled, and the remedy.
    """
    for name, part in module.named_modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            where = f"{name} of module" if name else "module"
            raise RuntimeError(
                f"{where} is compiled, and compiled code does not call hooks that are added "
                "afterwards; look at it before torch.compile, or pass the module that was compiled "
                "(compiled._orig_mod)"
            )


def refuse_sharded(module: nn.Module) -> None:
    """Refuse DTensors, where each rank sees a batch of its own.

    Raises:
        ValueError: naming one of them, and the remedy.
    """
    for name, parameter in module.named_parameters():
        if is_dtensor(parameter):
            raise ValueError(
                f"module is sharded ({name} is a DTensor), and its ranks would find different "
                "numbers; call this before the model is sharded"
            )


def require_rows(batch: Any, argument: str = "batch") -> None:
    """Refuse a batch without tensors or of fewer than two rows.

    Raises:
        TypeError: no tensor in it.
        ValueError: fewer than two rows.
    """
    tensors = list(tensors_in(batch))
    if not tensors:
        raise TypeError(
            f"{argument} must be a tensor, a sequence of arguments or a mapping of keywords with "
            f"a tensor in it, got {type(batch).__name__}"
        )
    first = tensors[0]
    if first.dim() == 0 or first.shape[0] < 2:
        raise ValueError(
            f"{argument} must have at least two rows, as a variance is taken over them, got shape "
            f"{tuple(first.shape)}; pass more samples, the first axis counting them"
        )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or returns: in sequences, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from tensors_in(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_in(member)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for word in dataclasses.fields(value):
            yield from tensors_in(getattr(value, word.name))


def run(module: nn.Module, batch: Any, argument: str = "batch") -> Any:
    """Call a module on a batch: a tensor, a sequence of arguments or a mapping of keywords.

    Raises:
        RuntimeError, ValueError, TypeError, IndexError: as the pass does, with the shapes given.
    """
    try:
        if isinstance(batch, Mapping):
            return module(**batch)
        if isinstance(batch, (list, tuple)):
            return module(*batch)
        return module(batch)
    except _MISFITS as error:
        if type(error) not in _MISFITS:
            raise
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(batch))
        raise type(error)(
            f"module fails on {argument}, of shape {shapes}: {error}. Pass what the module takes: "
            "a tensor, a sequence of arguments or a mapping of keywords. No weight was changed"
        ) from error


@contextmanager
def as_found(module: nn.Module) -> Iterator[None]:
    """Restore what a pass changes: buffers (running statistics) and torch's generators."""
    held = [
        (part, word, buffer, buffer.detach().clone())
        for part in module.modules()
        for word, buffer in part._buffers.items()
        if buffer is not None
    ]
    tensors = [*module.parameters(), *module.buffers()]
    devices = {tensor.device.index or 0 for tensor in tensors if tensor.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        try:
            yield
        finally:
            with torch.no_grad():
                for part, word, buffer, before in held:
                    buffer.copy_(before)
                    part._buffers[word] = buffer
