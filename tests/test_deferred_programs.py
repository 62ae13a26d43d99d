"""Random programs of initializations, aliases, reads and edits end alike with and without
`deferred`.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastinit

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64]


class Machine:
    """Tensors that a program works on, and what it has read of them."""

    def __init__(self, deferring: bool) -> None:
        self.deferring = deferring
        self.pool: list[Tensor] = [torch.zeros(6, 4)]
        self.read: list[bytes] = []
        self.arrays: list[Any] = []

    def run(self, program: list[tuple[str, int, int, int]]) -> None:
        for name, i, j, k in program:
            a, b = self.pool[i % len(self.pool)], self.pool[j % len(self.pool)]
            try:
                with torch.no_grad():
                    made = STEPS[name](self, a, b, k)
            except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
                self.read.append(type(error).__name__.encode())
                continue
            if isinstance(made, Tensor):
                self.pool.append(made)
            elif made is not None:
                self.read.append(repr(made).encode())

    def outcome(self) -> list[bytes]:
        """Every byte read and left, and every version."""
        found = list(self.read)
        for tensor in self.pool:
            found.append(bytes_of(tensor))
            found.append(f"{tensor._version} {tensor.requires_grad} {tensor.stride()}".encode())
        found += [array.tobytes() for array in self.arrays]
        return found


def bytes_of(tensor: Tensor) -> bytes:
    plain = torch.empty_like(tensor, memory_format=torch.contiguous_format).copy_(tensor.detach())
    return bytes(plain.flatten().view(torch.uint8).tolist())


def new(machine: Machine, a: Tensor, b: Tensor, k: int) -> Tensor:
    tensor = torch.empty(2 + k % 5, 4, dtype=DTYPES[k % len(DTYPES)])
    return nn.Parameter(nn.init.normal_(tensor)) if k % 2 else nn.init.uniform_(tensor)


def layer(machine: Machine, a: Tensor, b: Tensor, k: int) -> Tensor:
    made = nn.Embedding(6, 4, padding_idx=k % 6) if k % 2 else nn.Linear(4, 6)
    return made.weight


def drop(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    if len(machine.pool) > 1:
        machine.pool.pop(k % len(machine.pool))


def tie(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    machine.pool[k % len(machine.pool)] = a


def set_data(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    a.data = b.data


def numpy(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    machine.arrays.append(a.detach().numpy())


def edit_array(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    if machine.arrays:
        machine.arrays[k % len(machine.arrays)][...] = k


def nested(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    with fastinit.deferred(seed=k) if machine.deferring else fastinit.patch(seed=k):
        nn.init.normal_(a)
        nn.init.uniform_(b[:2])


def failed(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    with (
        contextlib.suppress(KeyError),
        fastinit.deferred(seed=k) if machine.deferring else fastinit.patch(seed=k),
    ):
        nn.init.normal_(a)
        nn.init.orthogonal_(b)
        raise KeyError


def inferred(machine: Machine, a: Tensor, b: Tensor, k: int) -> None:
    with torch.inference_mode():
        made = nn.init.normal_(torch.empty(3, 4))
        FILLS[k % len(FILLS)](a, k % 7)  # no part: views lose their version under any dispatch mode
        for tensor in (a, made):
            read = [tensor.to(torch.float64), tensor.T.contiguous(), tensor.T.reshape(-1)]
            machine.read += [bytes_of(copied) for copied in read]


def sparse(machine: Machine, a: Tensor, b: Tensor, k: int) -> list[Any]:
    target = a.detach().to_sparse()
    nn.init.normal_(b)
    target.zero_() if k % 2 else target.copy_(b.detach().to_sparse())
    return target.to_dense().tolist()


def part(tensor: Tensor, k: int) -> Tensor:
    """One of the ways to look at some of a tensor, or all of it."""
    ways: list[Callable[[], Tensor]] = [
        lambda: tensor,
        lambda: tensor[k % tensor.shape[0]],
        lambda: tensor[:, 1:3],
        lambda: tensor.T,
        lambda: tensor.data,
        lambda: tensor[::2],
        lambda: tensor.detach()[1:],
        lambda: tensor.view(-1)[2:9],
        lambda: torch.view_as_real(tensor)[..., 0],
    ]
    return ways[k % len(ways)]()


FILLS: list[Callable[[Tensor, float], object]] = [
    lambda t, x: nn.init.normal_(t, std=x + 0.1),
    lambda t, x: nn.init.uniform_(t, -x, 1.0),
    lambda t, x: nn.init.trunc_normal_(t, std=x + 0.1),
    lambda t, x: nn.init.kaiming_uniform_(t, a=x),
    lambda t, x: nn.init.xavier_normal_(t, gain=x + 0.5),
    lambda t, x: nn.init.orthogonal_(t),
    lambda t, x: nn.init.sparse_(t, 0.3),
    lambda t, x: nn.init.zeros_(t),
    lambda t, x: nn.init.constant_(t, x),
    lambda t, x: nn.init.eye_(t),
    lambda t, x: t.normal_(0, x),
    lambda t, x: t.data.uniform_(),
    lambda t, x: fastinit.lecun_normal_(t, key=int(x)),
    lambda t, x: fastinit.normal_(t, generator=torch.Generator().manual_seed(int(x))),
    lambda t, x: t.exponential_(),
    lambda t, x: t.copy_(torch.randn(t.shape)),
]
# What a step returns is read, if it is no tensor; a tensor joins the others.
STEPS: dict[str, Callable[[Machine, Tensor, Tensor, int], Any]] = {
    "new": new,
    "layer": layer,
    "fill": lambda m, a, b, k: void(FILLS[k % len(FILLS)](a, k % 7)),
    "fill part": lambda m, a, b, k: void(FILLS[k % len(FILLS)](part(a, k // 16), k % 7)),
    "alias": lambda m, a, b, k: part(a, k),
    "parameter": lambda m, a, b, k: nn.Parameter(a),
    "drop": drop,
    "tie": tie,
    "set data": set_data,
    "item": lambda m, a, b, k: a.flatten()[k % a.numel()].item(),
    "tolist": lambda m, a, b, k: part(a, k).tolist(),
    "repr": lambda m, a, b, k: repr(part(a, k)),
    "clone": lambda m, a, b, k: part(a, k).clone(),
    "deepcopy": lambda m, a, b, k: copy.deepcopy(a),
    "pickle": lambda m, a, b, k: pickle.loads(pickle.dumps(a)),
    "to": lambda m, a, b, k: a.to(DTYPES[k % len(DTYPES)]),
    "cat": lambda m, a, b, k: torch.cat([a, b]),
    "edit": lambda m, a, b, k: void(part(a, k).mul_(2).add_(1)),
    "copy": lambda m, a, b, k: void(part(a, k).copy_(part(b, k))),
    "setitem": lambda m, a, b, k: a.__setitem__(k % a.shape[0], b[k % b.shape[0]]),
    "pointer": lambda m, a, b, k: void(a.data_ptr()),
    "numpy": numpy,
    "edit array": edit_array,
    "storage": lambda m, a, b, k: a.untyped_storage().tolist()[:4],
    "set": lambda m, a, b, k: torch.empty(0, dtype=a.dtype).set_(a),
    "swap": lambda m, a, b, k: void(torch.utils.swap_tensors(a, b) if type(a) is type(b) else 0),
    "nested": nested,
    "failed": failed,
    "inferred": inferred,
    "sparse": sparse,
    "randn": lambda m, a, b, k: torch.randn(3, 4) if k % 2 else torch.rand_like(a),
    "state": lambda m, a, b, k: torch.get_rng_state().sum().item(),
}


def void(_: object) -> None:
    """Forget what a step returns."""


def outcome(program: list[tuple[str, int, int, int]], seed: int | None, deferring: bool) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        machine = Machine(deferring)
        with fastinit.deferred(seed) if deferring else fastinit.patch(seed=seed):
            machine.run(program)
        return [*machine.outcome(), torch.get_rng_state().numpy().tobytes()]


FILLING = ["fill", "fill part", "layer", "new", "alias"]
step = st.tuples(
    st.one_of(st.sampled_from(FILLING), st.sampled_from(sorted(STEPS))),
    st.integers(0, 7),
    st.integers(0, 7),
    st.integers(0, 255),
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(program=st.lists(step, min_size=1, max_size=25), seed=st.sampled_from([None, 3]))
def test_programs_end_alike(program: list[tuple[str, int, int, int]], seed: int | None) -> None:
    assert outcome(program, seed, True) == outcome(program, seed, False)
