"""Placements: what this rank holds of a DTensor, as rectangles of the global tensor.

Owns which rows a mesh and its placements give to this rank. Must not know keys or distributions. It
imports nothing of `torch.distributed` before a DTensor arrives. `docs/sharding.md` tells the user
what follows.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor

from fastinit._fill.regions import Region

PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter})

_P = ParamSpec("_P")
_R = TypeVar("_R")
Runs: TypeAlias = list[tuple[int, int]]  # of indices, each [start, stop)


def is_dtensor(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor; does not import what would define it."""
    if type(tensor) in PLAIN_TYPES:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, getattr(module, "DTensor", ()))


def untraced(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have torch.compile leave the function to Python, and import the compiler no earlier."""
    eager = function

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        nonlocal eager
        if eager is function and "torch._dynamo" in sys.modules:
            eager = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return eager(*args, **kwargs)

    return call


# ------------------------------------------------------------------------------- which rectangles


def _chunk(start: int, stop: int, count: int, index: int) -> tuple[int, int]:
    """Chunk `index` of `count` of [start, stop), as torch.chunk cuts it; the last may be empty."""
    size = -(-(stop - start) // count)
    return min(start + index * size, stop), min(start + (index + 1) * size, stop)


def _select(runs: Runs, positions: Runs) -> Runs:
    """The indices at these positions of the runs laid end to end."""
    selected: Runs = []
    for first, last in positions:
        passed = 0
        for start, stop in runs:
            low, high = max(first - passed, 0), min(last - passed, stop - start)
            if low < high:
                if selected and selected[-1][1] == start + low:
                    low = selected.pop()[0] - start
                selected.append((start + low, start + high))
            passed += stop - start
    return selected


def _split(runs: Runs, count: int, index: int, factor: int) -> Runs:
    """What rank `index` of `count` gets of the runs.

    Shard is factor 1. A `_StridedShard` stands for a split into `factor` that took place before,
    though its mesh dimension comes later: each rank gets its chunk of each of those parts.
    """
    extent = sum(stop - start for start, stop in runs)
    parts = (_chunk(0, extent, factor, part) for part in range(factor))
    return _select(runs, [_chunk(*part, count, index) for part in parts])


def _runs_of(
    shape: Sequence[int], mesh_shape: Sequence[int], at: Sequence[int], placements: Sequence[Any]
) -> list[Runs]:
    """For each tensor dimension, the global indices that the rank at mesh coordinate `at` holds."""
    from torch.distributed.tensor.placement_types import Partial, Replicate, Shard, _StridedShard

    runs: list[Runs] = [[(0, extent)] for extent in shape]
    for mesh_dim, placement in enumerate(placements):
        if isinstance(placement, Replicate):
            continue
        if isinstance(placement, Partial) and mesh_shape[mesh_dim] == 1:
            continue  # the sum of one term
        if not isinstance(placement, (Shard, _StridedShard)):
            _refuse_placement(placement, mesh_dim)
        factor = int(placement.split_factor) if isinstance(placement, _StridedShard) else 1
        dim = placement.dim
        runs[dim] = _split(runs[dim], mesh_shape[mesh_dim], at[mesh_dim], factor)
    return runs


def _require_default_order(spec: Any) -> None:
    """Refuse an order of the splits that the placements do not tell; older torch knows none."""
    for entry in getattr(spec, "shard_order", None) or ():
        if list(entry.mesh_dims) != sorted(entry.mesh_dims):
            raise ValueError(
                f"tensor has the shard_order {spec.shard_order!r}, which splits dimension "
                f"{entry.tensor_dim} along mesh dimensions {tuple(entry.mesh_dims)} in this order: "
                "fastinit knows which part of the tensor a rank then holds only for mesh "
                "dimensions from left to right; redistribute it to that order first"
            )


def _refuse_placement(placement: object, mesh_dim: int) -> None:
    reason = (
        "its ranks hold terms of a reduction, so that no rank holds values of the tensor"
        if getattr(placement, "is_partial", bool)()
        else "fastinit does not know which part of the tensor a rank then holds"
    )
    raise ValueError(
        f"tensor has the placement {placement!r} on mesh dimension {mesh_dim}: {reason}; "
        "redistribute it to Replicate() or Shard(dim) first"
    )


Rectangle: TypeAlias = tuple[tuple[slice, ...], tuple[int, ...]]  # where locally, where globally


@functools.lru_cache(maxsize=1024)
def _rectangles(
    shape: tuple[int, ...], mesh_shape: tuple[int, ...], at: tuple[int, ...], placements: Any
) -> tuple[tuple[int, ...], list[Rectangle]]:
    """The local shape, and the rectangles of the global tensor that lie in the local one.

    There is one, but for `_StridedShard` and unless the rank holds nothing.
    """
    per_dim: list[list[tuple[slice, int]]] = []
    local_shape = []
    for runs in _runs_of(shape, mesh_shape, at, placements):
        ends = list(itertools.accumulate(stop - start for start, stop in runs))
        per_dim.append(
            [
                (slice(end - (stop - start), end), start)
                for end, (start, stop) in zip(ends, runs, strict=True)
            ]
        )
        local_shape.append(ends[-1] if ends else 0)
    rectangles = []
    for sides in itertools.product(*per_dim):
        rectangles.append((tuple(s for s, _ in sides), tuple(start for _, start in sides)))
    return tuple(local_shape), rectangles


def pieces(tensor: Any) -> list[tuple[Tensor, Region]]:
    """What this rank holds of a DTensor: views of its local tensor and where they belong.

    Args:
        tensor: a DTensor.

    Returns:
        At least one pair; a rank without elements gets its empty local tensor.

    Raises:
        ValueError: the mesh does not hold this rank, a placement is Partial or unknown, the splits
            are not in the order of the mesh dimensions, or the local tensor does not have the shape
            that mesh and placements give it. Partial over a mesh dimension of one rank is not
            refused: its only term is the value.
    """
    mesh, placements, local = tensor.device_mesh, tensor.placements, tensor._local_tensor
    shape, at = tuple(tensor.shape), own_coordinate(mesh)
    _require_default_order(tensor._spec)
    local_shape, rectangles = _rectangles(shape, tuple(mesh.shape), at, tuple(placements))
    if local.numel() == 0 and 0 in local_shape:
        return [(local.view(local_shape), Region(shape, (0,) * len(shape)))]
    if local.shape != local_shape:
        raise ValueError(
            f"tensor holds a local tensor of shape {tuple(local.shape)}, but its shape {shape} "
            f"with {tuple(placements)} on a mesh of {tuple(mesh.shape)} gives {local_shape} to the "
            f"rank at {at}; give DTensor.from_local the global shape= and stride=; if "
            "FSDP2 has cut uneven tensor-parallel shards, make the dimension divisible"
        )
    if len(rectangles) == 1:
        return [(local, Region(shape, rectangles[0][1]))]
    return [(local[where], Region(shape, offsets)) for where, offsets in rectangles]


def own_coordinate(mesh: Any) -> tuple[int, ...]:
    at = mesh.get_coordinate()
    if at is None:
        raise ValueError(
            f"tensor lies on {mesh}, which does not hold this rank ({mesh.get_rank()}); "
            "initialize it on the ranks of its mesh only"
        )
    return tuple(at)


@untraced
def fill_pieces(tensor: Tensor, fill: Callable[[Tensor, Region], object]) -> Tensor:
    """Call `fill` for each of the `pieces` of a DTensor and return the DTensor."""
    with torch.no_grad():
        for local, region in pieces(tensor):
            fill(local, region)
    bump_version(tensor)
    return tensor


def local_scalar(name: str, value: Any) -> Tensor:
    """The local tensor of a DTensor given as the number `name`; a ValueError if not replicated."""
    sizes = value.device_mesh.shape
    if not all(p.is_replicate() or n == 1 for p, n in zip(value.placements, sizes, strict=True)):
        raise ValueError(
            f"{name} is a DTensor with the placements {tuple(value.placements)}, of which no rank "
            "holds the value; redistribute it to Replicate() first"
        )
    local: Tensor = value._local_tensor
    return local


def bump_version(tensor: Tensor) -> None:
    """Tell autograd that a DTensor has changed; writing to its local tensor does not."""
    torch.autograd.graph.increment_version(tensor)
