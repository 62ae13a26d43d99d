"""Buffers that leave meta: what computes their values again.

Owns the order in which a module's own hooks are tried, until its buffers are written. Values were
computed when the module was made and are kept nowhere, so code that made them has to run again.
Must not know how it is noticed that a buffer was written.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastinit.models.native.constructors import construct_again
from fastinit.models.native.makers import Makers
from fastinit.models.native.run import is_pretrained_model


def compute_buffers(
    root: nn.Module,
    modules: list[tuple[str, nn.Module]],
    lacks: Callable[[nn.Module], bool],
    enter: Callable[[str, nn.Module], None],
) -> None:
    """Try what each module has to compute its buffers, until it lacks none.

    In this order: timm's `init_non_persistent_buffers`, torchtitan's `_init_self_buffers`, the
    `_init_weights` of the nearest model of transformers, `reset_running_stats`, the
    `reset_parameters` or `rope_init` of a module without parameters, the constructor's own
    statements. A hook that raises has not helped, and the next one is tried.

    Args:
        root: the whole model.
        modules: those that may have buffers to compute, with their names.
        lacks: whether a module has buffers that nobody has written.
        enter: is told of each module, by name, before its code runs.
    """
    owners, makers = _owners(root), Makers(root)
    for name, module in modules:
        for hook in _hooks(module, owners.get(id(module)), makers):
            if not lacks(module):
                break
            enter(name, module)
            try:
                hook()
            except Exception:
                continue  # what is lacking in the end is named


def _hooks(
    module: nn.Module, owner: nn.Module | None, makers: Makers
) -> list[Callable[[], object]]:
    hooks: list[Callable[[], object]] = []
    words = ["init_non_persistent_buffers", "_init_self_buffers", "reset_running_stats"]
    if not any(parameter is not None for parameter in module._parameters.values()):
        words += ["reset_parameters", "rope_init"]
    for word in words:
        method = getattr(module, word, None)
        if callable(method):
            hooks.append(method)
    if owner is not None:
        initialize = owner._init_weights
        assert callable(initialize)
        hooks.insert(sum(hasattr(module, word) for word in words[:2]), lambda: initialize(module))
    return [*hooks, lambda: construct_again(module, makers)]


def _owners(root: nn.Module) -> dict[int, nn.Module]:
    """By module, the nearest model of transformers around it."""
    owners: dict[int, nn.Module] = {}

    def walk(module: nn.Module, owner: nn.Module | None) -> None:
        if is_pretrained_model(module):
            owner = module
        if owner is not None:
            owners[id(module)] = owner
        for child in module.children():
            walk(child, owner)

    walk(root, None)
    return owners
