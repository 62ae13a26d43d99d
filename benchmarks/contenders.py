"""A case that fills one tensor: who takes part, and how each one does the same job.

A contender that is not installed, or has no way to do the job, is left out. A new one is a function
and a line in `PEERS`. Must not know clocks.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

import fastinit
from benchmarks.goals import Goal
from benchmarks.laws import Law, Normal, Uniform, require
from benchmarks.timing import Contender, Metrics

Call = Callable[[], object]
OURS, STOCK, CEILING, TORCH_KEYED = "fastinit", "torch.nn.init", "fill_", "torch.func._random"
KEY = fastinit.Key(0x9E3779B97F4A7C15, 12345)
CONSTANT = 0.5


@dataclass(frozen=True)
class TensorCase:
    """One call that fills one tensor."""

    function: str
    law: Law
    arguments: Mapping[str, float | str] = field(default_factory=dict)
    shape: tuple[int, ...] = (4096, 4096)
    dtype: torch.dtype = torch.float32
    threads: int = 2
    only: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    baseline: str = STOCK
    note: str = ""  # tells it from another of its kind

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.function} {str(self.dtype).removeprefix('torch.')} {size}{self.note}"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def contenders(self) -> list[Contender]:
        return fill_contenders(self, self.threads, self.only)


Factory = Callable[[TensorCase, Tensor], Call | None]


def optional(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def stock(case: TensorCase, tensor: Tensor) -> Call | None:
    function = getattr(torch.nn.init, case.function)
    if "batch_axis" in case.arguments:  # which stock lacks: axis 0, one matrix after the other
        return lambda: [function(one) for one in tensor]
    return partial(function, tensor, **case.arguments)


def ours(case: TensorCase, tensor: Tensor) -> Call | None:
    return partial(getattr(fastinit, case.function), tensor, **case.arguments)


def ceiling(case: TensorCase, tensor: Tensor) -> Call | None:
    """Writes every byte once and computes nothing: no fill that writes all can beat it by much."""
    return partial(tensor.fill_, CONSTANT)


def torch_keyed(case: TensorCase, tensor: Tensor) -> Call | None:
    """The stateless functions of torch 2.14 and later."""
    module = optional("torch.func._random")
    if module is None:
        return None
    key = KEY.to_tensor()
    try:
        module.uniform_(key, torch.empty(4))
    except NotImplementedError:  # torch 2.13 has the module, but no kernel for the CPU
        return None
    if type(case.law) is Normal:
        return partial(module.normal_, key, tensor, mean=case.law.mean, std=case.law.std)
    if type(case.law) is Uniform:
        return partial(module.uniform_, key, tensor, low=case.law.low, high=case.law.high)
    return None


def numpy_with(bit_generator: str, case: TensorCase, tensor: Tensor) -> Call | None:
    """NumPy draws a standard law into the same memory and then scales it in place."""
    if tensor.dtype not in (torch.float32, torch.float64):
        return None
    generator = np.random.Generator(getattr(np.random, bit_generator)(0))
    array, law = tensor.numpy(), case.law
    if type(law) is Normal:

        def normal() -> None:
            generator.standard_normal(out=array, dtype=array.dtype)
            np.multiply(array, law.std, out=array)

        return normal
    if type(law) is Uniform:

        def uniform() -> None:
            generator.random(out=array, dtype=array.dtype)
            np.multiply(array, law.high - law.low, out=array)
            np.add(array, law.low, out=array)

        return uniform
    return None


def intel_mkl(case: TensorCase, tensor: Tensor) -> Call | None:
    """mkl_random draws float64 into an array of its own; copying it over is part of the job."""
    module = optional("mkl_random")
    if module is None or tensor.dtype not in (torch.float32, torch.float64):
        return None
    state, law, shape = module.MKLRandomState(0, brng="SFMT19937"), case.law, case.shape
    if type(law) is Normal:
        draw = partial(state.normal, law.mean, law.std, shape, method="BoxMuller2")
    elif type(law) is Uniform:
        draw = partial(state.uniform, law.low, law.high, shape)
    else:
        return None
    return lambda: tensor.copy_(torch.from_numpy(draw()))


def jax_compiled(case: TensorCase, tensor: Tensor) -> Call | None:
    """JAX draws into an array of its own, by compiled code that takes all cores; copied over."""
    jax = optional("jax")
    if jax is None or tensor.dtype != torch.float32 or case.threads == 1:
        return None
    law, shape, key = case.law, case.shape, jax.random.key(0)
    if type(law) is Normal:
        draw = jax.jit(lambda key: law.mean + law.std * jax.random.normal(key, shape))
    elif type(law) is Uniform:
        draw = jax.jit(lambda key: jax.random.uniform(key, shape, minval=law.low, maxval=law.high))
    else:
        return None
    return lambda: tensor.copy_(torch.from_dlpack(draw(key).block_until_ready()))


PEERS: dict[str, Factory] = {
    STOCK: stock,
    OURS: ours,
    CEILING: ceiling,
    TORCH_KEYED: torch_keyed,
    "NumPy SFC64": partial(numpy_with, "SFC64"),
    "NumPy Philox": partial(numpy_with, "Philox"),
    "mkl_random": intel_mkl,
    "JAX": jax_compiled,
}


def call_of(factory: Factory, case: TensorCase, tensor: Tensor) -> Call | None:
    """What the factory makes; None also where a package it needs has other names or breaks down."""
    try:
        return factory(case, tensor)
    except Exception as error:
        print(f"  without {factory}: {error}", file=sys.stderr, flush=True)
        return None


def fill_contenders(case: TensorCase, threads: int, only: tuple[str, ...] = ()) -> list[Contender]:
    """The contenders of a case, all of which write into one tensor."""
    tensor = torch.empty(case.shape, dtype=case.dtype)
    contenders = []
    for name, factory in PEERS.items():
        if only and name not in only:
            continue
        call = call_of(factory, case, tensor)
        if call is None:
            continue
        check = check_ours if name == OURS else check_ceiling if name == CEILING else check_peer
        contenders.append(Contender(name, call, partial(check, case, tensor, call), threads))
    return contenders


def check_peer(case: TensorCase, tensor: Tensor, call: Call) -> Metrics:
    """Every element written, and the law not missed by far."""
    tensor.fill_(torch.nan)
    call()
    require(bool(tensor.isfinite().all()), "elements left unwritten, or not finite")
    return case.law.plausible(tensor)


def check_ours(case: TensorCase, tensor: Tensor, call: Call) -> Metrics:
    """The same, and: one key gives the same bits twice, those of the stream, and exactly the law.

    With a key only the source of the key differs from the call that is timed.
    """
    check_peer(case, tensor, call)
    fill = partial(call, key=KEY)
    first = fill().clone()
    tensor.fill_(torch.nan)
    fill()
    require(bool(torch.equal(first, tensor)), "the same key gave two different results")
    return case.law.strict(tensor, (KEY.seed, KEY.offset))


def check_ceiling(case: TensorCase, tensor: Tensor, call: Call) -> Metrics:
    call()
    require(bool((tensor == CONSTANT).all()), "fill_ did not fill")
    return {}
