"""Remarks: what in the laws of a model looks like one of the mistakes that real code has made.

Owns the rules by which they are told and where each was seen. Must not know how the laws were
found: by a recipe, or by recording what a module's own code does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fastinit._fill.laws import Law
from fastinit.initializers import TruncNormal
from fastinit.initializers.random import truncated_std
from fastinit.recipes.record import Record

_TRUNCATED = TruncNormal(1.0).law((1, 1))
_LEAST_DEAD = 4.0  # cuts up to here are meant, even if a small tensor never meets them
_FARTHEST = 6.7  # where a normal value of float32 ends
_EXPECTED = 1e-3  # values of a tensor beyond a cut that is called dead, at most
_SAME = 1e-5  # relative difference of numbers that were meant to be one
_INWARD = ("ffn_in", "ffn_gate", "expert_in", "expert_gate")
_OUTWARD = ("attention_out", "ffn_out", "expert_out")
_READING = ("query", "qkv", "key", "value")


def remarks(records: Iterable[Record]) -> list[str]:
    """Sentences on laws that are probably not what was meant."""
    told = [record for record in records if record.law is not None]
    cut = [record for record in told if _is_cut(record.law)]
    shared = _sharing_bounds(cut)
    held = {id(record) for records in shared.values() for record in records}
    alone = [record for record in cut if id(record) not in held]
    return [*_dead_cuts(alone), *_shared_bounds(shared), *_scaled_inward(told)]


def _is_cut(law: Law | None) -> bool:
    assert law is not None and _TRUNCATED is not None
    return law.distribution == _TRUNCATED.distribution and law.std > 0


def _distance(record: Record) -> float:
    """How far out the nearer bound is, in units of std."""
    law = record.law
    assert law is not None
    return min(law.high - law.mean, law.mean - law.low) / law.std


def _is_dead(record: Record) -> bool:
    distance = _distance(record)
    beyond = math.prod(record.shape) * math.erfc(distance / math.sqrt(2))
    return distance > _LEAST_DEAD and beyond < _EXPECTED


def _dead_cuts(cut: Sequence[Record]) -> list[str]:
    """Bounds given as numbers where multiples of std were meant.

    Seen in torchtitan (issue 3722), timm's ViT, mmdetection (6432), timm (1286). With Keras'
    correction on top, as in xformers, std comes out 13.7 % too large.
    """
    dead = [record for record in cut if _is_dead(record)]
    found = []
    if dead:
        widest = max(dead, key=_distance)
        found.append(
            f"the bounds of {_counted(dead)} never act: those of {widest.name} are "
            f"{_distance(widest):.3g} std out; a cut counts in units of std"
        )
    widened = [record for record in dead if _is_widened(record)]
    if widened:
        found.append(
            f"the std of {_counted(widened)} is {1 / truncated_std(2) - 1:.1%} too large: it makes "
            "up for a cut at 2 std that never acts"
        )
    return found


def _is_widened(record: Record) -> bool:
    law = record.law
    assert law is not None
    if len(record.shape) < 2:
        return False
    fan = math.prod(record.shape[1:])
    return math.isclose(law.std * truncated_std(2) * math.sqrt(fan), 1.0, rel_tol=1e-5)


def _sharing_bounds(cut: Sequence[Record]) -> dict[float, list[Record]]:
    """Laws that are cut at the same values, of which some act, though their std differ."""
    alike: dict[float, list[Record]] = {}
    for record in cut:
        law = record.law
        assert law is not None
        if law.mean == 0.0 and law.low == -law.high:
            alike.setdefault(float(f"{law.high:.6g}"), []).append(record)
    found = {}
    for bound, records in alike.items():
        distances = [_distance(record) for record in records]
        if min(distances) < _FARTHEST and max(distances) > min(distances) * (1 + _SAME):
            found[bound] = records
    return found


def _shared_bounds(shared: dict[float, list[Record]]) -> list[str]:
    """Bounds taken from the std before it was scaled by depth, as in lingua's wo."""
    return [
        f"the bounds +-{bound:.3g} are those of {_counted(records)} with different std: "
        f"{min(map(_distance, records)):.3g} to {max(map(_distance, records)):.3g} std out; they "
        "look like multiples of a std that was scaled afterwards"
        for bound, records in shared.items()
    ]


def _scaled_inward(told: Sequence[Record]) -> list[str]:
    """The scale of what writes to the residual stream, on a projection that does not.

    Seen in torchtitan (issue 3722) and OLMo-core, where w3 has it beside w2.
    """
    layers = [record.layer for record in told if record.layer is not None]
    if not layers:
        return []
    last = max(layers)  # where scales by depth differ most from those without
    first: dict[str, Record] = {}
    for record in told:
        if record.layer == last and record.role is not None:
            first.setdefault(record.role, record)
    reading = [first[role] for role in _READING if role in first]
    outward = [first[role] for role in _OUTWARD if role in first]
    inward = [first[role] for role in _INWARD if role in first]
    return [
        f"{record.name} has the std of {out.name}, {_std(out):.3g}, though it does not write to "
        f"the residual stream; {reading[0].name} has {_std(reading[0]):.3g}"
        for record in inward
        for out in outward[:1]
        if reading and _same(record, out) and not _same(record, reading[0])
    ]


def _std(record: Record) -> float:
    law = record.law
    assert law is not None
    return law.std


def _same(one: Record, other: Record) -> bool:
    return math.isclose(_std(one), _std(other), rel_tol=_SAME)


def _counted(records: Sequence[Record]) -> str:
    if len(records) == 1:
        return records[0].name
    return f"{len(records)} parameters ({records[0].name}, ...)"
