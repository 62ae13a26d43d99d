"""`calibrate_` and `lsuv_`: the public functions, and the table that they return.

Owns what they refuse, the order of the steps, and what is said of each layer. How scales are found
is `passing`'s, how large they should be `wanted`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._fill.keys import Key
from fastinit.diagnostics.calibration.layers import Layer, expanded, layers
from fastinit.diagnostics.calibration.passing import Pass, Scaling, scaling
from fastinit.diagnostics.calibration.wanted import Targets, Wishes
from fastinit.diagnostics.subject import (
    as_found,
    refuse_sharded,
    require_rows,
    require_runnable,
    run,
)
from fastinit.diagnostics.tables import Cell, Result
from fastinit.init import orthogonal_
from fastinit.recipes.recipe import Numbers

_MOST_SLICES = 4  # of a weight that has a record for each; more are one record together


@dataclass(frozen=True, slots=True)
class LayerScale:
    """What was done to one weight, or to one slice of a packed one.

    Args:
        name: of the weight; of a slice with its outputs in brackets.
        role: that it plays in a transformer; None if unknown or in another model.
        rows: how many inputs each output saw.
        before: the std of W x, with all that runs before it scaled already.
        after: the same with the weight as it is now.
        target: what `after` should be; None if the layer was left alone.
        scale: the factor by which the weight was multiplied.
        note: why it was left alone, and what else there is to know.
    """

    name: str
    role: str | None
    rows: int
    before: float | None
    after: float | None
    target: float | None
    scale: float
    note: str


@dataclass(frozen=True)
class Calibration(Result[LayerScale]):
    """What `calibrate_` did: a record for each weight, in the order of the model."""

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["layer", "before", "after", "scale", "note"]

    def rows(self) -> list[list[Cell]]:
        """One row for each record."""
        return [
            [r.name.replace(".weight", ""), r.before, r.after, r.scale, r.note]
            for r in self.records
        ]

    def notes(self) -> list[str]:
        """How many weights were scaled; what was not finite."""
        scaled = sum(record.target is not None for record in self.records)
        told = [f"std of each layer's W x; {scaled} scaled, {len(self) - scaled} left alone"]
        bad = [r.name for r in self.records if r.before is not None and not math.isfinite(r.before)]
        if bad:
            told += [
                f"not finite: {bad[0]}, the first of {len(bad)}, which are left as they are;",
                "look for NaN or infinity in the batch and in the weights up to there",
            ]
        return told


def calibrate_(
    module: nn.Module,
    batch: Any,
    *,
    targets: Targets | None = None,
    depth: Numbers = None,
) -> Calibration:
    """Scale each layer's weights so that its output has the standard deviation it should have.

    Formula: W <- W target / std(W x), layer by layer in the order of execution, in one pass.

    Source: Mishkin & Matas, "All you need is a good init" (2016), without the iteration: a layer's
    output is linear in its weights, so that one step is exact.

    Args:
        module: a model with values in it, not compiled and not sharded. It runs as it is: in
            training mode dropout acts and batch norm uses the batch.
        batch: what the model takes: a tensor, a sequence of arguments or a mapping of keywords; at
            least two rows, some hundred are better.
        targets: {pattern: std}, patterns as in `fastinit.recipes`; None leaves a layer alone, an
            expression such as `1 / sqrt(2 * depth)` is computed for each layer, and ((outputs,
            std), ...) tells the slices of a packed projection. By default 1; in a transformer, by
            role: 1 / sqrt(2 depth) for what writes to the residual stream, none for q, k, router,
            head and embeddings. What a norm follows directly, what is frozen, and groups and
            experts with fewer than 256 rows are left alone, and reported.
        depth: the number of blocks, where it cannot be read off the model; {pattern: number} too.

    Returns:
        A table: for each weight the std of its output before and after, the factor, and a note.
        Biases are neither counted nor scaled. Values that are not finite are reported.

    Raises:
        TypeError, ValueError, RuntimeError: a module without parameters, with lazy or sharded ones,
            or compiled; a batch that does not fit it, or has fewer than two rows; targets that
            match nothing. Hooks of the model that raise do so. No weight is changed then.

    Reproducibility: of the model's own pass. Training flags, hooks, buffers and torch's generators
        are left as they were; nothing is read from the device before the end of the pass.

    Example:
        >>> import torch, fastinit
        >>> layers = [torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 10)]
        >>> model = torch.nn.Sequential(*layers)
        >>> report = fastinit.init_(model, seed=0)
        >>> batch = fastinit.normal_(torch.empty(256, 64), key=0)
        >>> print(fastinit.calibrate_(model, batch))
        layer  before  after  scale  note
        0       0.582      1   1.72
        2       0.395      1   2.53
        std of each layer's W x; 2 scaled, 0 left alone
    """
    require_runnable(module)
    refuse_sharded(module)
    require_rows(batch)
    wishes = Wishes(module, targets, depth)
    found, others = layers(module)
    scalings = _scalings(found, wishes)
    _pass(module, batch, scalings)
    return Calibration(tuple([*_records(scalings), *_unknown(wishes, others)]))


def lsuv_(
    module: nn.Module,
    batch: Any,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    targets: Targets | None = None,
    depth: Numbers = None,
) -> Calibration:
    """Layer-sequential unit variance: orthogonal weights, then `calibrate_`.

    Formula: W <- Q target / std(Q x), Q orthogonal; of grouped and packed weights each slice.

    Source: Mishkin & Matas, "All you need is a good init" (2016).

    Args:
        module: as for `calibrate_`.
        batch: as for `calibrate_`.
        seed: each weight is drawn under `Key(seed).fold_in(name)`. None draws from a generator.
        generator: which one; None is torch's default one. Exclusive with seed.
        targets: as for `calibrate_`. Slices without a target keep their values; of a layer that a
            norm follows the scale stays that of Q.
        depth: as for `calibrate_`.

    Returns: as `calibrate_`.

    Raises: as `calibrate_`; no weight is changed then.

    Reproducibility: as `orthogonal_` and the model's own pass.

    Example:
        >>> import torch, fastinit
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh())
        >>> batch = fastinit.normal_(torch.empty(256, 64), std=2, key=0)
        >>> print(fastinit.lsuv_(model, batch, seed=0))
        layer  before  after  scale  note
        0        2.01      1  0.496
        std of each layer's W x; 1 scaled, 0 left alone
    """
    if seed is not None and generator is not None:
        raise ValueError("generator and seed exclude each other; pass one of them")
    require_runnable(module)
    refuse_sharded(module)
    require_rows(batch)
    wishes = Wishes(module, targets, depth)
    found, others = layers(module)
    scalings = _scalings(found, wishes)
    before = [(one, one.layers[0].weight.detach().clone()) for one in scalings]
    try:
        for one in scalings:
            _draw(one, seed, generator)
        _pass(module, batch, scalings)
    except BaseException:
        for one, values in before:
            one.layers[0].weight.data.copy_(values)
        raise
    return Calibration(tuple([*_records(scalings), *_unknown(wishes, others)]))


def _scalings(found: Sequence[Layer], wishes: Wishes) -> list[Scaling]:
    """One for each weight; modules that share it have one together."""
    sharing: dict[int, list[Layer]] = {}
    for layer in found:
        sharing.setdefault(id(layer.weight), []).append(layer)
    return [scaling(group, wishes.of(group[0])) for group in sharing.values()]


def _draw(one: Scaling, seed: int | None, generator: torch.Generator | None) -> None:
    layer, wanted = one.layers[0], one.wanted
    pieces = list(layer.pieces(wanted.sizes))
    with torch.no_grad():
        for at, (piece, target) in enumerate(zip(pieces, wanted.targets, strict=True)):
            if target is None:
                continue
            if seed is None:
                orthogonal_(piece, generator=generator)
                continue
            key = Key(seed).fold_in(layer.name)
            orthogonal_(piece, key=key.fold_in(at) if len(pieces) > 1 else key)


def _pass(module: nn.Module, batch: Any, scalings: Sequence[Scaling]) -> None:
    """Run the batch through, then fold what was found into the weights."""
    hooked = Pass(module, scalings)
    with torch.inference_mode(False), torch.no_grad(), as_found(module):
        torch.clear_autocast_cache()  # of weights as they were, which it keeps till autocast ends
        with hooked.hooks():
            run(module, batch)
        torch.clear_autocast_cache()
        for one in scalings:
            if not one.left:
                assert one.scale is not None
                one.layers[0].fold(expanded(one.scale, one.wanted.sizes))


# ------------------------------------------------------------------------------------- the table


def _records(scalings: Sequence[Scaling]) -> list[LayerScale]:
    """What was found, read from each device in one copy."""
    called = [one for one in scalings if one.std is not None]
    found = iter(_read([_numbers(one) for one in called]))
    records = []
    for one in scalings:
        if one.std is None:
            note = one.note or one.wanted.note or "not called"
            name, role = one.layers[0].name, one.wanted.role
            records.append(LayerScale(name, role, 0, None, None, None, 1.0, note))
        else:
            stds, scales = next(found), next(found)
            records += _of_slices(one, stds, scales)
    return records


def _numbers(one: Scaling) -> tuple[Tensor, Tensor]:
    assert one.std is not None
    scale = torch.ones_like(one.std) if one.left else one.scale
    assert scale is not None
    return one.std, scale


def _read(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[list[float]]:
    """The values of many small tensors, in one copy from each device."""
    flat = [tensor for pair in pairs for tensor in pair]
    read: dict[int, list[float]] = {}
    for device in {tensor.device for tensor in flat}:
        here = [at for at, tensor in enumerate(flat) if tensor.device == device]
        values = torch.cat([flat[at].double() for at in here]).tolist()
        for at in here:
            size = flat[at].numel()
            read[at], values = values[:size], values[size:]
    return [read[at] for at in range(len(flat))]


def _of_slices(one: Scaling, stds: list[float], scales: list[float]) -> list[LayerScale]:
    wanted, layer = one.wanted, one.layers[0]
    note = _note(one, stds, wanted.targets)
    whole = len(set(wanted.targets)) == 1 and (len(stds) == 1 or len(stds) > _MOST_SLICES)
    if whole:
        target = None if one.left or _lost(stds) else wanted.targets[0]
        before, after = _rms(stds), _rms([a * b for a, b in zip(stds, scales, strict=True)])
        if len(stds) > 1 and target is not None:
            told = f"{len(stds)} groups, scaled by {min(scales):.3g} to {max(scales):.3g}"
            note = f"{told}; {note}" if note else told
        scale = math.exp(sum(map(math.log, scales)) / len(scales))
        return [LayerScale(layer.name, wanted.role, one.rows, before, after, target, scale, note)]
    records, start = [], 0
    for size, target, std, scale in zip(wanted.sizes, wanted.targets, stds, scales, strict=True):
        name = f"{layer.name}[{start}:{start + size}]"
        left = target is None or one.left or _lost([std])
        told = _note(one, [std], (target,))
        goal = None if left else target
        after = std * scale
        records.append(LayerScale(name, wanted.role, one.rows, std, after, goal, scale, told))
        start += size
    return records


def _note(one: Scaling, stds: Sequence[float], targets: Sequence[float | None]) -> str:
    notes = []
    if one.followed:
        notes.append("a norm follows")
    elif all(target is None for target in targets):
        notes.append(one.wanted.note)
    elif one.note:
        notes.append(one.note)
    elif not all(map(math.isfinite, stds)):
        notes.append("not finite")
    elif _lost(stds):
        notes.append("no signal")
    shared = len(one.layers) > 1
    if one.calls > 1 and not one.left:
        how = f"{len(one.layers)} layers share it" if shared else f"called {one.calls} times"
        notes.append(f"{how}, scaled for the first")
    return "; ".join(note for note in notes if note)


def _lost(stds: Sequence[float]) -> bool:
    return not any(math.isfinite(std) and std > 0 for std in stds)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def _unknown(wishes: Wishes, others: dict[str, tuple[Tensor, str]]) -> list[LayerScale]:
    """The matrices that no layer has, so that the table leaves none out."""
    records = []
    for name, (parameter, why) in others.items():
        role, note = wishes.of_another(parameter, why)
        records.append(LayerScale(name, role, 0, None, None, None, 1.0, note))
    return records
