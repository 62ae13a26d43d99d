"""The CUDA cases: what is measured on a GPU, and who takes part.

Goals are those of a fill that is limited by memory: a share of `fill_`, the ceiling, and a multiple
of stock. Peers that are not installed, or cannot do the job, are left out. No figure exists until
somebody runs `make gpu`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import contenders as who
from benchmarks.cases import Case, TensorCase, orthogonal_shapes
from benchmarks.contenders import CEILING, KEY, OURS, STOCK, TORCH_KEYED, Call, Factory, optional
from benchmarks.goals import at_least
from benchmarks.laws import Normal, Orthogonal, Truncated, Uniform, require
from benchmarks.many import ManyCase
from benchmarks.timing import Contender, Metrics

# Peers


def torch_keyed(case: TensorCase, tensor: Tensor) -> Call | None:
    module = optional("torch.func._random")
    if module is None:
        return None
    key = KEY.to_tensor(device="cuda")
    if type(case.law) is Normal:
        return partial(module.normal_, key, tensor, mean=case.law.mean, std=case.law.std)
    if type(case.law) is Uniform:
        return partial(module.uniform_, key, tensor, low=case.law.low, high=case.law.high)
    return None


def inductor(case: TensorCase, tensor: Tensor) -> Call | None:
    """Inductor's own Philox in a Triton kernel."""
    if type(case.law) is not Normal or optional("triton") is None:
        return None
    mean, std = case.law.mean, case.law.std

    @torch.compile(fullgraph=True)
    def fill(target: Tensor) -> None:
        target.normal_(mean, std)

    return partial(fill, tensor)


def triton_randn(case: TensorCase, tensor: Tensor) -> Call | None:
    if type(case.law) is not Normal or optional("triton") is None:
        return None
    from benchmarks.triton_peer import fill_normal

    return partial(fill_normal, tensor, case.law.mean, case.law.std)


def cupy_with(bit_generator: str | None, case: TensorCase, tensor: Tensor) -> Call | None:
    """CuPy draws a standard normal into memory of its own; scaling it into ours is part of it."""
    cupy = optional("cupy")
    if cupy is None or type(case.law) is not Normal or tensor.dtype != torch.float32:
        return None
    bits = getattr(cupy.random, bit_generator)(0) if bit_generator else None
    generator = cupy.random.Generator(bits) if bits else cupy.random.default_rng(0)
    array, mean, std = cupy.from_dlpack(tensor), case.law.mean, case.law.std

    def fill() -> None:
        draw = generator.standard_normal(array.shape, dtype=array.dtype)
        cupy.multiply(draw, std, out=array)
        if mean != 0.0:
            cupy.add(array, mean, out=array)

    return fill


PEERS: dict[str, Factory] = {
    STOCK: who.stock,
    OURS: who.ours,
    CEILING: who.ceiling,
    TORCH_KEYED: torch_keyed,
    "torch.compile": inductor,
    "Triton tl.randn": triton_randn,
    "CuPy default": partial(cupy_with, None),
    "CuPy Philox": partial(cupy_with, "Philox4x3210"),
}


# Cases


@dataclass(frozen=True)
class CudaCase(TensorCase):
    """One call that fills one tensor on the GPU."""

    def contenders(self) -> list[Contender]:
        tensor = torch.empty(self.shape, dtype=self.dtype, device="cuda")
        found = []
        for name, factory in PEERS.items():
            call = None
            if not self.only or name in self.only:
                call = who.call_of(factory, self, tensor)
            if call is None:
                continue
            check = {OURS: check_ours, CEILING: who.check_ceiling}.get(name, who.check_peer)
            found.append(Contender(name, call, partial(check, self, tensor, call), self.threads))
        return found


def check_ours(case: TensorCase, tensor: Tensor, call: Call) -> Metrics:
    """The same key gives the same bits twice; copied to the CPU, they are those of the stream."""
    who.check_peer(case, tensor, call)
    fill = partial(call, key=KEY)
    first = fill().clone()
    tensor.fill_(torch.nan)
    fill()
    require(bool(torch.equal(first, tensor)), "the same key gave two different results")
    return case.law.strict(first.cpu(), (KEY.seed, KEY.offset))


def cases(quick: bool = False) -> list[Case]:
    """All cases. The tensors have 4 GiB, or 1 GiB on a GPU with little memory."""
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    elements = 2**20 if quick else 2**30 if free >= 24 * 2**30 else 2**28
    std, edge = 0.02, 0.04
    normal = CudaCase(
        "normal_",
        Normal(std),
        {"std": std},
        (elements,),
        goals=(at_least(0.65, CEILING, OURS), at_least(2.0, STOCK, OURS)),
    )
    uniform = CudaCase(
        "uniform_",
        Uniform(-edge, edge),
        {"a": -edge, "b": edge},
        (elements,),
        goals=(at_least(0.90, CEILING, OURS), at_least(2.0, STOCK, OURS)),
    )
    truncated = CudaCase(
        "trunc_normal_",
        Truncated(std, low=-edge, high=edge),
        {"std": std, "a": -edge, "b": edge},
        (elements,),
        goals=(at_least(10.0, STOCK, OURS),),
    )
    twice_stock = (at_least(2.0, STOCK, OURS),)
    square = 128 if quick else 2048
    orthogonal = CudaCase("orthogonal_", Orthogonal(), shape=(square, square), only=(STOCK, OURS))
    bfloat16, small = torch.bfloat16, (STOCK, OURS, CEILING)
    return [
        uniform,
        normal,
        truncated,
        replace(normal, dtype=bfloat16, goals=twice_stock),
        replace(uniform, dtype=bfloat16, goals=()),
        replace(normal, dtype=torch.float64, goals=(), only=small),
        replace(normal, shape=(16, 16), goals=(), only=small),
        ManyCase(device="cuda", goals=(at_least(20.0, STOCK, OURS),)),
        # Stock is cuSOLVER here: geqrf and orgqr.
        orthogonal,
        *(replace(orthogonal, shape=shape) for shape in orthogonal_shapes(square)),
        replace(orthogonal, arguments={"batch_axis": 0}, shape=(min(1000, square), 64, 64)),
    ]
