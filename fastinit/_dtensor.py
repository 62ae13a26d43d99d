"""DTensors: what this rank holds of a sharded tensor, as rectangles of the global one.

Owns all that knows `torch.distributed`: which rows a mesh and its placements give to this rank, and
the one key that all ranks must share. Must not know any distribution. It imports nothing of
`torch.distributed` before a DTensor arrives. `docs/sharding.md` tells the user what follows.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor

from fastinit._regions import Region

PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter})

_empty = torch.empty  # also while a library has its own in torch
_STREAM_ARGUMENTS = 5  # generator, key, key tensor, global shape, offsets

_P = ParamSpec("_P")
_R = TypeVar("_R")
Runs: TypeAlias = list[tuple[int, int]]  # of indices, each [start, stop)
Source: TypeAlias = tuple[torch.Generator | None, tuple[int, int] | None, Tensor | None]


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
    from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

    runs: list[Runs] = [[(0, extent)] for extent in shape]
    for mesh_dim, placement in enumerate(placements):
        if isinstance(placement, Replicate):
            continue
        if not isinstance(placement, (Shard, _StridedShard)):
            _refuse_placement(placement, mesh_dim)
        factor = int(placement.split_factor) if isinstance(placement, _StridedShard) else 1
        dim = placement.dim
        runs[dim] = _split(runs[dim], mesh_shape[mesh_dim], at[mesh_dim], factor)
    return runs


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
        ValueError: the mesh does not hold this rank, a placement is Partial or unknown, or the
            local tensor does not have the shape that mesh and placements give it.
    """
    mesh, placements, local = tensor.device_mesh, tensor.placements, tensor._local_tensor
    shape = tuple(tensor.shape)
    at = mesh.get_coordinate()
    if at is None:
        raise ValueError(
            f"tensor lies on {mesh}, which does not hold this rank ({mesh.get_rank()}); "
            "initialize it on the ranks of its mesh only"
        )
    local_shape, rectangles = _rectangles(shape, tuple(mesh.shape), tuple(at), tuple(placements))
    if local.numel() == 0 and 0 in local_shape:
        return [(local.view(local_shape), Region(shape, (0,) * len(shape)))]
    if local.shape != local_shape:
        raise ValueError(
            f"tensor holds a local tensor of shape {tuple(local.shape)}, but its shape {shape} "
            f"with {tuple(placements)} on a mesh of {tuple(mesh.shape)} gives {local_shape} to the "
            f"rank at {tuple(at)}; give DTensor.from_local the global shape= and stride=; if "
            "FSDP2 has cut uneven tensor-parallel shards, make the dimension divisible"
        )
    if len(rectangles) == 1:
        return [(local, Region(shape, rectangles[0][1]))]
    return [(local[where], Region(shape, offsets)) for where, offsets in rectangles]


@untraced
def fill_pieces(tensor: Tensor, fill: Callable[[Tensor, Region], object]) -> Tensor:
    """Call `fill` for each of the `pieces` of a DTensor and return the DTensor."""
    with torch.no_grad():
        for local, region in pieces(tensor):
            fill(local, region)
    bump_version(tensor)
    return tensor


def bump_version(tensor: Tensor) -> None:
    """Tell autograd that a DTensor has changed; writing to its local tensor does not."""
    torch.autograd.graph.increment_version(tensor)


# ----------------------------------------------------------------------------------- which key


@contextmanager
def shared_source(
    tensor: Any,
    generator: torch.Generator | None,
    key: tuple[int, int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: tuple[int, ...] | None = None,
    _offsets: tuple[int, ...] | None = None,
) -> Iterator[Source]:
    """The (generator, key, key tensor) of all pieces of a DTensor on all ranks.

    Without a key it is drawn from the generator, by default the CPU's default one, as a fill of a
    plain CPU tensor draws it: two `random64` on every rank, whatever it holds. If the block raises,
    the generator is as before.

    Args:
        tensor: a DTensor.
        generator, key, key_tensor, global_shape: as `fastinit._keys.stream` gave them.

    Raises:
        ValueError: a region is given, though the DTensor has its own.
        RuntimeError: the ranks of the mesh draw different keys.
    """
    if global_shape is not None:
        raise ValueError(
            "region is given with a DTensor, whose mesh and placements say where its values "
            "belong; leave region out"
        )
    if key is not None or key_tensor is not None:
        yield None, key, key_tensor
        return
    if tensor.numel() == 0 or _has_no_values(tensor._local_tensor):
        yield None, (0, 0), None  # nothing will be written, so nothing is drawn
        return
    if generator is None:
        generator = torch.default_generator
    if generator.device.type != "cpu":
        yield generator, None, None  # which the device reads without waiting
        return
    state = generator.get_state()
    try:
        key = _draw(generator)
        _require_agreement(tensor.device_mesh, key)
        yield None, key, None
    except BaseException:
        generator.set_state(state)
        raise


def _has_no_values(local: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return local.is_meta or isinstance(local, FakeTensor)


def _draw(generator: torch.Generator) -> tuple[int, int]:
    """Two 64-bit words, as the compiled fills take them; the full range of int64 is `random64`."""
    words = _empty(2, dtype=torch.int64, device="cpu")
    seed, offset = words.random_(-(1 << 63), None, generator=generator).tolist()
    return seed, offset


_agreed: set[int] = set()  # hashes of meshes whose ranks were found to draw the same key


def _require_agreement(mesh: Any, key: tuple[int, int]) -> None:
    """Compare the key over all ranks of the mesh, the first time a key is drawn for that mesh.

    One reduction of four words along each mesh dimension; all ranks learn the same.
    """
    if hash(mesh) in _agreed:
        return
    import torch.distributed as dist

    if not any("fake" in dist.get_backend(group) for group in mesh.get_all_groups()):
        # The largest of each word and, as ~ reverses the order, the complement of the smallest.
        extremes = torch.tensor([*key, *(~word for word in key)], device=mesh.device_type)
        for group in mesh.get_all_groups():
            dist.all_reduce(extremes, dist.ReduceOp.MAX, group=group)
        *largest, seed, offset = extremes.tolist()
        if largest != [~seed, ~offset]:
            raise RuntimeError(
                f"the ranks of {mesh} draw different keys for the same tensor, so they were seeded "
                "differently or have drawn differently often; call torch.manual_seed with one seed "
                "on all of them, or give a key"
            )
    _agreed.add(hash(mesh))


# ----------------------------------------------------------------------------------- the fills


class ShardedOps:
    """The fill operators for DTensors: each fills the local pieces with its native namesake."""

    def __init__(self, native: Any) -> None:
        """Stand before these operators."""
        self._native = native

    def __getattr__(self, name: str) -> Callable[..., None]:
        """The operator `name`, with the arguments of the native one."""
        return functools.partial(_fill, name, getattr(self._native, name))


@untraced
def _fill(name: str, native: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:
    schema = getattr(torch.ops.fastinit, name).default._schema
    own = len(schema.arguments) - 1 - _STREAM_ARGUMENTS
    parts = pieces(tensor)
    with shared_source(tensor, *arguments[own:]) as source:
        generator = source[0] if len(parts) > 1 else None
        state = generator.get_state() if generator is not None else torch.empty(0)
        for local, region in parts:
            if generator is not None:  # all pieces draw the same key
                generator.set_state(state)
            native(local, *arguments[:own], *source, region.global_shape, region.offsets)
    bump_version(tensor)
