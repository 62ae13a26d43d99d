"""Names: what a parameter is called in the bare model, whatever is wrapped around its modules.

Owns which steps of a path belong to wrappers (FSDP, DDP, torch.compile, activation checkpointing)
and the walk over a module with names that know nothing of them. Must not know rules or laws.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.nn.utils.parametrize import ParametrizationList

from fastinit._fill.extension import native

# Children by which a wrapper holds the module that it wraps. Nobody else uses these names.
_WRAPPED = frozenset(
    {
        "_fsdp_wrapped_module",
        "_orig_mod",
        "_checkpoint_wrapped_module",
        "_fpw_module",  # FairScale's FSDP
    }
)
# Classes that fully_shard, replicate and parametrizations make, and put in front of a module's own.
_PUT_BEFORE = ("FSDP", "DDP", "Parametrized")
_DIGIT = "#"  # what stands for an index in a template

# A module, and the same of the module that holds it.
Link: TypeAlias = tuple[nn.Module, Any]


def is_wrapper_step(owner: nn.Module, child: str) -> bool:
    """Whether `owner` is a wrapper and `child` the name by which it holds what it wraps."""
    if child == "module":
        return isinstance(owner, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    return child in _WRAPPED


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside all wrappers around it."""
    while True:
        for child, inner in module._modules.items():
            if inner is not None and is_wrapper_step(module, child):
                module = inner
                break
        else:
            return module


def written_type(kind: type) -> type:
    """The class as it was written, before sharding or a parametrization derived another of it."""
    if kind.__name__.startswith(_PUT_BEFORE):
        for base in kind.__bases__:
            if any(kind.__name__ == word + base.__name__ for word in _PUT_BEFORE):
                return written_type(base)
    return kind


def bare_name(root: nn.Module, name: str) -> str:
    """A name of `root.named_parameters()` or `named_modules()` without the steps of wrappers.

    Args:
        root: the module that the name belongs to.
        name: a dotted path; what lies behind the last module of it is kept.
    """
    module: nn.Module | None = root
    kept = []
    for step in name.split("."):
        if module is None or not is_wrapper_step(module, step):
            kept.append(step)
        module = module._modules.get(step) if module is not None else None
    return ".".join(kept)


class BlockList:
    """A container of numbered modules, by which depth and layer are told."""

    __slots__ = ("config", "indices", "keyed", "kinds", "leaves", "name", "outer", "step")

    def __init__(self, name: str, step: str, link: Link, outer: tuple[Block, ...]) -> None:
        self.name = name
        self.step = step
        self.outer = outer
        children = link[0]._modules
        inner = [unwrapped(child) for child in children.values() if child is not None]
        inner = [child for child in inner if not isinstance(child, nn.Identity)]
        self.indices = [int(key) for key in children]
        self.keyed = isinstance(link[0], nn.ModuleDict)  # so that some can be taken out
        self.kinds = set(map(written_type, set(map(type, inner))))
        self.leaves = not any(child._modules for child in inner)
        self.config = nearest(link, "config")


class Block(NamedTuple):
    """One place in a list of blocks."""

    list: BlockList
    number: int


class Site(NamedTuple):
    """A module in the walk: where it is, and what is around it.

    template is the name with indices replaced, the same for all blocks of a list.
    """

    name: str
    template: str
    link: Link
    blocks: tuple[Block, ...]

    @property
    def module(self) -> nn.Module:
        """The module itself."""
        return self.link[0]


def nearest(link: Link | None, attribute: str) -> Any:
    """That attribute of the module or of the innermost one around it that has it; else None."""
    while link is not None:
        found = getattr(link[0], attribute, None)
        if found is not None:
            return found
        link = link[1]
    return None


def walk(root: nn.Module) -> Iterator[Site]:
    """All modules with their bare names, parents first, in the order of `named_modules`.

    A module that is held twice comes twice, with both names.
    """
    stack = [Site("", "", (root, None), ())]
    while stack:
        site = stack.pop()
        module = site.link[0]
        held = module._modules
        if held:
            stack += _children(site, module, held)[::-1]
        yield site


def _children(site: Site, module: nn.Module, held: dict[str, Any]) -> list[Site]:
    name, template, link, blocks = site
    dot = name + "." if name else ""
    dotted = template + "." if template else ""
    numbered = dotted + _DIGIT
    listed = _block_list(site, module, held)
    found = []
    for step, child in held.items():
        if child is None:
            continue
        own = (child, link)
        if step.isdigit():
            inside = (*blocks, Block(listed, int(step))) if listed is not None else blocks
            found.append(Site(dot + step, numbered, own, inside))
        elif is_wrapper_step(module, step):
            found.append(Site(name, template, own, blocks))
        else:
            found.append(Site(dot + step, dotted + step, own, blocks))
    return found


def _block_list(site: Site, module: nn.Module, held: dict[str, Any]) -> BlockList | None:
    """The container as a list of blocks, if its children are numbered."""
    if not isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
        return None
    if not held or not all(step.isdigit() for step in held):
        return None
    found = BlockList(site.name, site.name.rpartition(".")[2], site.link, site.blocks)
    if isinstance(module, nn.Sequential) and len(found.kinds) > 1:
        return None
    return found


def template_of(name: str) -> str:
    """The name with its indices replaced, as `walk` has it."""
    return ".".join(_DIGIT if step.isdigit() else step for step in name.split("."))


class Found(NamedTuple):
    """A parameter in the walk.

    parametrized means that the module computes the tensor of this name, and that `parameter` is
    what it computes it from, of another shape perhaps. kind is equal for parameters of one call of
    `parameters_of` that have the same shape, dtype and device.
    """

    name: str
    local: str
    site: Site
    parameter: Tensor
    shape: torch.Size
    parametrized: bool
    kind: Hashable = None


def parameters_of(sites: Iterable[Site]) -> list[Found]:
    """The parameters of modules, with their bare names; lazy ones too."""
    places = [place for site in sites for place in _places(site)]
    firsts = native.first_alike([place[3] for place in places])
    shapes = {at: _shape(places[at][3]) for at in set(firsts)}
    return [
        Found(name, local, site, parameter, shapes[at], False, at)
        if shape is None
        else Found(name, local, site, parameter, shape, True, (at, shape))
        for (name, local, site, parameter, shape), at in zip(places, firsts, strict=True)
    ]


# A name, the name in the module, the module, the tensor, and the shape if it is another.
_Place: TypeAlias = tuple[str, str, Site, Tensor, torch.Size | None]


def _places(site: Site) -> list[_Place]:
    module = site.link[0]
    dot = site.name + "." if site.name else ""
    told = isinstance(module, ParametrizationList)  # as a parameter of the module around it
    found: list[_Place] = [
        (dot + local, local, site, parameter, None)
        for local, parameter in module._parameters.items()
        if parameter is not None and not (told and local.startswith("original"))
    ]
    if "parametrizations" in module._modules:
        found += _parametrized(site, module, dot)
    return found


def _shape(parameter: Tensor) -> torch.Size:
    return torch.Size() if is_lazy(parameter) else parameter.shape


def is_lazy(parameter: Tensor) -> bool:
    """Whether the parameter waits for its first input to have a shape."""
    return isinstance(parameter, UninitializedTensorMixin)


def _parametrized(site: Site, module: nn.Module, dot: str) -> Iterator[_Place]:
    for local, stages in module.parametrizations.items():  # type: ignore[operator, union-attr]
        original = getattr(stages, "original", None)
        if original is None:  # several tensors; the module says what they make
            parts = [tensor for word, tensor in stages._parameters.items() if tensor is not None]
            shape = torch.broadcast_shapes(*(p.shape for p in parts))  # type: ignore[no-untyped-call]
            original = parts[-1]
        else:
            shape = original.shape
        if isinstance(original, nn.Parameter):
            yield dot + local, local, site, original, shape
