"""Places of tensors by their names in the bare model, and which name a tied tensor has: its first.

What a wrapper puts into names is `recipes.names`'s. Must not know any law.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from torch import Tensor, nn

from fastinit.recipes.names import walk

# By full name, the module that holds a tensor, and the name it has there.
Places: TypeAlias = dict[str, tuple[nn.Module, str]]


def modules_by_name(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with its first name."""
    seen = set()
    for site in walk(module):
        part = site.link[0]
        if id(part) not in seen:
            seen.add(id(part))
            yield site.name, part


def parameters_by_name(module: nn.Module) -> Places:
    """Every place of a parameter: its full name, the module that holds it, its name there.

    Ties are not removed: a tied parameter has several names.
    """
    return {
        joined(site.name, word): (site.link[0], word)
        for site in walk(module)
        for word, parameter in site.link[0]._parameters.items()
        if parameter is not None
    }


def buffers_by_name(module: nn.Module) -> Places:
    """Every place of a buffer, as for parameters."""
    return {
        joined(site.name, word): (site.link[0], word)
        for site in walk(module)
        for word, buffer in site.link[0]._buffers.items()
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


def joined(name: str, word: str) -> str:
    """The name of what a module holds under this word."""
    return f"{name}.{word}" if name else word
