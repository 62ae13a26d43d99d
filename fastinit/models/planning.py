"""What is to be written to each tensor of a model: by a recipe's laws, by the model's own code.

Owns the step from a recipe's plan to steps under keys, the asking of `native` for what a recipe
leaves to it, and the refusal of what neither covers. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from fastinit._fill.keys import Key, words_of_names
from fastinit._fill.laws import Law, Words
from fastinit.initializers import Constant as ConstantInitializer
from fastinit.initializers import Initializer, Keep, Native, Ones, Zeros
from fastinit.models.boxes import Box
from fastinit.models.names import Held, tensors_at
from fastinit.models.native.plan import NativePlan, plan_native
from fastinit.models.native.run import Told
from fastinit.models.parametrized import original_names
from fastinit.models.report import Plan
from fastinit.models.steps import Constant, Draw, Made, Step, What
from fastinit.recipes import Recipe, Record, resolve_recipe
from fastinit.recipes.plan import plan_sites
from fastinit.recipes.remarks import remarks


@dataclass(slots=True)
class Plans:
    """What is to be written to parameters and to buffers, and what deserves a look."""

    parameters: list[Plan]
    buffers: list[Plan]
    warnings: list[str] = field(default_factory=list)


def make_plans(
    module: nn.Module, held: Held, recipe: Recipe | str, seed: int, strict: bool
) -> Plans:
    """Plan all writes to a model.

    Args:
        module: on any device, meta included; nothing of it is written. Its tensors are ready.
        held: where they are.
        recipe: a recipe, or the name of a preset.
        seed: of all keys.
        strict: whether parameters that nothing covers and rules that match nothing are errors.

    Raises:
        TypeError, ValueError: as `fastinit.recipes.plan`; what the model's code leaves uncovered.
        RuntimeError: buffers on meta that no code of the model computes.
    """
    found = plan_sites(module, held.sites, resolve_recipe(recipe), strict)
    left = [record for record in found if isinstance(record.settled.initializer, Native)]
    own = {record.name for record in left}
    by_code = NativePlan([], [], [], [], Told())
    if own or any(buffer.is_meta for buffer in tensors_at(held.buffers)):
        by_code = plan_native(module, seed, parameters=bool(own))
    _require_buffers(by_code.unknown)
    told = {one.name: one for one in by_code.parameters}
    plans = Plans([], by_code.buffers, list(found.warnings))
    if own:
        written = {name for record in left for name in _written(record, told)}
        plans.warnings += _shortcomings(by_code, written, strict)
    drawn = []
    keys = words_of_names(Key(seed), [record.key for record in found])
    for record, words in zip(found, keys, strict=True):
        if not own or record.name not in own:
            plans.parameters.append(_planned(record, words))
            continue
        for name in _written(record, told):
            one = told[name]
            drawn.append(_as_drawn(record, one.steps))
            if record.rule != "**":
                one = one._replace(why=one.why._replace(rule=record.rule))
            plans.parameters.append(one)
    plans.warnings += remarks(drawn)
    return plans


def _written(record: Record, told: Mapping[str, Plan]) -> list[str]:
    """The tensors that a model's code writes: those a parametrized one is computed from, or it."""
    if not record.parametrized or record.name in told:
        return [record.name]
    local = record.found.local
    return original_names({record.name: (record.module, local)}, record.name)


def _as_drawn(record: Record, steps: Sequence[Step]) -> Record:
    """The record with the law that the model's code has, if it is one draw."""
    what = steps[0].what if len(steps) == 1 and steps[0].box is None else None
    law = what.law if isinstance(what, Draw) else None
    return record._replace(settled=record.settled._replace(law=law))


def _shortcomings(by_code: NativePlan, own: set[str], strict: bool) -> list[str]:
    """What the model's code could not do, of the parameters that are left to it."""
    told = by_code.told
    uncovered = [name for name in by_code.uncovered if name in own]
    failed = [f"{name or 'the model'}: {reason}" for name, reason in told.problems.items()]
    problems = []
    if uncovered:
        problems.append(f"no code of the model initializes {listed(uncovered)}")
    if failed:
        problems.append("code of the model could not run again: " + "; ".join(failed))
    if problems and strict:
        raise ValueError(
            f"native: {'. '.join(problems)}. Pass a recipe for these, or strict=False to leave "
            "them as they are"
        )
    assumed = [f"{what} ran again with defaults" for what in sorted(set(told.assumed))]
    return assumed + told.remarks + problems


def _require_buffers(unknown: Sequence[str]) -> None:
    if unknown:
        raise RuntimeError(
            f"module has buffers on meta whose values no code of the model computes again: "
            f"{listed(unknown)}; make the model with its parameters on meta and its buffers real, "
            "as accelerate.init_empty_weights does, or give the module that owns them a "
            "reset_parameters method that writes them"
        )


def _planned(record: Record, words: Words) -> Plan:
    settled = record.settled
    if settled.part is None and settled.padding is None and settled.law is not None:  # the rule
        steps: Sequence[Step] = [Step(Draw(settled.law, words))]
    else:
        steps = list(_steps(record, words))
    found = record.found
    return Plan(found.name, steps, settled, record.tied, found.parametrized)


def _steps(record: Record, words: Words) -> Iterator[Step]:
    settled = record.settled
    part, resolved = settled.part, settled.resolved
    if isinstance(resolved, Keep):
        return
    box = None
    if part is not None:
        shape = tuple(record.found.shape)
        starts = [0] * len(shape)
        starts[part.axis] = part.start
        box = Box(tuple(starts), part.shape)
    yield Step(_what(resolved, settled.law, words), box)
    if settled.padding is not None:
        shape = tuple(record.found.shape)
        row = settled.padding % shape[0]
        yield Step(Constant(0.0), Box((row, *[0] * (len(shape) - 1)), (1, *shape[1:])))


def _what(resolved: Initializer, law: Law | None, words: Words) -> What:
    if isinstance(resolved, Zeros | Ones | ConstantInitializer):
        return Constant(complex(resolved.value))
    return Draw(law, words) if law is not None else Made(resolved, words)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names as a message has them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
