"""The plan that `native` makes: what a model's own code does to each of its tensors.

Owns the run over stand-ins and what is concluded from it: which tensors were written, which were
not and have nobody else to write them. Nothing of the model itself is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fastinit.models.names import (
    Places,
    first_names,
    held_by,
    modules_by_name,
    tensor_at,
)
from fastinit.models.native.buffers import compute_buffers
from fastinit.models.native.logarithms import Logarithms
from fastinit.models.native.recording import Recorder, StandIn, poisoned, stand_ins
from fastinit.models.native.run import Told, run_native
from fastinit.models.parametrized import like, obstacles, original_names
from fastinit.models.report import Plan, Why
from fastinit.models.steps import Step, Value


@dataclass
class NativePlan:
    """What the model's code does, and what it leaves undone."""

    parameters: list[Plan]
    buffers: list[Plan]
    uncovered: list[str]  # parameters that nothing writes
    unknown: list[str]  # buffers on meta whose values nobody knows
    told: Told


def plan_native(module: nn.Module, seed: int, *, parameters: bool = True) -> NativePlan:
    """Run the model's own initialization on stand-ins.

    Args:
        module: the model; nothing of it is written.
        seed: of all keys.
        parameters: whether they matter; otherwise only buffers on meta are computed.
    """
    recorder = Recorder(seed)
    places, held, computed, _ = held_by(module)
    plain = [
        (name, *place, like(computed, name))
        for name, place in computed.items()
        if parameters and not obstacles(computed, name)
    ]
    told = Told()
    meta = [name for name, place in held.items() if tensor_at(place).is_meta]
    with stand_ins(recorder, {**places, **held}, plain):
        if parameters:
            recorder.observer = seen = Logarithms(recorder)
            told = run_native(module, recorder.enter, recorder.state)
            recorder.observer, told.remarks = None, seen.remarks
        if meta:
            _compute(module, recorder, {name: held[name] for name in meta})
    plan = NativePlan([], [], [], [], told)
    for name, names in first_names(places).items() if parameters else ():
        one = recorder.of(tensor_at(places[name]))
        steps, untouched = recorder.steps(one)
        lacking = untouched or _unfounded(one, steps)
        if lacking:
            plan.uncovered.append(name)
        guess = told.guesses.get(id(one.tensor))
        note = "no code initializes it" if lacking else ""
        if guess is not None and guess.holds(recorder.state(one.tensor)):
            note = f"assumes {', '.join(sorted(guess.assumed))}"
        plan.parameters.append(Plan(name, steps, Why("native", note), names[1:]))
    for name, part, word, _ in plain:
        _through(plan, recorder, name, original_names(computed, name), (part, word))
    for name, names in first_names(held).items():
        one = recorder.of(tensor_at(held[name]))
        steps, untouched = recorder.steps(one)
        if one.was_meta and (untouched or _unfounded(one, steps)):
            plan.unknown.append(name)
        if steps and (parameters or one.was_meta):
            plan.buffers.append(Plan(name, steps, Why("native"), names[1:]))
    return plan


def _through(
    plan: NativePlan,
    recorder: Recorder,
    name: str,
    originals: list[str],
    place: tuple[nn.Module, str],
) -> None:
    """Plan a tensor that is computed, if the code that made the module wrote it, in the place of
    what it is computed from, if no code has written that since.
    """
    by_word = dict(recorder.computed[id(place[0])])
    one = by_word[place[1]]
    steps, untouched = recorder.steps(one)
    written = {p.name for p in plan.parameters if p.steps}
    if not steps or untouched or _unfounded(one, steps) or written.intersection(originals):
        return
    plan.parameters = [p for p in plan.parameters if p.name not in originals]
    plan.uncovered = [other for other in plan.uncovered if other not in originals]
    plan.parameters.append(Plan(name, steps, Why("native"), parametrized=True))


def _compute(module: nn.Module, recorder: Recorder, meta: Places) -> None:
    recorder.adopt()
    by_module: dict[int, list[Tensor]] = {}
    for part, word in meta.values():
        tensor = part._buffers[word]
        assert tensor is not None
        by_module.setdefault(id(part), []).append(tensor)

    def lacks(part: nn.Module) -> bool:
        return any(recorder.unwritten(tensor) for tensor in by_module[id(part)])

    modules = [(name, part) for name, part in modules_by_name(module) if id(part) in by_module]
    compute_buffers(module, modules, lacks, recorder.enter)


def _unfounded(one: StandIn, steps: list[Step]) -> bool:
    """Whether part of the tensor was written from what nobody had written."""
    if one.before.ran and one.was_meta:
        values = [step.what.tensor for step in steps if isinstance(step.what, Value)]
        return any(poisoned(value) for value in values)
    return False
