"""Remarks: what in the laws of a model looks like one of the mistakes that real code has made.

Owns the rules by which they are told and where each was seen. Must not know how the laws were
found: by a recipe, or by recording what a module's own code does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch.distributed as dist

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
    records = list(records)
    told = [record for record in records if record.settled.law is not None]
    cut = [record for record in told if _is_cut(record.settled.law)]
    shared = _sharing_bounds(cut)
    held = {id(record) for records in shared.values() for record in records}
    alone = [record for record in cut if id(record) not in held]
    return [
        *_dead_cuts(alone),
        *_shared_bounds(shared),
        *_scaled_by_depth(told),
        *_shards(records),
        *_empty(records),
    ]


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


def _scaled_by_depth(told: Sequence[Record]) -> list[str]:
    """What the scale of the writes to the residual stream is on, and what it is not on."""
    told = [record for record in told if record.role is not None]
    if not any(record.role in _READING for record in told):
        return []
    layers = [record.layer for record in told if record.layer is not None]
    if not layers:
        return []
    last = max(layers)  # where scales by depth differ most from those without
    first: dict[str, Record] = {}
    for record in told:
        if record.layer == last and record.role is not None:
            first.setdefault(record.role, record)
    reading = next((first[role] for role in _READING if role in first), None)
    if reading is None:
        return []
    scaled = [first[role] for role in _OUTWARD if role in first and _by_depth(first[role], reading)]
    plain = [first[role] for role in _OUTWARD if role in first and _same(first[role], reading)]
    inward = [first[role] for role in _INWARD if role in first]
    return [*_scaled_inward(reading, scaled[:1], inward), *_scaled_once(scaled[:1], plain[:1])]


def _by_depth(record: Record, reading: Record) -> bool:
    """Whether its std is that of `reading` over the square root of the depth, or of twice it."""
    blocks = reading.found.site.blocks
    depths = {len(block.list.indices) for block in blocks} | {b.number + 1 for b in blocks}
    scales = [math.sqrt(factor * depth) for depth in depths for factor in (1, 2) if depth > 1]
    return not _by_fan(record, reading) and any(
        math.isclose(_std(record) * scale, _std(reading), rel_tol=_SAME) for scale in scales
    )


def _scaled_inward(
    reading: Record, scaled: Sequence[Record], inward: Sequence[Record]
) -> list[str]:
    """The scale of what writes to the residual stream, on a projection that does not.

    Seen in torchtitan (issue 3722) and OLMo-core, where w3 has it beside w2.
    """
    return [
        f"{record.name} has the std of {out.name}, {_std(out):.3g}, though it does not write to "
        f"the residual stream; {reading.name} has {_std(reading):.3g}"
        for record in inward
        for out in scaled
        if _same(record, out)
    ]


def _scaled_once(scaled: Sequence[Record], plain: Sequence[Record]) -> list[str]:
    """A scale by depth on one of the two that write to the residual stream in each block.

    Seen in OLMo (pull request 607), where ff_out alone had it.
    """
    return [
        f"{one.name} has a std scaled by depth, {_std(one):.3g}, and {other.name} has not, "
        f"{_std(other):.3g}, though both write to the residual stream"
        for one in scaled
        for other in plain
    ]


def _by_fan(one: Record, other: Record) -> bool:
    """Whether their std differ as one over the square root of a fan."""
    ratio = (_std(one) / _std(other)) ** 2
    pairs = [(one.shape[axis], other.shape[axis]) for axis in (0, -1)]
    return any(math.isclose(ratio * mine, others, rel_tol=_SAME) for mine, others in pairs)


def _shards(records: Sequence[Record]) -> list[str]:
    """Plain tensors that hold one rank's part of a weight, as Megatron marks them.

    Seen in Megatron-Bridge (5840): the std of LoRA's A, from the fan of a shard, was sqrt(ranks)
    times too large.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return []
    parts = [
        record
        for record in records
        if getattr(record.parameter, "tensor_model_parallel", False)
        and (record.law is not None or record.std)
    ]
    if not parts:
        return []
    return [
        f"tensor parallelism has cut {_counted(parts)}, filled as if whole: fans are a shard's, "
        "and ranks hold the same values; make these DTensors, or fill them with region="
    ]


def _empty(records: Sequence[Record]) -> list[str]:
    """Parameters of which nothing is here. Seen in DeepSpeed (2650): ZeRO-3 had taken them."""
    empty = [record for record in records if 0 in record.found.shape]
    if not empty:
        return []
    return [f"nothing is written to {_counted(empty)}: the shape has no elements"]


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
