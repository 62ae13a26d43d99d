"""`init_` and `materialize_`: a whole model, filled in one call.

Owns the public functions: what they refuse, the order in which a plan is made, memory taken and the
plan carried out, so that nothing is written before all of it is known. What is written is the
recipes' and `native`'s to say; how, `steps`'s.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastinit._fill.extension import DTYPES
from fastinit.models import manifest, targets
from fastinit.models.names import buffers_by_name, parameters_by_name, tensor_at
from fastinit.models.native.plan import plan_native
from fastinit.models.progress import Progress, in_parts
from fastinit.models.report import Done, Plan, Report
from fastinit.models.steps import Draw, Made, Work, carry_out


def init_(
    module: nn.Module,
    recipe: Any = "native",
    *,
    seed: int,
    strict: bool = True,
    progress: Progress = None,
) -> Report:
    """Initialize every parameter of a model, each under the key of its name.

    Formula: a parameter is filled under `Key(seed).fold_in(name)`, its full name in the bare model.

    Args:
        module: any model; parameters on meta are left alone by no recipe, so materialize them.
        recipe: a `fastinit.recipes.Recipe`, the name of a preset, or "native": what the model's own
            code does, draw for draw, but keyed by name (docs/models.md).
        seed: an integer, taken mod 2^64.
        strict: whether parameters that nothing covers and rules that match nothing are errors;
            otherwise they are warnings of the report, and what nothing covers is left as it is.
        progress: True for a progress bar, False for none, or a function of (bytes done, bytes in
            all). None shows a bar on a terminal, for models of more than a gigabyte.

    Returns: a report of what was done: a table when printed, a record for each parameter.

    Raises: TypeError or ValueError, which name the parameters; nothing is written then.

    Reproducibility: a parameter's values depend on seed, name and law. Adding, removing or renaming
        other layers changes nothing, nor do device, sharding, wrappers and pipeline stages.

    Example:
        >>> import torch, fastinit
        >>> model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.LayerNorm(3))
        >>> report = fastinit.init_(model, seed=0)
        >>> key = fastinit.Key(0).fold_in("0.weight")
        >>> w = fastinit.kaiming_uniform_(torch.empty(3, 5), a=5**0.5, key=key)
        >>> torch.equal(model[0].weight, w)
        True
    """
    return _initialize(module, None, recipe, seed, None, strict, progress)


def materialize_(
    module: nn.Module,
    device: torch.device | str | int,
    recipe: Any = "native",
    *,
    seed: int,
    dtype: torch.dtype | None = None,
    strict: bool = True,
    progress: Progress = None,
) -> Report:
    """Allocate what a model has on meta on a device, and initialize all of its parameters.

    Formula: as `init_`.

    Args:
        module: a model on meta, as a whole or in parts, sharded already if it is to be. Tensors on
            meta move to the device; others are filled where they are. Ties, attributes, hooks and
            requires_grad are kept. Buffers on meta are computed by the model's own hooks.
        device: where to allocate.
        recipe, seed, strict, progress: as for `init_`.
        dtype: of the parameters; buffers keep their own. None keeps that of each parameter.

    Returns: a report, as `init_`.

    Raises: as `init_`; RuntimeError for buffers that no code of the model computes. Nothing is
        allocated or written then.

    Reproducibility: as `init_`; a narrower dtype holds the values rounded.

    Example:
        >>> import torch, fastinit
        >>> with torch.device("meta"):
        ...     model = torch.nn.Linear(5, 3)
        >>> report = fastinit.materialize_(model, "cpu", seed=0)
        >>> model.weight.device
        device(type='cpu')
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype or None, got {dtype!r}")
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(
            f"dtype must be one that fastinit fills, got {dtype}; pass one of "
            f"{', '.join(sorted(map(str, DTYPES)))}"
        )
    place = torch.device(device)
    if place.type == "meta":
        raise ValueError("device must hold values, got meta; pass cpu or cuda")
    return _initialize(module, place, recipe, seed, dtype, strict, progress)


def _initialize(
    module: nn.Module,
    device: torch.device | None,
    recipe: Any,
    seed: int,
    dtype: torch.dtype | None,
    strict: bool,
    progress: Progress,
) -> Report:
    seed = _seed(seed)
    targets.refuse(module)
    if device is None:
        _refuse_meta(module)
    plans, buffers, warnings = _plan(module, recipe, seed, strict)
    _refuse_dtypes(module, plans)
    if device is not None:
        attributes = targets.meta_attributes(module)
        if attributes:
            warnings.append(f"tensors on meta in attributes, not buffers: {', '.join(attributes)}")
        targets.leave_meta(module, device, dtype)
        if dtype is not None:
            targets.change_dtype(module, dtype)
    done = _carry_out(module, plans, buffers, progress)
    return Report(done, seed, warnings, module, manifest.of_report)


def _seed(seed: object) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"seed must be an int, got {seed!r} ({type(seed).__name__})") from None


def _refuse_meta(module: nn.Module) -> None:
    places = {**parameters_by_name(module), **buffers_by_name(module)}
    meta = [name for name, place in places.items() if tensor_at(place).is_meta]
    if meta:
        raise ValueError(
            f"module has tensors on meta, which hold no values: {_listed(meta)}; call "
            "fastinit.materialize_(module, device, ...)"
        )


def _refuse_dtypes(module: nn.Module, plans: Sequence[Plan]) -> None:
    places = parameters_by_name(module)
    wrong = [
        f"{plan.name} ({tensor_at(places[plan.name]).dtype})"
        for plan in plans
        if any(isinstance(step.what, Draw | Made) for step in plan.steps)
        and tensor_at(places[plan.name]).dtype not in DTYPES
    ]
    if wrong:
        raise TypeError(
            f"parameters of a dtype that no law fills: {_listed(wrong)}; fastinit fills "
            f"{', '.join(sorted(map(str, DTYPES)))}"
        )


def _plan(
    module: nn.Module, recipe: Any, seed: int, strict: bool
) -> tuple[list[Plan], list[Plan], list[str]]:
    """What is to be written to parameters and to buffers, and warnings."""
    if recipe != "native":
        raise NotImplementedError
    plan = plan_native(module, seed)
    _require_buffers(plan.unknown)
    warnings = [f"{what} ran again with defaults" for what in sorted(set(plan.told.assumed))]
    failed = [f"{name or 'the model'}: {reason}" for name, reason in plan.told.problems.items()]
    problems = []
    if plan.uncovered:
        problems.append(f"no code of the model initializes {_listed(plan.uncovered)}")
    if failed:
        problems.append("code of the model could not run again: " + "; ".join(failed))
    if problems and strict:
        raise ValueError(
            f"native: {'. '.join(problems)}. Pass a recipe for these, or strict=False to leave "
            "them as they are"
        )
    return plan.parameters, plan.buffers, warnings + problems


def _require_buffers(unknown: Sequence[str]) -> None:
    if unknown:
        raise RuntimeError(
            f"module has buffers on meta whose values no code of the model computes again: "
            f"{_listed(unknown)}; make the model with its parameters on meta and its buffers real, "
            "as accelerate.init_empty_weights does, or give the module that owns them a "
            "reset_parameters method that writes them"
        )


def _carry_out(
    module: nn.Module, plans: Sequence[Plan], buffers: Sequence[Plan], progress: Progress
) -> list[Done]:
    done: list[Done] = []
    work: list[Work] = []
    sizes: list[int] = []
    for kind, places in ((plans, parameters_by_name(module)), (buffers, buffers_by_name(module))):
        for plan in kind:
            tensor = tensor_at(places[plan.name])
            shape, device = tuple(tensor.shape), tensor.device
            done.append(Done(plan, shape, tensor.dtype, device, kind is buffers))
            if plan.steps and tensor.numel():
                work.append((plan.steps, targets.pieces_of(tensor)))
                sizes.append(tensor.numel() * tensor.element_size())
    for part in in_parts(work, sizes, progress):
        carry_out(part)
    return done


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
