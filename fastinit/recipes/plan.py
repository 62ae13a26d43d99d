"""Plans: which law each parameter of a model gets, with all numbers, before anything is filled.

Owns `plan` and `Plan`: it matches rules, resolves expressions, and refuses a recipe that does not
fit the model. It needs no memory behind the parameters, so that it works on meta. Must not fill
anything, nor know where a fill takes place.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from fastinit.initializers import Keep, Native
from fastinit.recipes import table
from fastinit.recipes.dimensions import Dimensions
from fastinit.recipes.matching import Matching
from fastinit.recipes.names import BlockList, Found, Site, is_lazy, parameters_of, walk
from fastinit.recipes.record import Record, Settled
from fastinit.recipes.remarks import remarks
from fastinit.recipes.resolving import Resolver, part_key
from fastinit.recipes.roles import RoleTable
from fastinit.recipes.rules import RuleBook

Group: TypeAlias = tuple[Found, ...]

_MOST_LINES = 20  # of a list in a message
_KEEP = Keep()
_LEFT = (Settled(_KEEP, _KEEP, None, None, None, None, "", None, "no rule: left as it is"),)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe would do to a model: one record for each parameter.

    Args:
        records: in the order of `named_parameters`; a packed parameter has one for each part.
        warnings: what looks wrong, but is done.

    Iterating gives the records; `str` is a table in which a row stands for all blocks of a list.
    """

    records: tuple[Record, ...]
    warnings: tuple[str, ...]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        told = "".join(f"\nwarning: {warning}" for warning in self.warnings)
        return table.text(self.records) + told

    def to_markdown(self) -> str:
        """The table in Markdown, with the warnings as a list behind it."""
        told = "".join(f"\n- {warning}" for warning in self.warnings)
        return table.markdown(self.records) + ("\n" + told if told else "")

    def to_json(self) -> str:
        """All records and warnings as JSON."""
        data = [table.data(record) for record in self.records]
        return json.dumps({"records": data, "warnings": list(self.warnings)}, indent=1)


def plan(module: nn.Module, recipe: RuleBook, *, strict: bool = True) -> Plan:
    """Match every parameter of a module to a rule, and find the numbers of its law.

    Args:
        module: on any device, meta included.
        recipe: a `Recipe`.
        strict: whether parameters without a rule and rules that match nothing are errors; else
            they are warnings, and such a parameter is left as it is.

    Returns: the plan.

    Raises:
        ValueError: what strict says; two rules that disagree on a tied parameter; a depth, layer,
            width or head width that is ambiguous; a lazy parameter, or one without storage; a law
            that a shape or dtype does not have. The message lists all there is, and what was asked.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {module!r}")
    with collector_paused():
        groups = _tensors(walk(module))
        _refuse_unready([group[0] for group in groups])
        return _plan(module, groups, recipe, strict)


def plan_sites(module: nn.Module, sites: Iterable[Site], recipe: RuleBook, strict: bool) -> Plan:
    """As `plan`, for a module that was walked already and whose parameters are ready."""
    return _plan(module, _tensors(sites), recipe, strict)


def _plan(module: nn.Module, groups: list[Group], recipe: RuleBook, strict: bool) -> Plan:
    matching = Matching(recipe.rules, RoleTable(recipe.added), groups)
    problems, warnings = matching.problems(_MOST_LINES)
    if problems and strict:
        raise ValueError("the recipe does not fit the module:\n" + "\n".join(problems))
    resolver = Resolver(recipe.rules, _dimensions(module, recipe, groups, matching))
    records = tuple(_records(groups, matching, resolver))
    told = [one for one in records if not isinstance(one.settled.initializer, Native)]
    return Plan(records, (*problems, *warnings, *remarks(told)))


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without Python's collector of cycles: it would look again and again through all that is made
    here, none of which can be freed, and through all of torch: half of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _records(groups: list[Group], matching: Matching, resolver: Resolver) -> Iterator[Record]:
    for group, match in zip(groups, matching.matches, strict=True):
        found = group[0]
        tied = tuple([other.name for other in group[1:]]) if len(group) > 1 else ()
        for settled in resolver.settle(match, found) if match.rule is not None else _LEFT:
            part = settled.part
            key = found.name if part is None else part_key(found.name, part.name)
            yield Record(found, settled, key, match.role, tied)


def _tensors(sites: Iterable[Site]) -> list[Group]:
    """The parameters, each with all its places: ties have several."""
    groups: dict[int, Group] = {}
    for found in parameters_of(sites):
        at = id(found.parameter)
        groups[at] = (*groups[at], found) if at in groups else (found,)
    return list(groups.values())


def _refuse_unready(parameters: list[Found]) -> None:
    lazy = [found.name for found in parameters if is_lazy(found.parameter)]
    if lazy:
        raise ValueError(
            f"lazy parameters have no shape yet: {_some(lazy)}; run the module once on a batch "
            "before it is initialized"
        )
    empty = [found.name for found in parameters if _has_no_storage(found.parameter)]
    if empty:
        raise ValueError(
            f"parameters without storage: {_some(empty)}; sharding has freed it (FSDP1, ZeRO-3); "
            "initialize before that, or gather the parameters first"
        )


def _has_no_storage(parameter: Tensor) -> bool:
    if type(parameter) is not nn.Parameter or parameter.is_meta:
        return False
    if parameter.numel() == 0:
        return hasattr(parameter, "ds_shape")  # ZeRO-3 has left an empty tensor
    return parameter.data_ptr() == 0


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LINES} more" if len(names) > _MOST_LINES else ""
    return ", ".join(names[:_MOST_LINES]) + more


def _dimensions(
    module: nn.Module, recipe: RuleBook, groups: list[Group], matching: Matching
) -> Dimensions:
    def lists() -> list[BlockList]:
        every = (block.list for group in groups for found in group for block in found.site.blocks)
        return list({id(one): one for one in every}.values())

    def widths() -> frozenset[int]:
        pairs = zip(groups, matching.matches, strict=True)
        return frozenset(group[0].shape[-1] for group, match in pairs if match.role == "embedding")

    return Dimensions(
        module,
        lists,
        widths,
        depth=recipe.depth,
        width=recipe.width,
        head_dim=recipe.head_dim,
        layers=recipe.layers,
    )
