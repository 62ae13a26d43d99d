# ruff: noqa: N999  (the name every torch extension has)
"""The compiled extension: fills in place and returns None; see `csrc/bindings.cpp`.

The fills exist with the same arguments as operators of `torch.ops.fastinit`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Generator, Tensor, device

_Region: TypeAlias = tuple[Sequence[int], Sequence[int]]
_Law: TypeAlias = tuple[int, float, float, float, float, _Region | None]  # fastinit._fill.laws.Law

def uniform_(
    self: Tensor,
    low: float,
    high: float,
    generator: Generator | None = None,
    key: Sequence[int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def normal_(
    self: Tensor,
    mean: float,
    std: float,
    scale: Tensor | None = None,
    generator: Generator | None = None,
    key: Sequence[int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def trunc_normal_(
    self: Tensor,
    mean: float,
    std: float,
    low: float,
    high: float,
    scale: Tensor | None = None,
    generator: Generator | None = None,
    key: Sequence[int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def variance_scaling_(
    self: Tensor,
    distribution: str,
    gain: float,
    scale: Tensor | None,
    fan_mode: str,
    nonlinearity: str,
    parameter: float,
    in_axis: Sequence[int] | None,
    out_axis: Sequence[int] | None,
    batch_axis: Sequence[int] | None,
    groups: int,
    generator: Generator | None = None,
    key: Sequence[int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def sparse_(
    self: Tensor,
    sparsity: float,
    std: float,
    scale: Tensor | None = None,
    generator: Generator | None = None,
    key: Sequence[int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def orthogonal_(
    self: Tensor,
    gain: float,
    scale: Tensor | None,
    batch_axis: Sequence[int] | None,
    generator: Generator | None = None,
    key: Sequence[int] | None = None,
    key_tensor: Tensor | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def multi_fill_(
    self: Sequence[Tensor],
    distribution: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    key: Sequence[int],
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None: ...
def measure_(
    rows: Tensor, peaks: Tensor, values: Tensor, inner: int, low: float, high: float
) -> None: ...

class Wave:
    """Initializations that touch nothing of each other's; see `csrc/ops/records.h`."""

    @property
    def device(self) -> device: ...
    @property
    def actions(self) -> list[tuple[Tensor, Callable[[Tensor], object]]]: ...
    def run_fills(self) -> None: ...
    def run_constants(self) -> None: ...

class Records:
    """Initializations that wait; see `csrc/ops/records.h`."""

    def __len__(self) -> int: ...
    @property
    def storages(self) -> int: ...
    def admits(self, tensor: Tensor) -> bool: ...
    def add_fill(self, tensor: Tensor, law: _Law, key: Sequence[int]) -> bool: ...
    def add_constant(self, tensor: Tensor, value: float, bump: bool) -> bool: ...
    def add_action(self, tensor: Tensor, action: Callable[[Tensor], object]) -> bool: ...
    def full(self, tensor: Tensor) -> bool: ...
    def overwritten(self, tensor: Tensor) -> None: ...
    def survives_write(self, tensor: Tensor) -> bool: ...
    def expose(self, tensor: Tensor) -> None: ...
    def of(self, tensor: Tensor) -> list[tuple[Any, ...]]: ...
    def left_by(self, tensor: Tensor) -> list[tuple[Any, ...]]: ...
    def last(self, tensor: Tensor) -> _Law | None: ...
    def allow_edits(self, tensor: Tensor) -> None: ...
    def editable(self, tensor: Tensor) -> _Law | None: ...
    def edit(self, tensor: Tensor, mean: float, std: float, low: float, high: float) -> None: ...
    def take(self, tensors: Sequence[Tensor]) -> list[Wave]: ...
    def take_all(self) -> list[Wave]: ...

def memory_of(tensor: Tensor) -> list[int]: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> Sequence[int]: ...
def child_key(seed: int, offset: int, index: int) -> tuple[int, int]: ...
def named_keys(seed: int, offset: int, names: Sequence[str]) -> list[tuple[int, int]]: ...
def addresses(tensors: Sequence[Tensor]) -> list[int]: ...
def first_alike(tensors: Sequence[Tensor]) -> list[int]: ...
def versions(tensors: Sequence[Tensor]) -> list[int | None]: ...
def calculate_gain(nonlinearity: str, parameter: float) -> float: ...
def fans(
    shape: Sequence[int],
    in_axis: Sequence[int] | None,
    out_axis: Sequence[int] | None,
    batch_axis: Sequence[int] | None,
    groups: int,
) -> tuple[int, int]: ...
def std_and_bounds(
    shape: Sequence[int],
    distribution: str,
    complex: bool,
    gain: float,
    fan_mode: str,
    nonlinearity: str,
    parameter: float,
    in_axis: Sequence[int] | None,
    out_axis: Sequence[int] | None,
    batch_axis: Sequence[int] | None,
    groups: int,
) -> tuple[float, float, float]: ...
def stream_version() -> int: ...
def build_info() -> dict[str, Any]: ...
def instruction_sets() -> list[str]: ...
def force_instruction_set(name: str | None) -> None: ...
def cpu_generator_key(generator: Generator | None) -> tuple[int, int]: ...
def cuda_generator_key(seed: int, offset: int) -> tuple[int, int]: ...
def emulate_cuda(blocks: int, threads: int = 1, bytes: int = 0) -> None: ...
