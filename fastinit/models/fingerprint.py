"""Fingerprints: digests of values, whatever the device, the sharding and the number of ranks.

Owns the digest. Each element is hashed with its place in the whole tensor, and the hashes are
summed, so that pieces can be summed anywhere and in any order: two 64-bit sums a tensor, one
reduction for all tensors. `docs/models.md` states the hash. Must not know how values came about.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastinit._fill.placements import is_dtensor, own_coordinate
from fastinit.models.boxes import Piece
from fastinit.models.names import (
    buffers_by_name,
    first_names,
    parameters_by_name,
    tensor_at,
)
from fastinit.models.targets import pieces_of

# Odd constants: the multipliers of Murmur3's 64-bit finalizer, and two from the golden ratio.
_PLACE, _BITS = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
_FIRST, _SECOND = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
_PANEL = 1 << 17  # elements hashed at a time


def fingerprint(module: nn.Module) -> dict[str, str]:
    """A digest of the values of each parameter and buffer.

    Formula: docs/models.md; two tensors of one shape and dtype have one digest if, and but for a
    chance of 2^-64, only if all their bits are equal.

    Args:
        module: any model. Where parameters are sharded, every rank has to call it: each hashes
            what it holds, and one reduction of 16 bytes a tensor joins them.

    Returns: by name in the bare model, 32 hexadecimal digits; a tied parameter has its first name.

    Raises: ValueError for tensors on meta.

    Reproducibility: no device, sharding, world size, memory format or wrapper plays a part.

    Example:
        >>> import torch, fastinit
        >>> a, b = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
        >>> reports = [fastinit.init_(layer, seed=0) for layer in (a, b)]
        >>> fastinit.fingerprint(a) == fastinit.fingerprint(b)
        True
    """
    tensors = tensors_of(module)
    meta = [name for name, tensor in tensors.items() if tensor.is_meta]
    if meta:
        raise ValueError(f"module has tensors on meta, which hold no values: {', '.join(meta)}")
    sums = {name: _own_sum(tensor) for name, tensor in tensors.items()}
    _reduce({name: (tensors[name], sums[name]) for name in sums if is_dtensor(tensors[name])})
    return {name: _digest(tensor, sums[name]) for name, tensor in tensors.items()}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, each under its first name in the bare model."""
    found: dict[str, Tensor] = {}
    for places in (parameters_by_name(module), buffers_by_name(module)):
        found.update({name: tensor_at(places[name]) for name in first_names(places)})
    return found


def digest_of(tensor: Tensor) -> str:
    """The digest of one whole tensor."""
    return _digest(tensor, _own_sum(tensor))


def _digest(tensor: Tensor, sums: Tensor) -> str:
    words = [word & ((1 << 64) - 1) for word in sums.tolist()]
    hashed = hashlib.blake2b(struct.pack("<2Q", *words), digest_size=16)
    hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return hashed.hexdigest()


# ---------------------------------------------------------------------------------- this rank's


def _own_sum(tensor: Any) -> Tensor:
    """Two sums, mod 2^64, over what this rank holds and no rank before it does."""
    with torch.no_grad():
        if is_dtensor(tensor):
            at = own_coordinate(tensor.device_mesh)
            copies = zip(at, tensor.placements, strict=True)
            if any(place and placement.is_replicate() for place, placement in copies):
                return torch.zeros(2, dtype=torch.int64, device=tensor._local_tensor.device)
        pieces = pieces_of(tensor)
        sums = torch.zeros(2, dtype=torch.int64, device=pieces[0][0].device)
        for piece in pieces:
            for places, bits in _panels(piece):
                sums += _hash(places, bits)
        return sums


def _panels(piece: Piece) -> Iterator[tuple[Tensor, Tensor]]:
    """The elements' places in the whole tensor and their bits, some at a time."""
    tensor, region = piece[0].detach(), piece[1]
    shape = tuple(tensor.shape if region is None else region.global_shape)
    offsets = (0,) * tensor.ndim if region is None else region.offsets
    if tensor.dtype == torch.complex128:
        tensor, shape, offsets = torch.view_as_real(tensor), (*shape, 2), (*offsets, 0)
    if tensor.numel() == 0:
        return
    bits = tensor.reshape(-1)
    bits = bits.view(_BITS_OF[bits.element_size()])
    starts = _row_starts(shape, tensor.shape, offsets, tensor.device)
    row = tensor.shape[-1] if tensor.ndim else 1
    across = torch.arange(min(row, _PANEL), device=tensor.device)
    rows = max(1, _PANEL // row)
    for first in range(0, len(starts), rows):
        some = starts[first : first + rows, None]
        for left in range(0, row, _PANEL):
            width = min(_PANEL, row - left)
            begin = first * row + left
            count = len(some) * width
            yield (some + (across[:width] + left)).reshape(-1), bits[begin : begin + count]


_BITS_OF = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _row_starts(
    shape: Sequence[int], extents: Sequence[int], offsets: Sequence[int], device: torch.device
) -> Tensor:
    """Where in the whole tensor the rows of a piece begin."""
    starts = torch.zeros(1, dtype=torch.int64, device=device)
    stride = 1
    strides = []
    for extent in reversed(shape):
        strides.append(stride)
        stride *= extent
    strides.reverse()
    for extent, offset, step in zip(extents[:-1], offsets[:-1], strides[:-1], strict=True):
        along = (torch.arange(extent, device=device) + offset) * step
        starts = (starts[:, None] + along).reshape(-1)
    return starts + (offsets[-1] if offsets else 0)


def _hash(places: Tensor, bits: Tensor) -> Tensor:
    z = places.mul_(_signed(_PLACE)).bitwise_xor_(
        bits.to(torch.int64, copy=True).mul_(_signed(_BITS))
    )
    sums = []
    for _ in range(2):
        for factor in (_FIRST, _SECOND):
            z.bitwise_xor_((z >> 33).bitwise_and_((1 << 31) - 1)).mul_(_signed(factor))
        z.bitwise_xor_((z >> 33).bitwise_and_((1 << 31) - 1))
        sums.append(z.sum())
    return torch.stack(sums)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


# ------------------------------------------------------------------------------------ all ranks


def _reduce(sharded: dict[str, tuple[Any, Tensor]]) -> None:
    """Add up over the ranks, in place: by one reduction, if a mesh spans all ranks.

    Tensors on a part of the largest mesh have copies on the other parts. Of those the one that
    holds the first rank counts.
    """
    meshes: dict[Any, list[str]] = {}
    for name, (tensor, _) in sharded.items():
        meshes.setdefault(tensor.device_mesh, []).append(name)
    left = sorted(meshes, key=lambda mesh: -int(mesh.size()))
    while left:
        base, *left = left
        ranks = set(_ranks(base))
        within = [mesh for mesh in left if ranks.issuperset(_ranks(mesh))]
        left = [mesh for mesh in left if mesh not in within]
        names = list(meshes[base])
        for mesh in within:
            names += meshes[mesh]
            if min(ranks) not in _ranks(mesh):
                for name in meshes[mesh]:
                    sharded[name][1].zero_()
        _add_up(base, [sharded[name][1] for name in names])


def _ranks(mesh: Any) -> list[int]:
    ranks: list[int] = mesh.mesh.flatten().tolist()
    return ranks


def _add_up(mesh: Any, sums: list[Tensor]) -> None:
    import torch.distributed as dist

    together = torch.stack([one.to(mesh.device_type) for one in sums])
    spans = mesh.size() == dist.get_world_size()
    for group in [dist.group.WORLD] if spans else mesh.get_all_groups():
        dist.all_reduce(together, group=group)
    for one, total in zip(sums, together, strict=True):
        one.copy_(total)
