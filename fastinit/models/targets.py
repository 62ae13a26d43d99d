"""Where the values go: the tensors of a model, off meta if need be, as they were in all else.

Owns what is refused before anything is written, the making of tensors on a device, and that ties,
attributes, hooks and requires_grad are kept. Must not know what is written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._fill.extension import native
from fastinit._fill.placements import is_dtensor, pieces
from fastinit.models.boxes import Piece
from fastinit.models.names import (
    Held,
    Places,
    first_names,
    held_by,
    tensor_at,
    tensors_at,
)

_FLAG = "_is_hf_initialized"


def refuse(module: nn.Module) -> tuple[Held, list[str]]:
    """Refuse a model with tensors that cannot be filled, before any is.

    Returns: what it holds, and the names of what is on meta.

    Raises:
        TypeError: not a module.
        ValueError: lazy parameters, flattened ones, some without storage, or memory that must not
            be written to; all of them are named.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    held = held_by(module)
    kinds = {type(site.link[0]).__name__ for site in held.sites}
    if "FullyShardedDataParallel" in kinds:
        raise ValueError(
            "module is wrapped in FullyShardedDataParallel, which has flattened its parameters; "
            "initialize it before it is wrapped, or use fully_shard"
        )
    names = [*held.parameters, *held.buffers]
    tensors = [*tensors_at(held.parameters), *tensors_at(held.buffers)]
    addresses = native.addresses(tensors)
    lazy, bare, meta = [], [], []
    for at, address in enumerate(addresses):
        if address:  # the rule
            continue
        tensor = tensors[at]
        if tensor.is_meta:
            meta.append(names[at])
        if is_lazy(tensor):
            lazy.append(names[at])
        elif _lacks_storage(tensor):
            bare.append(names[at])
        elif is_dtensor(tensor):
            addresses[at] = native.addresses([tensor._local_tensor])[0]  # type: ignore[attr-defined]
    if lazy:
        raise ValueError(
            f"module has lazy parameters, whose shapes are not known yet: {', '.join(lazy)}; run "
            "a batch through it first"
        )
    if bare:
        raise ValueError(
            f"module has parameters without storage: {', '.join(bare)}; gather or allocate them "
            "first (ZeRO-3 and a resharded FSDP module free them)"
        )
    read_only = _read_only(addresses)
    if read_only:
        pairs = zip(names, addresses, strict=True)
        fixed = ", ".join(name for name, address in pairs if address in read_only)
        raise ValueError(
            f"module has weights in memory that is read-only: {fixed}; clone them first"
        )
    return held, meta


def _lacks_storage(tensor: Tensor) -> bool:
    if getattr(tensor, "ds_shape", None) is not None and tensor.numel() == 0:
        return True  # DeepSpeed's
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    if local.is_meta or local.layout is not torch.strided or local.numel() == 0:
        return False
    return local.untyped_storage().size() == 0


def _read_only(addresses: Sequence[int]) -> set[int]:
    """Those in pages that the process may not write, where the system tells."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    ordered = sorted(addresses)
    found: set[int] = set()
    for line in lines:
        extent, permissions = line.split()[:2]
        if permissions[1] != "w":
            begin, end = (int(bound, 16) for bound in extent.split("-"))
            found.update(ordered[bisect_left(ordered, begin) : bisect_left(ordered, end)])
    return found


def pieces_of(tensor: Tensor) -> Sequence[Piece]:
    """What of the tensor this process holds."""
    return pieces(tensor) if is_dtensor(tensor) else [(tensor, None)]


def leave_meta(
    module: nn.Module, held: Held, device: torch.device, dtype: torch.dtype | None
) -> None:
    """Put tensors on the device in the place of those on meta, unwritten.

    Args:
        module: whose tensors are replaced.
        held: where they are.
        device: where to.
        dtype: of parameters of floating or complex numbers; None keeps each one's own.
    """
    parameters = held.parameters
    for names in first_names(parameters).values():
        old = tensor_at(parameters[names[0]])
        if old.is_meta:
            _replace(parameters, names, _made_parameter(old, device, _dtype_for(old, dtype)))
    buffers = held.buffers
    for names in first_names(buffers).values():
        old = tensor_at(buffers[names[0]])
        if old.is_meta:
            _replace(buffers, names, _made(old, device, old.dtype))
    for part in module.modules():
        if hasattr(part, "_init_flat_weights"):  # the RNNs hold their weights twice
            part._init_flat_weights()  # type: ignore[operator]
        if hasattr(part, "_get_fsdp_state"):  # so does FSDP2, which looks when it is moved
            part._apply(lambda tensor: tensor, recurse=False)  # type: ignore[no-untyped-call]


def change_dtype(held: Held, dtype: torch.dtype) -> None:
    """Give parameters that hold values already the dtype that is asked for."""
    for module_of, word in held.parameters.values():
        parameter = module_of._parameters[word]
        assert parameter is not None
        wanted = _dtype_for(parameter, dtype)
        if not parameter.is_meta and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)


def _dtype_for(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None or not tensor.is_floating_point():
        return tensor.dtype
    return dtype


def _replace(places: Places, names: Sequence[str], made: Tensor) -> None:
    for name in names:
        module, word = places[name]
        held: dict[str, Any] = (
            module._parameters if isinstance(made, nn.Parameter) else module._buffers
        )
        held[word] = made


def _made(old: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An unwritten tensor on the device, sharded and laid out as `old` is."""
    if not is_dtensor(old):
        return torch.empty_like(old, device=device, dtype=dtype, requires_grad=False)
    from torch.distributed.tensor import DTensor

    local = torch.empty_like(old._local_tensor, device=device, dtype=dtype, requires_grad=False)
    return DTensor.from_local(
        local,
        old.device_mesh,
        old.placements,
        run_check=False,
        shape=old.shape,
        stride=old.stride(),
    )


def _made_parameter(old: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    with torch.no_grad():
        made = nn.Parameter(_made(old, device, dtype), requires_grad=old.requires_grad)
    if type(old) is not nn.Parameter and isinstance(old, nn.Parameter):
        made.__class__ = type(old) if type(made) is nn.Parameter else type(made)
    for word, value in vars(old).items():
        if word != _FLAG:
            setattr(made, word, value)
    for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        held = getattr(old, hooks, None)
        if held:
            setattr(made, hooks, held)
    return made


def meta_attributes(module: nn.Module) -> list[str]:
    """Tensors on meta that a module holds as plain attributes, where nothing else finds them."""
    found = []
    for name, part in module.named_modules():
        for word, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                found.append(f"{name}.{word}" if name else word)
    return found
