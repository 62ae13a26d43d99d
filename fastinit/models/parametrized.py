"""Parametrized tensors: values go through `right_inverse` into what they are computed from.

Owns the names of such tensors, the refusal of those that cannot be written, and the writing. Must
not know which values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import ParametrizationList

from fastinit._fill.placements import is_dtensor
from fastinit.models.names import Places
from fastinit.models.steps import Step, carry_out


def refuse_parametrized(places: Places, names: Iterable[str]) -> None:
    """Refuse tensors that cannot be written.

    Raises:
        ValueError: a parametrization without right_inverse, or a sharded one; all are named.
    """
    wrong = [f"{name} ({why})" for name in names for why in obstacles(places, name)]
    if wrong:
        raise ValueError(
            f"parametrized tensors that cannot be written: {', '.join(wrong)}; initialize before "
            "they are parametrized or sharded, or leave them as they are with Keep()"
        )


def obstacles(places: Places, name: str) -> list[str]:
    """Why a tensor that is computed cannot be written; nothing if it can."""
    stages = _stages(places, name)
    found = [
        f"{type(stage).__name__} has no right_inverse"
        for stage in stages.children()
        if not hasattr(stage, "right_inverse")
    ]
    return found + ["it is sharded"] * any(map(is_dtensor, _originals(stages)))


def original_names(places: Places, name: str) -> list[str]:
    """The names of what the tensor of a name is computed from."""
    prefix, word = name.removesuffix(places[name][1]), places[name][1]
    held = [key for key in _stages(places, name)._parameters if key.startswith("original")]
    return [f"{prefix}parametrizations.{word}.{key}" for key in held]


def like(places: Places, name: str) -> Tensor:
    """A tensor on meta that is as the one that is computed."""
    stages = _stages(places, name)
    return torch.empty(_shape_of(stages), dtype=_originals(stages)[-1].dtype, device="meta")


def write_parametrized(places: Places, steps: Sequence[tuple[str, Sequence[Step]]]) -> None:
    """Write tensors by what is computed back from their values; all of them or none.

    Args:
        places: of tensors that are computed.
        steps: for each name.

    Raises:
        ValueError: `right_inverse` refuses the values, or gives something else than it did.
    """
    writes: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name, own in steps:
            stages = _stages(places, name)
            writes += zip(_originals(stages), _inverse(name, stages, own), strict=True)
        for original, value in writes:
            original.copy_(value)


def originals_of(places: Places, name: str) -> list[Tensor]:
    """What the tensor of a name is computed from."""
    return _originals(_stages(places, name))


def _stages(places: Places, name: str) -> ParametrizationList:
    module, word = places[name]
    held: Any = module.parametrizations
    stages: ParametrizationList = held[word]
    return stages


def _originals(stages: ParametrizationList) -> list[Tensor]:
    if stages.is_tensor:
        return [stages.original]
    return [getattr(stages, f"original{number}") for number in range(stages.ntensors)]


def _shape_of(stages: ParametrizationList) -> torch.Size:
    """Of the tensor that is computed, which is not computed for that."""
    shapes = [original.shape for original in _originals(stages)]
    return torch.broadcast_shapes(*shapes)  # type: ignore[no-any-return, no-untyped-call]


def _inverse(name: str, stages: ParametrizationList, steps: Sequence[Step]) -> Sequence[Tensor]:
    originals = _originals(stages)
    last = originals[-1]
    value: Any = torch.empty(_shape_of(stages), dtype=last.dtype, device=last.device)
    carry_out([(steps, [(value, None)])])
    try:
        for stage in reversed(list(stages.children())):
            value = stage.right_inverse(value)  # type: ignore[operator]
    except Exception as error:
        raise ValueError(
            f"{name} is parametrized, and the right_inverse of its {type(stage).__name__} refuses "
            f"the values: {type(error).__name__}: {error}; give it a law that it takes, or Keep()"
        ) from error
    values: Sequence[Tensor] = [value] if stages.is_tensor else list(value)
    shapes = [tuple(tensor.shape) for tensor in values]
    wanted = [tuple(original.shape) for original in originals]
    if shapes != wanted:
        raise ValueError(
            f"{name} is parametrized, and its right_inverse gives shapes {shapes} where the "
            f"parametrization holds {wanted}; use Keep() for it"
        )
    return values
