"""A record: what a plan says of one parameter, or of one part of a packed one.

Owns its fields. Must not know how they are found, nor how they are shown.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastinit._fill.laws import Law
from fastinit.initializers import Initializer
from fastinit.initializers.base import Part
from fastinit.recipes.names import Found


class Settled(NamedTuple):
    """A law with its numbers, the same for all parameters that are alike.

    Args:
        initializer: as the recipe has it.
        resolved: the same with plain numbers.
        law: the numbers of its fill in a table of tensors; None if no table can hold it.
        std, low, high: the standard deviation (before a cut, if there is one) and the bounds of the
            values; None where the law has none.
        rule: the pattern that fits, as text; empty if none does.
        part: which slice of a packed parameter it is for; None for a whole one.
        note: what else there is to know.
        padding: the row of an embedding that is set to 0 behind the fill; None if there is none.
    """

    initializer: Initializer
    resolved: Initializer
    law: Law | None
    std: float | None
    low: float | None
    high: float | None
    rule: str
    part: Part | None
    note: str
    padding: int | None = None


class Record(NamedTuple):
    """What happens to one parameter.

    Args:
        found: where it is.
        settled: its law.
        key: the name that is folded into the seed: the parameter's own, or that of the parameter
            which a part stands for.
        role: the role it plays in the model; None if unknown.
        tied: its names but for the first.
    """

    found: Found
    settled: Settled
    key: str
    role: str | None
    tied: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in the bare model; of a tied parameter the first one."""
        return self.found.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter, or of the part."""
        part = self.settled.part
        return tuple(self.found.shape) if part is None else part.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameter."""
        return self.found.parameter.dtype

    @property
    def device(self) -> torch.device:
        """Of the parameter."""
        return self.found.parameter.device

    @property
    def initializer(self) -> Initializer:
        """As the recipe has it, expressions and all."""
        return self.settled.initializer

    @property
    def resolved(self) -> Initializer:
        """The initializer with plain numbers."""
        return self.settled.resolved

    @property
    def law(self) -> Law | None:
        """The numbers of its fill in a table of tensors; None if no table can hold it."""
        return self.settled.law

    @property
    def std(self) -> float | None:
        """The standard deviation of the law, before a cut."""
        return self.settled.std

    @property
    def low(self) -> float | None:
        """The lower bound of the values."""
        return self.settled.low

    @property
    def high(self) -> float | None:
        """The upper bound of the values."""
        return self.settled.high

    @property
    def rule(self) -> str:
        """The pattern that fits, as text; empty if none does."""
        return self.settled.rule

    @property
    def note(self) -> str:
        """What else there is to know."""
        return self.settled.note

    @property
    def part(self) -> Part | None:
        """Which slice it is, if the parameter is packed."""
        return self.settled.part

    @property
    def layer(self) -> int | None:
        """The index of its innermost block; None if it is in none."""
        blocks = self.found.site.blocks
        return blocks[-1].number if blocks else None

    @property
    def module(self) -> nn.Module:
        """The module that owns it."""
        return self.found.site.link[0]

    @property
    def parameter(self) -> Tensor:
        """The tensor; of a parametrized one, what the module computes it from."""
        return self.found.parameter

    @property
    def parametrized(self) -> bool:
        """Whether the module computes the tensor of this name."""
        return self.found.parametrized
