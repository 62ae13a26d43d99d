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
from fastinit.models.names import Held, tensor_at
from fastinit.models.parametrized import (
    originals_of,
    refuse_parametrized,
    write_parametrized,
)
from fastinit.models.planning import Plans, listed, make_plans
from fastinit.models.progress import Progress, in_parts, whole
from fastinit.models.report import Form, Plan, Report, forms_of
from fastinit.models.steps import Draw, Made, Work, carry_out
from fastinit.models.targets import pieces_of
from fastinit.recipes.plan import collector_paused


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
        recipe: a `fastinit.recipes.Recipe`, or the name of a preset. "native" is what the model's
            own code does, draw for draw, but keyed by name.
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
    with collector_paused():
        return _initialize_all(module, device, recipe, seed, dtype, strict, progress)


def _initialize_all(
    module: nn.Module,
    device: torch.device | None,
    recipe: Any,
    seed: int,
    dtype: torch.dtype | None,
    strict: bool,
    progress: Progress,
) -> Report:
    held, meta = targets.refuse(module)
    if device is None and meta:
        raise ValueError(
            f"module has tensors on meta, which hold no values: {listed(meta)}; call "
            "fastinit.materialize_(module, device, ...)"
        )
    plans = make_plans(module, held, recipe, seed, strict)
    _refuse_unwritable(held, plans.parameters)
    if device is not None:
        attributes = targets.meta_attributes(module)
        if attributes:
            plans.warnings.append(
                f"tensors on meta in attributes, not buffers: {listed(attributes)}"
            )
    with whole():
        if device is not None:
            targets.leave_meta(module, held, device, dtype)
        if device is not None and dtype is not None:
            targets.change_dtype(held, dtype)
        _write_short(held, plans)
    forms = _carry_out(held, plans, progress)
    return Report(
        plans.parameters,
        plans.buffers,
        forms,
        seed,
        plans.warnings,
        module,
        held,
        manifest.of_report,
    )


def _seed(seed: object) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"seed must be an int, got {seed!r} ({type(seed).__name__})") from None


def _refuse_unwritable(held: Held, plans: Sequence[Plan]) -> None:
    """Of what the model's code does; a recipe's laws are refused when they are resolved."""
    wrong = []
    for plan in plans:
        if plan.why.resolved is not None or plan.name not in held.parameters:
            continue
        dtype = tensor_at(held.parameters[plan.name]).dtype
        drawn = any(isinstance(step.what, Draw | Made) for step in plan.steps)
        if drawn and dtype not in DTYPES:
            wrong.append(f"{plan.name} ({dtype})")
    if wrong:
        raise TypeError(
            f"parameters of a dtype that no law fills: {listed(wrong)}; fastinit fills "
            f"{', '.join(sorted(map(str, DTYPES)))}"
        )
    through = [plan.name for plan in plans if plan.parametrized and plan.steps]
    refuse_parametrized(held.computed, through)


def _write_short(held: Held, plans: Plans) -> None:
    """Buffers, and what is written through right_inverse.

    Buffers come first: no second call would find them on meta and know that they lack values.
    """
    buffers = [
        (plan.steps, pieces_of(tensor_at(held.buffers[plan.name]))) for plan in plans.buffers
    ]
    carry_out([one for one in buffers if one[0]])
    through = [(plan.name, plan.steps) for plan in plans.parameters if plan.parametrized]
    write_parametrized(held.computed, [one for one in through if one[1]])


def _carry_out(held: Held, plans: Plans, progress: Progress) -> list[Form]:
    """The long work; the forms of what was written, parameters and then buffers."""
    tensors = [
        originals_of(held.computed, plan.name)[-1]
        if plan.parametrized
        else tensor_at(held.parameters[plan.name])
        for plan in plans.parameters
    ]
    buffers = [tensor_at(held.buffers[plan.name]) for plan in plans.buffers]
    forms = forms_of(tensors)
    work: list[Work] = []
    names: list[str] = []
    for plan, tensor, form in zip(plans.parameters, tensors, forms, strict=True):
        name, steps, _, _, parametrized = plan
        if steps and not parametrized and 0 not in form.shape:
            work.append((steps, pieces_of(tensor)))
            names.append(name)
    written = 0
    try:
        for part in in_parts(work, _bytes, progress):
            with whole():
                carry_out(part)
                written += len(part)
    except BaseException as error:
        left = list(dict.fromkeys(names[written:]))
        _note(error, [name for name in dict.fromkeys(names[:written]) if name not in left], left)
        raise
    return forms + forms_of(buffers)


def _bytes(work: Work) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor, _ in work[1])


def _note(error: BaseException, written: Sequence[str], left: Sequence[str]) -> None:
    """Say in an exception's notes, which a traceback ends with, how far the work got."""
    told = f"fastinit had written {listed(written, 5) or 'no parameter'}"
    if left:
        told += f"; {listed(left, 5)} {'is' if len(left) == 1 else 'are'} to be written yet"
    error.__notes__ = [
        *getattr(error, "__notes__", []),
        told + ". The same call again completes the model, to the same values.",
    ]
