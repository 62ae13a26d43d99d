"""Names of modules and tensors as in the bare model, whatever is wrapped around its parts.

Owns the walk over a model, and which name a tied tensor has: its first. What a wrapper puts into
names is `recipes.names`'s. Must not know any law.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from torch import Tensor, nn

# By full name, the module that holds a tensor, and the name it has there.
Places: TypeAlias = dict[str, tuple[nn.Module, str]]

_WRAPPERS = re.compile(r"(_checkpoint_wrapped_module|_fsdp_wrapped_module|_orig_mod)(\.|$)")


def bare(name: str) -> str:
    """The name without what wrappers put into it."""
    return _WRAPPERS.sub("", name).removesuffix(".")


def modules_by_name(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with its first name."""
    for name, part in module.named_modules():
        yield bare(name), part


def parameters_by_name(module: nn.Module) -> Places:
    """Every place of a parameter: its full name, the module that holds it, its name there.

    Ties are not removed: a tied parameter has several names.
    """
    return {
        _joined(name, word): (part, word)
        for name, part in _all_modules(module)
        for word, parameter in part._parameters.items()
        if parameter is not None
    }


def buffers_by_name(module: nn.Module) -> Places:
    """Every place of a buffer, as for parameters."""
    return {
        _joined(name, word): (part, word)
        for name, part in _all_modules(module)
        for word, buffer in part._buffers.items()
        if buffer is not None
    }


def tensor_at(place: tuple[nn.Module, str]) -> Tensor:
    """What a place holds."""
    module, word = place
    found = module._parameters.get(word)
    tensor = module._buffers[word] if found is None else found
    assert tensor is not None
    return tensor


def first_names(places: Places) -> dict[str, list[str]]:
    """For each tensor its first name, and all of its names."""
    by_tensor: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, place in places.items():
        names.setdefault(by_tensor.setdefault(id(tensor_at(place)), name), []).append(name)
    return names


def _all_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module under every name."""
    for name, part in module.named_modules(remove_duplicate=False):
        yield bare(name), part


def _joined(name: str, word: str) -> str:
    return f"{name}.{word}" if name else word
