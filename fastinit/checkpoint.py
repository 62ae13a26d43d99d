"""A manifest as a checkpoint: `torch.distributed.checkpoint` "reads" initial weights from it.

Owns `ManifestReader`. Each item that a load plan asks for is a region of a tensor, filled where the
planner wants it. Imported by whoever needs it, since it imports torch.distributed.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from fastinit._fill.regions import Region
from fastinit.models.boxes import Piece
from fastinit.models.manifest import Entry, Manifest, read, steps_of
from fastinit.models.steps import Work, carry_out


class ManifestReader(StorageReader):
    """Reads the initial weights of a model from its manifest, at any parallelism.

    Formula: `dcp.load(state_dict, storage_reader=ManifestReader(manifest))` gives the bits that
    `materialize_` gave, for plain tensors and for DTensors of whatever sharding.

    Args:
        manifest: of `Report.manifest`, as it was or read from JSON.
        prefix: what the names have in front in the state dict, such as "model." for
            `{"model": model.state_dict()}`.

    Raises:
        RuntimeError: a manifest of another stream version.
        TypeError, ValueError: no manifest.

    Reproducibility: bit for bit. Each rank makes what it holds; nothing is communicated but DCP's
        plans.

    Example:
        >>> import torch, fastinit
        >>> import torch.distributed.checkpoint as dcp
        >>> from fastinit.checkpoint import ManifestReader
        >>> layer, other = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
        >>> reader = ManifestReader(fastinit.init_(layer, seed=0).manifest())
        >>> state = other.state_dict()
        >>> dcp.load(state, storage_reader=reader, no_dist=True)
        >>> torch.equal(other.weight, layer.weight)
        True
    """

    def __init__(self, manifest: Manifest, *, prefix: str = "") -> None:
        super().__init__()
        self._entries: dict[str, Entry] = {
            prefix + name: entry
            for entry in read(manifest).values()
            if entry.in_state_dict
            for name in entry.names
        }

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is remembered between loads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Every tensor of the manifest, as if it were stored whole."""
        found: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        for name, entry in self._entries.items():
            size = torch.Size(entry.shape)
            chunk = ChunkStorageMetadata(torch.Size([0] * len(size)), size)
            properties = TensorProperties(dtype=entry.dtype)
            found[name] = TensorStorageMetadata(properties, size, [chunk])
        return Metadata(found)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        """There is no storage."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is; refuses tensors of which only a digest is known."""
        for item in plan.items:
            if item.type == LoadItemType.TENSOR:
                steps_of(self._entries[item.storage_index.fqn])
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are: every rank makes its own."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill all that the plan asks for, in one call for each device."""
        work: list[Work] = []
        seen: set[tuple[str, tuple[int, ...], int]] = set()
        targets: list[tuple[ReadItem, torch.Tensor, torch.Tensor]] = []
        for item in plan.items:
            if item.type != LoadItemType.TENSOR:
                raise ValueError(f"manifest holds tensors alone, and {item.dest_index.fqn} is none")
            entry = self._entries[item.storage_index.fqn]
            target = planner.resolve_tensor(item).detach()
            filled = target
            if target.dtype != entry.dtype:
                filled = torch.empty(target.shape, dtype=entry.dtype, device=target.device)
            place = (entry.name, tuple(item.storage_offsets), filled.data_ptr())
            if place not in seen:  # tied tensors may be the same memory
                seen.add(place)
                work.append((steps_of(entry), [_piece(entry, item, filled)]))
            targets.append((item, target, filled))
        carry_out(work)
        for item, target, filled in targets:
            if filled is not target:
                target.copy_(filled)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """A manifest is no place: there is no id that would be one."""
        return False


def _piece(entry: Entry, item: ReadItem, tensor: torch.Tensor) -> Piece:
    offsets = tuple(item.storage_offsets)
    if tuple(tensor.shape) == entry.shape and not any(offsets):
        return tensor, None
    return tensor, Region(entry.shape, offsets)
