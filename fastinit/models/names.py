"""Places of tensors by their names in the bare model, and which name a tied tensor has: its first.

What a wrapper puts into names is `recipes.names`'s. Must not know any law.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from fastinit.recipes.names import Site, walk

# By full name, the module that holds a tensor, and the name it has there.
Places: TypeAlias = dict[str, tuple[nn.Module, str]]


class Held(NamedTuple):
    """Every place of a parameter, of a buffer, and of a tensor that parametrizations compute.

    And the walk that found them.
    """

    parameters: Places
    buffers: Places
    computed: Places
    sites: Sequence[Site]


def held_by(module: nn.Module) -> Held:
    """The places of all tensors of a model, by one walk; see `parameters_by_name`."""
    found = Held({}, {}, {}, list(walk(module)))
    for site in found.sites:
        part = site.link[0]
        dot = site.name + "." if site.name else ""
        for word, parameter in part._parameters.items():
            if parameter is not None:
                found.parameters[dot + word] = (part, word)
        for word, buffer in part._buffers.items():
            if buffer is not None:
                found.buffers[dot + word] = (part, word)
        if "parametrizations" in part._modules:
            stages: Any = part.parametrizations
            found.computed.update({dot + word: (part, word) for word in stages})
    return found


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
    return held_by(module).parameters


def buffers_by_name(module: nn.Module) -> Places:
    """Every place of a buffer, as for parameters."""
    return held_by(module).buffers


def tensor_at(place: tuple[nn.Module, str]) -> Tensor:
    """What a place holds."""
    module, word = place
    found = module._parameters.get(word)
    tensor = module._buffers[word] if found is None else found
    assert tensor is not None
    return tensor


def tensors_at(places: Places) -> list[Tensor]:
    """What all places hold, in their order."""
    return [
        found if (found := module._parameters.get(word)) is not None else module._buffers[word]  # type: ignore[misc]
        for module, word in places.values()
    ]


def first_names(places: Places) -> dict[str, list[str]]:
    """For each tensor its first name, and all of its names."""
    by_tensor: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, place in places.items():
        names.setdefault(by_tensor.setdefault(id(tensor_at(place)), name), []).append(name)
    return names
