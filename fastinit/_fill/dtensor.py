"""DTensors: the fills of what a rank holds, under the one key that all ranks must share.

Owns the choice between the operators for plain tensors and those for DTensors, and the comparison
of keys over the ranks. Must not know any distribution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastinit._fill.extension import native
from fastinit._fill.keys import key_from_generator, one_key_only
from fastinit._fill.placements import (
    PLAIN_TYPES,
    bump_version,
    is_dtensor,
    own_coordinate,
    pieces,
    untraced,
)

_STREAM_ARGUMENTS = 5  # generator, key, key tensor, global shape, offsets

Source: TypeAlias = tuple[torch.Generator | None, tuple[int, int] | None, Tensor | None]

_is_dynamo_compiling = torch.compiler.is_dynamo_compiling


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
    the generator is as before. What one rank may refuse and another not belongs into the block: the
    ranks compare their keys before it, and would wait for one that does not come.

    Args:
        tensor: a DTensor.
        generator, key, key_tensor, global_shape: as `fastinit._fill.keys.stream` gave them.

    Raises:
        ValueError: a region is given, though the DTensor has its own; the mesh does not hold this
            rank.
        RuntimeError: the ranks of the mesh draw different keys.
    """
    if global_shape is not None:
        raise ValueError(
            "region is given with a DTensor, whose mesh and placements say where its values "
            "belong; leave region out"
        )
    if key_tensor is not None and key_tensor.ndim == 2:
        raise one_key_only("is a DTensor")
    own_coordinate(tensor.device_mesh)
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
        key = key_from_generator(generator, generator.device)
        _require_agreement(tensor.device_mesh, key)
        yield None, key, None
    except BaseException:
        generator.set_state(state)
        raise


def _has_no_values(local: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return local.is_meta or isinstance(local, FakeTensor)


# By the default process group, which ends with all others: hashes of the meshes whose ranks were
# found to draw the same key.
_agreed: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()


def _require_agreement(mesh: Any, key: tuple[int, int]) -> None:
    """Compare the key over all ranks of the mesh, the first time a key is drawn for that mesh.

    One reduction of four words along each mesh dimension; all ranks learn the same. In fake process
    groups, and after the end of all, there is nobody to compare with.
    """
    import torch.distributed as dist

    if dist.group.WORLD is None:
        return
    agreed = _agreed.setdefault(dist.group.WORLD, set())
    if hash(mesh) in agreed:
        return
    groups = mesh.get_all_groups()
    if any("fake" in dist.get_backend(group) for group in groups):
        return
    # The largest of each word and, as ~ reverses the order, the complement of the smallest.
    extremes = torch.tensor([*key, *(~word for word in key)], device=mesh.device_type)
    for group in groups:
        dist.all_reduce(extremes, dist.ReduceOp.MAX, group=group)
    *largest, seed, offset = extremes.tolist()
    if largest != [~seed, ~offset]:
        raise RuntimeError(
            f"the ranks of {mesh} draw different keys for the same tensor, so they were seeded "
            "differently or have drawn differently often; call torch.manual_seed with one seed "
            "on all of them, or give a key"
        )
    agreed.add(hash(mesh))


# ----------------------------------------------------------------------------------- the fills


class _ShardedOps:
    """The fill operators for DTensors: each fills the local pieces with its native namesake."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """The operator `name`, with the arguments of the native one."""
        return functools.partial(_fill, name, getattr(native, name))


_sharded = _ShardedOps()


# What gives the operators for plain tensors, while fills may have to wait.
entrance: Callable[[], Any] | None = None


def ops(tensor: Tensor) -> Any:
    """The operators that fill `tensor`.

    The quick entrance, or the registered ones that torch.compile can trace; other tracers work
    below Python and see either. For a DTensor, those that fill its local part.
    """
    if type(tensor) not in PLAIN_TYPES and is_dtensor(tensor):
        return _sharded
    if _is_dynamo_compiling():
        return torch.ops.fastinit
    return native if entrance is None else entrance()


@untraced
def _fill(name: str, fill: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:
    schema = getattr(torch.ops.fastinit, name).default._schema
    own = len(schema.arguments) - 1 - _STREAM_ARGUMENTS
    with shared_source(tensor, *arguments[own:]) as source:
        parts = pieces(tensor)
        generator = source[0] if len(parts) > 1 else None
        state = generator.get_state() if generator is not None else torch.empty(0)
        for local, region in parts:
            if generator is not None:  # all pieces draw the same key
                generator.set_state(state)
            fill(local, *arguments[:own], *source, region.global_shape, region.offsets)
    bump_version(tensor)
