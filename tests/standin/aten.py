"""torch's own CUDA operators, done by the CPU's on the stand-in's memory: a pytest plugin.

The stand-in has no translation of torch's kernels. Its device memory is host memory, so that each
operator that would launch one can be given to the CPU instead. Left to torch is what it does by
calls of the CUDA runtime: allocation, views, copies of whole memory, and single elements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# These neither compute nor read values, or do it by a copy of the runtime.
KEPT = {
    "aten::_local_scalar_dense", "aten::_pin_memory", "aten::_reshape_alias", "aten::as_strided",
    "aten::copy_", "aten::empty.memory_format", "aten::empty_strided", "aten::is_pinned",
    "aten::is_set_to", "aten::record_stream", "aten::resize_", "aten::set_",
    "aten::set_.source_Storage", "aten::set_.source_Storage_storage_offset",
    "aten::set_.source_Tensor", "aten::unfold", "aten::view", "aten::view_as_complex",
    "aten::view_as_real",
}  # fmt: skip


def on_cpu(tensor: Tensor) -> Tensor:
    """A CPU tensor on the same memory."""
    if not tensor.is_cuda:
        return tensor
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    same = torch.empty(0, dtype=tensor.dtype).set_(
        whole, tensor.storage_offset(), tensor.size(), tensor.stride()
    )
    same = same.conj() if tensor.is_conj() else same
    return torch._neg_view(same) if tensor.is_neg() else same


def next_draw(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """A CPU generator for one draw of a CUDA generator, which moves on."""
    own = generator or torch.cuda.default_generators[device.index]
    offset = own.get_offset()
    own.set_offset(offset + 4)
    return torch.Generator().manual_seed((own.initial_seed() + 0x9E3779B97F4A7C15 * offset) % 2**64)


def by_the_cpu(op: torch._ops.OpOverload) -> Callable[..., Any]:
    names = [argument.name for argument in op._schema.arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        torch.cuda.synchronize()
        devices = [torch.device("cuda", torch.cuda.current_device())]
        pairs: list[tuple[Tensor, Tensor]] = []

        def to_cpu(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_cuda:
                devices.append(value.device)
                pairs.append((value, on_cpu(value)))
                return pairs[-1][1]
            if isinstance(value, torch.device) and value.type == "cuda":
                return torch.device("cpu")
            return value

        def to_cuda(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            for cuda, cpu in pairs:
                if value is cpu:
                    if cpu.size() != cuda.size():
                        on_cpu(cuda.resize_(cpu.size())).copy_(cpu)
                    return cuda
            result = torch.empty_strided(
                value.size(), value.stride(), dtype=value.dtype, device=devices[-1]
            )
            on_cpu(result).copy_(value)
            return result

        given = dict(zip(names, args, strict=False)) | kwargs
        args, kwargs = tree_map(to_cpu, (args, kwargs))
        if "generator" in names:
            args = args[: names.index("generator")]
            kwargs["generator"] = next_draw(given.get("generator"), devices[-1])
        return tree_map(to_cuda, op(*args, **kwargs))

    return run


def overload(name: str) -> torch._ops.OpOverload | None:
    packet, _, variant = name.removeprefix("aten::").partition(".")
    try:
        return getattr(getattr(torch.ops.aten, packet), variant or "default")
    except AttributeError:
        return None


COPY = torch.library.get_kernel("aten::copy_", "CUDA")


def copy_(keys: Any, to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Copies of memory as they are; what converts or moves elements by the CPU."""
    same = to.dtype == source.dtype and to.is_contiguous() and source.is_contiguous()
    if same and to.size() == source.size():
        COPY.call_boxed(keys, to, source, non_blocking)
    else:
        torch.cuda.synchronize()
        on_cpu(to).copy_(on_cpu(source))
    return to


def replace_operators() -> torch.library.Library:
    library = torch.library.Library("aten", "IMPL")
    library.impl("copy_", copy_, "CUDA", with_keyset=True, allow_override=True)
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA"):
        op = overload(name) if name.startswith("aten::") and name not in KEPT else None
        if op is not None:
            library.impl(op, by_the_cpu(op), "CUDA", allow_override=True)
    return library


torch.backends.cudnn.enabled = False  # whose operators the CPU lacks
LIBRARY = replace_operators()
