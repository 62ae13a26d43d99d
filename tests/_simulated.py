"""One process as each rank of a mesh in turn, with torch's fake process group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from conftest import POISON
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def rank_of(
    mesh_shape: Sequence[int], rank: int, names: tuple[str, ...] | None = None
) -> Iterator[DeviceMesh]:
    """The mesh of all ranks as `rank` sees it."""
    world = int(torch.Size(mesh_shape).numel())
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield init_device_mesh("cpu", tuple(mesh_shape), mesh_dim_names=names)
    finally:
        dist.destroy_process_group()


def every_rank(mesh_shape: Sequence[int]) -> Iterator[DeviceMesh]:
    """The mesh as each of its ranks sees it, in turn; take nothing from one to the next."""
    for rank in range(torch.Size(mesh_shape).numel()):
        # Operators of DTensor remember the first of equal meshes, which would have its rank.
        names = tuple(f"{dim} of rank {rank}" for dim in range(len(mesh_shape)))
        with rank_of(mesh_shape, rank, names) as mesh:
            yield mesh


def own_part(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """What the placements' own split gives this rank of the whole."""
    part = whole
    at = mesh.get_coordinate()
    assert at is not None
    for mesh_dim, placement in enumerate(placements):
        if not placement.is_replicate() and not placement.is_partial():
            shards, _ = placement._split_tensor(  # type: ignore[attr-defined]
                part, mesh.size(mesh_dim), with_padding=False
            )
            part = shards[at[mesh_dim]]
    return part


def sharded(
    local: Tensor, whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]
) -> DTensor:
    """The DTensor of the shape of `whole` of which this rank holds `local`."""
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def on_rank(shape: tuple[int, ...], placements: list[Placement], mesh: DeviceMesh) -> DTensor:
    """A poisoned DTensor of this shape on an open mesh."""
    whole = torch.empty(shape, device="meta")
    local = torch.full(own_part(whole, mesh, placements).shape, POISON)
    return sharded(local, whole, mesh, placements)
