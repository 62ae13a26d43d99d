# ruff: noqa: N999  (the name every torch extension has)
"""The compiled extension: fills in place and returns None; see `csrc/bindings.cpp`.

The fills exist with the same arguments as operators of `torch.ops.fastinit`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Generator, Tensor

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
def philox(counter: Sequence[int], key: Sequence[int]) -> Sequence[int]: ...
def child_key(seed: int, offset: int, index: int) -> tuple[int, int]: ...
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
def emulate_cuda(blocks: int, threads: int = 1) -> None: ...
